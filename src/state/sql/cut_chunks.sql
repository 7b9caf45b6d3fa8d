-- Appends the slices that end at the given bounds, each beginning where the one before it ends, and moves the cut. Of $6 stripes, each
-- passes over all the slices before the next one does. Nothing is written when the epoch is over or somebody else has cut.
with bound as (
    select ordinality, (entry->>1)::integer as keys, (entry->>2)::jsonb as only_keys,
           array(select jsonb_array_elements_text(entry->0)) as upto_key
      from jsonb_array_elements($3::text::jsonb) with ordinality as b (entry, ordinality)
), moved as (
    update {schema}.run
       set cut_upto = (select upto_key from bound order by ordinality desc limit 1),
           fully_cut = $4,
           next_seq = next_seq + $6 * (select count(*) from bound),
           chunk_rows = $5
     where run_id = $1 and epoch = $7 and cut_upto is not distinct from $2
    returning next_seq - $6 * (select count(*) from bound) as first_seq
), slice as (
    select ordinality, coalesce(lag(upto_key) over (order by ordinality), $2) as after_key, upto_key, keys, only_keys,
           count(*) over () as slices
      from bound
)
insert into {schema}.chunk (run_id, seq, after_key, upto_key, stripe, stripes, only_keys, keys)
select $1, first_seq + j * slices + ordinality - 1, after_key, upto_key, j, $6, only_keys,
       keys * (j + 1)::bigint / $6 - keys * j::bigint / $6
  from slice, moved, generate_series(0, $6 - 1) as j
returning seq, after_key, upto_key, keys, stripe, stripes
