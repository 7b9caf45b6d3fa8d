select id, parents, title, digest, backfill, down_sql, irreversible, state, origin, applied_by,
       to_char(applied_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
  from {schema}.revision order by position
