-- A tier for each skill. The default is the guard: it serves the rows to come, the backfill those that are there.
-- revises: d40f

-- up
ALTER TABLE public.skills ADD COLUMN tier text;
ALTER TABLE public.skills ALTER COLUMN tier SET DEFAULT 'free';

-- down
ALTER TABLE public.skills DROP COLUMN tier;
