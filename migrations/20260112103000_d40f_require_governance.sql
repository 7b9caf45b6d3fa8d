-- NOT NULL without a scan under a strong lock: the check is validated first, and proves it.
-- revises: c2e9
-- requires: governance_phases@verified

-- up
ALTER TABLE public.skills ADD CONSTRAINT skills_governance_phases_nn CHECK (governance_phases IS NOT NULL) NOT VALID;
ALTER TABLE public.skills VALIDATE CONSTRAINT skills_governance_phases_nn;
ALTER TABLE public.skills ALTER COLUMN governance_phases SET NOT NULL;
ALTER TABLE public.skills DROP CONSTRAINT skills_governance_phases_nn;

-- down
ALTER TABLE public.skills ALTER COLUMN governance_phases DROP NOT NULL;
-- verify: SELECT NOT EXISTS (SELECT FROM public.skills WHERE governance_phases IS NULL)
