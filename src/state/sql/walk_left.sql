-- $1 run in physical order. Chunks of its walk that are still to be done, and the keys that the others left to the sweep.
select count(*) filter (where c.state = 'pending'),
       coalesce((select jsonb_agg(k.only_key)
                   from {schema}.chunk l, jsonb_array_elements(l.only_keys) as k (only_key)
                  where l.run_id = $1 and l.only_keys is not null and l.upto_key[1]::int <= (select walked from {schema}.run where run_id = $1)),
                '[]')::text
  from {schema}.chunk c
 where c.run_id = $1 and c.upto_key[1]::int <= (select walked from {schema}.run where run_id = $1)
