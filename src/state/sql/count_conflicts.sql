-- Rows left alone or altered, and rows overwritten by force, which are no conflict any more. A row with two before-images may be noted twice.
select count(distinct key) filter (where kind <> 'overwritten'), count(distinct key) filter (where kind = 'overwritten')
  from {schema}.conflict
 where run_id = $1
