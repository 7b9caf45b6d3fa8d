-- Columns that the backfills of the example fill. Nullable, so that adding them is instant.
-- revises: 7c42

-- up
ALTER TABLE public.skills ADD COLUMN governance_phases text[];
ALTER TABLE public.skills ADD COLUMN tier text NOT NULL DEFAULT 'free';
ALTER TABLE public.skills ADD COLUMN quota integer NOT NULL DEFAULT 10;
ALTER TABLE public.skills ADD COLUMN owner text;

-- down
ALTER TABLE public.skills DROP COLUMN owner;
ALTER TABLE public.skills DROP COLUMN quota;
ALTER TABLE public.skills DROP COLUMN tier;
ALTER TABLE public.skills DROP COLUMN governance_phases;
