-- The done mark, in the transaction of the rows; refuses when the epoch ended while the chunk was at work. $6 is what the session had
-- counted of HOT updates at the claim, and null where a partitioned table's parent counts none. $7 and $8 name the leaf that was written:
-- while this transaction has its lock on that, nobody can rename or detach it, so it is the run's leaf if that has the name now. $9 says
-- that nothing was looked at, because the leaf is no part of the table any more.
with there as (
    select $8::text is null
           or exists (select from {schema}.chunk c
                        join {schema}.run r using (run_id)
                        join pg_catalog.pg_class l on l.oid = r.leaves[c.upto_key[1]::int]
                        join pg_catalog.pg_namespace n on n.oid = l.relnamespace
                       where c.run_id = $1 and c.seq = $2 and n.nspname = $7 and l.relname = $8
                         and (l.oid = r.table_oid or r.table_oid in (select relid from pg_catalog.pg_partition_ancestors(l.oid)))) as is_there
)
update {schema}.chunk c
   set state = 'done', rows_done = $4, attempts = attempts + 1, took_ms = $5, settled_at = clock_timestamp(),
       settled_epoch = $3, error_sqlstate = null, error_message = null,
       passed_over = $9,
       rows_hot = pg_catalog.pg_stat_get_xact_tuples_hot_updated(
                      case when r.leaves is null then r.table_oid else r.leaves[c.upto_key[1]::int] end) - $6
  from {schema}.run r, there
 where c.run_id = $1 and c.seq = $2 and c.state <> 'done' and r.run_id = $1 and r.epoch = $3
returning c.seq, (pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_catalog.pg_lsn)::int8, c.rows_hot, there.is_there
