update {schema}.run set vacuums = vacuums + 1, vacuum_ms = vacuum_ms + $2 where run_id = $1
