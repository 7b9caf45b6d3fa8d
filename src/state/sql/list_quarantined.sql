select key, sqlstate, message, to_json(set_aside_at)#>>'{}'
  from {schema}.quarantine
 where run_id = $1
 order by quarantine_id
 limit $2
