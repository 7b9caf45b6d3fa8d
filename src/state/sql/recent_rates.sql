-- Keys and rows settled in each of the last whole 5-second slices, newest last. Read through the index on settled_at.
select coalesce(sum(keys), 0)::bigint, coalesce(sum(rows_done), 0)::bigint
  from generate_series(0, 11) as slice
  left join {schema}.chunk c
    on c.run_id = $1
   and c.settled_at > clock_timestamp() - make_interval(secs => (12 - slice) * 5)
   and c.settled_at <= clock_timestamp() - make_interval(secs => (11 - slice) * 5)
 group by slice
 order by slice
