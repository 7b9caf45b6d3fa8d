update {schema}.run set throttle_verdict = $2, throttle_reason = $3, updated_at = clock_timestamp() where run_id = $1
