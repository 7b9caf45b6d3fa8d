-- $1 run. Partitions that hold rows and were not there when it began.
select l.relid::pg_catalog.regclass::text
  from {schema}.run r, pg_catalog.pg_partition_tree(r.table_oid) l
 where r.run_id = $1 and l.isleaf and l.relid::oid <> all (r.leaves)
 order by 1
