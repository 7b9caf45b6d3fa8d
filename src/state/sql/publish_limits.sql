update {schema}.run
   set workers = $2, rate_limit_rows_per_s = $3, chunk_time_ms = $4, wal_limit_bytes_per_s = $5
 where run_id = $1
