-- $1 run in rounds, $2 epoch, $3 how many leaves it needs behind the one that cutting has come to. Whatever has been looked at is looked at
-- again.
with need as (
    select greatest(coalesce(cut_upto[1]::int, 1) + $3 - walked, 0) as more, leaf_ceilings->0 as ending
      from {schema}.run where run_id = $1
), further as (
    select more, ending->>0 as ending, coalesce((select jsonb_agg(one) from (select ending as one from generate_series(1, more)) as all_of_them), '[]') as ceilings
      from need
)
update {schema}.run r
   set leaves = r.leaves || array_fill(r.table_oid, array[more]),
       leaf_ceilings = r.leaf_ceilings || ceilings,
       walked = r.walked + more,
       ceiling = array[(r.walked + more)::text, ending],
       fully_cut = false
  from further
 where r.run_id = $1 and r.epoch = $2
returning r.run_id
