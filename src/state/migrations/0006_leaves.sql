-- Runs that go through a partitioned table leaf by leaf.

-- The leaves in the run's order, and the greatest key of each when the run began, null for an empty one. Bounds of such a run begin with
-- the number of a leaf, from 1. Null for a run that goes through the table as a whole.
alter table {schema}.run
    add column leaves oid[],
    add column leaf_ceilings jsonb,
    add check ((leaves is null) = (leaf_ceilings is null)),
    add check (cardinality(leaves) = jsonb_array_length(leaf_ceilings));

-- Done without a look, because its leaf was dropped or detached.
alter table {schema}.chunk add column passed_over boolean not null default false;
