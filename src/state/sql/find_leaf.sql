-- $1 run, $2 number of a leaf. No row when it is dropped or no part of the table any more.
select n.nspname::text, l.relname::text, l.oid
  from {schema}.run r
  join pg_catalog.pg_class l on l.oid = r.leaves[$2]
  join pg_catalog.pg_namespace n on n.oid = l.relnamespace
 where r.run_id = $1 and (l.oid = r.table_oid or r.table_oid in (select relid from pg_catalog.pg_partition_ancestors(l.oid)))
