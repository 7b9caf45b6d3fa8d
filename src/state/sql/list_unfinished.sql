select run_id from {schema}.run where state not in ('cancelled', 'succeeded') order by run_id
