-- Finished forward runs with before-images that nobody is giving back: of a name, and finished before so many seconds.
select r.run_id
  from {schema}.run r
 where r.direction = 'forward' and r.undo = 'capture' and r.pruned_at is null
   and r.state in ('cancelled', 'succeeded')
   and ($1::text is null or r.name = $1)
   and ($2::float8 is null or r.finished_at < clock_timestamp() - make_interval(secs => $2))
   and not exists (select from {schema}.run u where u.name = r.name and u.state not in ('cancelled', 'succeeded'))
 order by r.run_id
