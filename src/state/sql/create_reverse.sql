-- A run whose chunks are already cut. $2 is the run whose chunks it takes: the forward run's done ones, last first, or what a cancelled
-- reverse run left open, passed over or set aside, in its order. Chunks that wrote no row have nothing to give back.
with source as (
    select c.*, row_number() over (order by case when r.direction = 'forward' then -c.seq else c.seq end) as place
      from {schema}.chunk c
      join {schema}.run r using (run_id)
     where c.run_id = $2
       and case when r.direction = 'forward' then c.state = 'done' and c.rows_done > 0
                else c.state <> 'done' or c.passed_over
                     or exists (select from {schema}.quarantine q where q.run_id = c.run_id and q.seq = c.seq) end
), made as (
    insert into {schema}.run
        (name, direction, reverses, state, table_name, table_oid, key, ceiling, cut_upto, fully_cut, next_seq, spec_digest,
         spec_text, statement, remaining, session, table_rows_estimate, created_by, undo, undo_columns, conflicts, leaves, leaf_ceilings, leaf_bounds, leaf_ties, walked, walk_before)
    select name, 'reverse', run_id, 'running', table_name, table_oid, key, ceiling, ceiling, true,
           (select count(*) + 1 from source), spec_digest, spec_text, $3, null, session,
           (select coalesce(sum(keys), 0) from source), $4, undo, undo_columns, $5, leaves, leaf_ceilings, leaf_bounds, leaf_ties, walked, walk_before
      from {schema}.run
     where run_id = $1
       and not exists (select from {schema}.run where name = $6 and run_id > $7)
    on conflict (name) where state not in ('cancelled', 'succeeded') do nothing
    returning run_id
), copied as (
    insert into {schema}.chunk (run_id, seq, after_key, upto_key, stripe, stripes, keys, source_seq)
    select made.run_id, s.place, s.after_key, s.upto_key, s.stripe, s.stripes, s.keys, coalesce(s.source_seq, s.seq)
      from source s, made
)
select run_id from made
