-- $1 run in physical order, $2 how many at most. Chunks of its sweep that are still to be done, and whether one of them failed.
select c.seq, c.after_key, c.upto_key, c.keys, c.stripe, c.stripes, c.state = 'failed'
  from {schema}.chunk c
 where c.run_id = $1 and c.state <> 'done' and c.upto_key[1]::int > (select walked from {schema}.run where run_id = $1)
 order by c.seq
 limit $2
