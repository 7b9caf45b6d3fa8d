select state, epoch, control_version, tuned::text from {schema}.run where run_id = $1
