-- $1 run that went leaf by leaf. Partitions with something in them that were not there or were empty when it began.
select quote_ident(n.nspname) || '.' || quote_ident(c.relname)
  from {schema}.run r
  cross join lateral pg_catalog.pg_partition_tree(r.table_oid) l
  join pg_catalog.pg_class c on c.oid = l.relid
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where r.run_id = $1 and r.leaves is not null and l.isleaf and pg_catalog.pg_relation_size(l.relid) > 0
   and not exists (select from unnest(r.leaves) with ordinality as begun (relid, number)
                    where begun.relid = l.relid and r.leaf_ceilings->(begun.number::int - 1) <> 'null')
 order by 1
