-- The new column is as good as the old one.
-- revises: 3e81
-- requires: skill_category@verified

-- up
ALTER TABLE public.skills ADD CONSTRAINT skills_skill_category_nn CHECK (skill_category IS NOT NULL) NOT VALID;
ALTER TABLE public.skills VALIDATE CONSTRAINT skills_skill_category_nn;
ALTER TABLE public.skills ALTER COLUMN skill_category SET NOT NULL;
ALTER TABLE public.skills DROP CONSTRAINT skills_skill_category_nn;

-- down
ALTER TABLE public.skills ALTER COLUMN skill_category DROP NOT NULL;
