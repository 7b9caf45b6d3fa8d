-- The newest run of a name, or the run of a number.
select run_id, name, direction, state, epoch, control_version, table_name, table_oid, key::text, ceiling, cut_upto, fully_cut,
       next_seq, spec_digest, statement, remaining, session::text, table_rows_estimate, tuned::text, workers,
       rate_limit_rows_per_s, chunk_time_ms, chunk_rows, throttle_verdict, throttle_reason, runner_host, runner_pid, failure,
       created_by, to_json(created_at)#>>'{}', to_json(started_at)#>>'{}', to_json(updated_at)#>>'{}',
       to_json(finished_at)#>>'{}', reverses, spec_text, undo, undo_columns::text,
       to_json(pruned_at)#>>'{}', conflicts, throttle_by, window_name, window_until, wal_limit_bytes_per_s,
       spent::text, wal_bytes_per_row, leaves, leaf_ceilings::text, walked, walk_before
  from {schema}.run
 where name = $1 or run_id = $2
 order by run_id desc
 limit 1
