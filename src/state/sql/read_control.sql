select state, epoch, control_version, tuned::text,
       (pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_catalog.pg_lsn)::int8
  from {schema}.run where run_id = $1
