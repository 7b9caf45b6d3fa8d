select to_json(l.at)#>>'{}', l.run_id, l.who, l.event, l.detail
  from {schema}.log l
  join {schema}.run r using (run_id)
 where r.name = $1
 order by l.log_id
