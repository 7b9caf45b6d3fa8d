-- First of two steps that drop legacy_rank: the application may leave it out.
-- revises: 4d96
-- ignore drop-not-null: it is about to go, and no reader of it is to be left

-- up
ALTER TABLE public.skills ALTER COLUMN legacy_rank DROP NOT NULL;

-- down
ALTER TABLE public.skills ADD CONSTRAINT skills_legacy_rank_nn CHECK (legacy_rank IS NOT NULL) NOT VALID;
ALTER TABLE public.skills VALIDATE CONSTRAINT skills_legacy_rank_nn;
ALTER TABLE public.skills ALTER COLUMN legacy_rank SET NOT NULL;
ALTER TABLE public.skills DROP CONSTRAINT skills_legacy_rank_nn;
