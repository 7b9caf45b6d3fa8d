update {schema}.run set conflicts = $2 where run_id = $1
