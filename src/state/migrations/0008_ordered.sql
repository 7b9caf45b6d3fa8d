-- Runs by place whose before-images must be given back in their order.

-- Only row versions that are older than this transaction are walked; null where a row may be met twice to no harm.
alter table {schema}.run add column walk_before bigint;
