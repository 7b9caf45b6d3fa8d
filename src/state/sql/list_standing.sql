-- $1 name, $2 table, $3 its name. Forward runs of a name on a table whose rows stand, newest first: run, rows written, whether what takes
-- them back is there, the reverse run that left some of them, how many rows and partitions that left, and whether it is this very table:
-- one that was restored or built anew has the name alone. What a reverse run left does not
-- count any more once somebody ran it again all the same.
select r.run_id, written.rows, r.undo <> 'none' and r.pruned_at is null, back.run_id, rest.rows, rest.leaves, r.table_oid = $2
  from {schema}.run r
  cross join lateral (select coalesce(sum(c.rows_done), 0)::bigint as rows from {schema}.chunk c where c.run_id = r.run_id) as written
  left join lateral (select b.run_id from {schema}.run b where b.reverses = r.run_id and b.state = 'succeeded' order by b.run_id desc limit 1) as back on true
  cross join lateral (
      select (select count(*) from {schema}.conflict f join {schema}.run b using (run_id) where b.reverses = r.run_id and f.kind = 'changed')
             + (select count(*) from {schema}.quarantine q where q.run_id = back.run_id) as rows,
             (select count(distinct c.upto_key[1]) from {schema}.chunk c join pg_catalog.pg_class l on l.oid = r.leaves[c.upto_key[1]::int]
               where c.run_id = back.run_id and c.passed_over) as leaves
  ) as rest
 where r.name = $1 and (r.table_oid = $2 or r.table_name = $3) and r.direction = 'forward' and r.state in ('cancelled', 'succeeded') and written.rows > 0
   and (back.run_id is null
        or rest.rows + rest.leaves > 0
           and back.run_id > (select coalesce(max(a.run_id), 0) from {schema}.run a where a.name = $1 and a.is_again))
 order by r.run_id desc
