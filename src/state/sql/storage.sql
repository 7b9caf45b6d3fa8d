-- What a run did to the table's storage: sizes before and now, null when the table is gone.
with tree as (
    select c.oid as relid from pg_catalog.pg_class c, {schema}.run r where r.run_id = $1 and c.oid = r.table_oid
    union
    select p.relid from {schema}.run r, pg_catalog.pg_partition_tree(r.table_oid) p where r.run_id = $1
)
select r.cut_by, r.heap_bytes, r.index_bytes,
       (select sum(pg_catalog.pg_relation_size(relid)) from tree)::int8,
       (select sum(pg_catalog.pg_indexes_size(relid)) from tree)::int8,
       r.vacuums, r.vacuum_ms, r.wal_bytes, r.wal_rows, (select relid::regclass::text from tree where relid = r.table_oid limit 1)
  from {schema}.run r
 where r.run_id = $1
