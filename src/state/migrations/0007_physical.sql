-- Runs in physical order: the table is walked by place in its heap, and then swept by key for what was moved out of the walk's way.

alter table {schema}.run
    -- How many of the leaves are walked: the first ones. Their bounds are places.
    add column walked integer not null default 0,
    -- The heap's file when the run began; a table that is rewritten gets another.
    add column walked_file oid;

-- Of a chunk of the walk the keys that it leaves to the sweep; of one of the sweep the only keys that it looks at, null for all.
alter table {schema}.chunk add column only_keys jsonb;
