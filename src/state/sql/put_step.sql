insert into {schema}.revision_step (revision, direction, n, digest, statement, state, took_ms)
values ($1, $2, $3, $4, $5, $6, $7)
on conflict (revision, direction, n) do update
   set state = excluded.state, digest = excluded.digest, statement = excluded.statement, took_ms = excluded.took_ms,
       tries = revision_step.tries + case when excluded.state = 'running' then 1 else 0 end
