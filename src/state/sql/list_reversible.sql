-- Forward runs of a name that came to an end, wrote rows, kept what it takes to give them back, and were not taken back; newest first.
select r.run_id
  from {schema}.run r
 where r.name = $1 and r.direction = 'forward' and r.state in ('cancelled', 'succeeded')
   and r.undo <> 'none' and r.pruned_at is null
   and exists (select from {schema}.chunk c where c.run_id = r.run_id and c.rows_done > 0)
   and not exists (select from {schema}.run u where u.reverses = r.run_id and u.state = 'succeeded')
 order by r.run_id desc
