update {schema}.run
   set throttle_verdict = $2, throttle_reason = $3, throttle_by = $4, window_name = $5, window_until = $6, spent = $7::text::jsonb,
       wal_bytes_per_row = $8, wal_bytes = wal_bytes + $9, wal_rows = wal_rows + $10,
       updated_at = clock_timestamp()
 where run_id = $1
