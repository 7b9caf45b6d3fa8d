-- A row with two before-images may be noted twice; it is told once.
select key, kind, to_json(min(found_at))#>>'{}'
  from {schema}.conflict
 where run_id = $1
 group by key, kind
 order by min(conflict_id)
 limit $2
