select to_json(finished_at + make_interval(secs => $2))#>>'{}', finished_at + make_interval(secs => $2) < clock_timestamp()
  from {schema}.run
 where run_id = $1 and finished_at is not null
