insert into {schema}.revision (id, parents, title, digest, backfill, down_sql, irreversible, state, origin, applied_by)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
on conflict (id) do update
   set parents = excluded.parents, title = excluded.title, digest = excluded.digest, backfill = excluded.backfill,
       down_sql = excluded.down_sql, irreversible = excluded.irreversible, state = excluded.state,
       origin = excluded.origin, applied_by = excluded.applied_by, applied_at = clock_timestamp()
