-- Appends the chunks that end at the given bounds, each beginning where the one before it ends, and moves the cut.
with bound as (
    select ordinality, (entry->>1)::integer as keys,
           array(select jsonb_array_elements_text(entry->0)) as upto_key
      from jsonb_array_elements($3::text::jsonb) with ordinality as b (entry, ordinality)
), moved as (
    update {schema}.run
       set cut_upto = (select upto_key from bound order by ordinality desc limit 1),
           fully_cut = $4,
           next_seq = next_seq + (select count(*) from bound),
           chunk_rows = $5
     where run_id = $1
    returning next_seq - (select count(*) from bound) as first_seq
)
insert into {schema}.chunk (run_id, seq, after_key, upto_key, keys)
select $1, first_seq + ordinality - 1,
       coalesce(lag(upto_key) over (order by ordinality), $2), upto_key, keys
  from bound, moved
returning seq, after_key, upto_key, keys, attempts
