-- Forward runs of a name that wrote rows and were not taken back, newest first; none of a time before the revision that starts it was
-- itself taken back: what those wrote went with its columns. Whether each can be taken back.
select r.run_id, r.undo <> 'none' and r.pruned_at is null, r.state in ('cancelled', 'succeeded'), r.undo, r.pruned_at is not null
  from {schema}.run r
 where r.name = $1 and r.direction = 'forward'
   and exists (select from {schema}.chunk c where c.run_id = r.run_id and c.rows_done > 0)
   and not exists (select from {schema}.run u where u.reverses = r.run_id and u.state = 'succeeded')
   and r.created_at > coalesce((select max(l.at) from {schema}.revision_log l
                                 where l.revision = $2 and l.event in ('taken back', 'stamped away')), '-infinity')
 order by r.run_id desc
