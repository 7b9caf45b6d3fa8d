select distinct on (name) run_id from {schema}.run order by name, run_id desc
