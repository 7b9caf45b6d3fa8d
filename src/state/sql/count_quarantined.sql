select count(*) from {schema}.quarantine where run_id = $1
