-- $1 run. Rows of leaves that were detached or dropped while it was at work are taken as they should be, wherever they are. What was passed over and does
-- not exist any more counts as done, and so does what is back and cannot be done for want of before-images; what is only detached may come
-- back.
with gone as (
    select leaf.number::int as number,
           exists (select from pg_catalog.pg_class l where l.oid = leaf.relid) as is_there,
           r.leaf_ties[leaf.number] <> (coalesce(r.leaf_ties_end, {schema}.leaf_ties(r.table_oid, r.leaves)))[leaf.number] as has_lost,
           r.table_oid in (select a.relid from pg_catalog.pg_partition_ancestors(leaf.relid) as a) as is_part
      from {schema}.run r, unnest(r.leaves) with ordinality as leaf (relid, number)
     where r.run_id = $1
), accepted as (
    update {schema}.run set leaves_accepted = coalesce(leaves_accepted, '{}') || (select array_agg(number) from gone where has_lost) where run_id = $1 returning run_id
)
update {schema}.chunk c set passed_over = false
  from accepted, gone
 where c.run_id = accepted.run_id and c.passed_over and c.upto_key[1]::int = gone.number and (gone.is_part or not gone.is_there)
