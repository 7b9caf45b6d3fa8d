-- Rows left alone or altered, and rows overwritten by force, which are no conflict any more.
select count(*) filter (where kind <> 'overwritten'), count(*) filter (where kind = 'overwritten')
  from {schema}.conflict
 where run_id = $1
