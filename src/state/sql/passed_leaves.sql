-- $1 run. Leaves whose chunks were passed over: number, name, chunks, and whether the leaf is a part of the table again, and whether
-- it is still a table.
select passed.leaf, coalesce(n.nspname || '.' || l.relname, 'a partition that was dropped'), passed.chunks,
       r.table_oid in (select relid from pg_catalog.pg_partition_ancestors(l.oid)), l.oid is not null
  from {schema}.run r
  cross join (select upto_key[1]::int as leaf, count(*) as chunks
                from {schema}.chunk where run_id = $1 and passed_over group by 1) as passed
  left join pg_catalog.pg_class l on l.oid = r.leaves[passed.leaf]
  left join pg_catalog.pg_namespace n on n.oid = l.relnamespace
 where r.run_id = $1
 order by 1
