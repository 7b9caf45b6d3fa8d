-- A run with an open chunk cannot succeed, whatever its runner believes.
-- $5 is a runner's epoch: one that was taken over may not decide any more. Operators give none.
update {schema}.run
   set state = $2,
       control_version = control_version + 1,
       failure = $4,
       updated_at = clock_timestamp(),
       -- What is done to the partitions after the first success is no matter of the run's.
       leaf_ties_end = case when $2 = 'succeeded' and leaves is not null
                            then coalesce(leaf_ties_end, {schema}.leaf_ties(table_oid, leaves)) else leaf_ties_end end,
       finished_at = case when $2 in ('cancelled', 'succeeded') then clock_timestamp() end
 where run_id = $1 and state = any($3) and ($5::integer is null or epoch = $5)
   and ($2 <> 'succeeded' or not exists (select from {schema}.chunk where run_id = $1 and state <> 'done'))
returning run_id
