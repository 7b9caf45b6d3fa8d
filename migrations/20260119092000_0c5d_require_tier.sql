-- NOT NULL by the validated check.
-- revises: f2a8
-- requires: tier@verified

-- up
ALTER TABLE public.skills ADD CONSTRAINT skills_tier_nn CHECK (tier IS NOT NULL) NOT VALID;
ALTER TABLE public.skills VALIDATE CONSTRAINT skills_tier_nn;
ALTER TABLE public.skills ALTER COLUMN tier SET NOT NULL;
ALTER TABLE public.skills DROP CONSTRAINT skills_tier_nn;

-- down
ALTER TABLE public.skills ALTER COLUMN tier DROP NOT NULL;
