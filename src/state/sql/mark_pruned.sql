update {schema}.run set pruned_at = clock_timestamp() where run_id = $1
