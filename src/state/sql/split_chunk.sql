-- The chunk keeps the lower part, (after, middle]; a new chunk takes the rest, so each key still lies in exactly one. $7 is where the rest
-- ends, where that is not where the chunk ended: a walked chunk's before-images are halved by key.
with upper as (
    update {schema}.run
       set next_seq = next_seq + 1
     where run_id = $1 and epoch = $3
    returning next_seq - 1 as seq
), lower as (
    update {schema}.chunk c
       set upto_key = $4, keys = $5, attempts = 0, state = 'pending'
      from {schema}.chunk old, upper
     where c.run_id = $1 and c.seq = $2 and c.state <> 'done' and old.run_id = c.run_id and old.seq = c.seq
    returning old.upto_key, old.stripe, old.stripes, old.source_seq, old.only_keys
)
insert into {schema}.chunk (run_id, seq, after_key, upto_key, stripe, stripes, keys, source_seq, only_keys)
select $1, upper.seq, $4, coalesce($7, lower.upto_key), lower.stripe, lower.stripes, $6, lower.source_seq, lower.only_keys
  from upper, lower
returning seq, after_key, upto_key, keys, stripe, stripes
