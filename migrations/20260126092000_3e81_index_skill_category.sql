-- The index under the new name, beside the old one.
-- revises: 29f4

-- up
CREATE INDEX CONCURRENTLY skills_skill_category ON public.skills (skill_category);

-- down
DROP INDEX CONCURRENTLY public.skills_skill_category;
