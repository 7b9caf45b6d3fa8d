-- Second of two steps: the column goes, and its values with it.
-- revises: 6b13
-- stop: no code may use legacy_rank any more
-- irreversible: nobody kept the values

-- up
ALTER TABLE public.skills DROP COLUMN legacy_rank;
