select seq, after_key, upto_key, keys, stripe, stripes
  from {schema}.chunk
 where run_id = $1 and state = 'pending' and seq > $2
 order by seq
 limit $3
