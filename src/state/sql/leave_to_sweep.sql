-- $1 run, $2 chunk of its walk, $3 epoch, $4 the keys that the chunk leaves to the sweep, as a JSON array. Part of the chunk's transaction.
update {schema}.chunk c
   set only_keys = $4::text::jsonb
  from {schema}.run r
 where c.run_id = $1 and c.seq = $2 and r.run_id = $1 and r.epoch = $3
returning c.seq
