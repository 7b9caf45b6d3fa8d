-- Columns that the backfills of the example fill. Nullable or with a constant default, so that adding them is instant.
-- revises: 7c42

-- up
ALTER TABLE public.skills
    ADD COLUMN governance_phases text[],
    ADD COLUMN quota integer NOT NULL DEFAULT 10,
    ADD COLUMN owner text;

-- down
ALTER TABLE public.skills
    DROP COLUMN owner,
    DROP COLUMN quota,
    DROP COLUMN governance_phases;
