-- The done mark, in the transaction of the rows; refuses when the epoch ended while the chunk was at work.
update {schema}.chunk
   set state = 'done', rows_done = $4, attempts = attempts + 1, took_ms = $5, settled_at = clock_timestamp(),
       settled_epoch = $3, error_sqlstate = null, error_message = null
 where run_id = $1 and seq = $2 and state <> 'done'
   and exists (select from {schema}.run where run_id = $1 and epoch = $3)
returning seq, (pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_catalog.pg_lsn)::int8
