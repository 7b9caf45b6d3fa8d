-- What the chunks done cost, in up to twenty stretches of the order they were done in, oldest first.
select sum(keys)::float8, sum(rows_done)::float8, sum(took_ms)::float8 / 1000
  from (select keys, rows_done, took_ms, ntile(20) over (order by settled_at) as stretch
          from {schema}.chunk where run_id = $1 and state = 'done' and took_ms is not null) done
 group by stretch
 order by stretch
