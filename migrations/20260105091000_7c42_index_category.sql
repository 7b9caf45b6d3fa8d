-- The application lists skills by category.
-- revises: 3f1a
-- transaction: none

-- up
CREATE INDEX CONCURRENTLY skills_category ON public.skills (category);

-- down
DROP INDEX CONCURRENTLY public.skills_category;
