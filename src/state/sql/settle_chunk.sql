-- The done mark, in the transaction of the rows; refuses when the epoch ended while the chunk was at work. $6 is what the session had
-- counted of HOT updates at the claim, and null where a partitioned table's parent counts none.
update {schema}.chunk c
   set state = 'done', rows_done = $4, attempts = attempts + 1, took_ms = $5, settled_at = clock_timestamp(),
       settled_epoch = $3, error_sqlstate = null, error_message = null,
       rows_hot = pg_catalog.pg_stat_get_xact_tuples_hot_updated(
                      case when r.leaves is null then r.table_oid else r.leaves[c.upto_key[1]::int] end) - $6
  from {schema}.run r
 where c.run_id = $1 and c.seq = $2 and c.state <> 'done' and r.run_id = $1 and r.epoch = $3
returning c.seq, (pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_catalog.pg_lsn)::int8, c.rows_hot
