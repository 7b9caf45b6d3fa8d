select to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), who, revision, event, detail
  from {schema}.revision_log order by log_id
