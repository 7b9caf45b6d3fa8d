select key, kind, to_json(found_at)#>>'{}'
  from {schema}.conflict
 where run_id = $1
 order by conflict_id
 limit $2
