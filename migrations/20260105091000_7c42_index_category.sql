-- The application lists skills by category. Built without blocking it, outside of a transaction.
-- revises: 3f1a

-- up
CREATE INDEX CONCURRENTLY skills_category ON public.skills (category);

-- down
DROP INDEX CONCURRENTLY public.skills_category;
