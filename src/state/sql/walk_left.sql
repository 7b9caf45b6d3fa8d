-- $1 run in physical order, $2 whether in rounds. Chunks of its walk that are still to be done, and the keys that the others left to the sweep,
-- or set aside where there is none.
select count(*) filter (where c.state = 'pending'),
       coalesce(case when $2 then (select jsonb_agg(to_jsonb(q.key)) from {schema}.quarantine q where q.run_id = $1) else
                (select jsonb_agg(k.only_key)
                   from {schema}.chunk l, jsonb_array_elements(l.only_keys) as k (only_key)
                  where l.run_id = $1 and l.only_keys is not null and l.upto_key[1]::int <= (select walked from {schema}.run where run_id = $1)) end,
                '[]')::text
  from {schema}.chunk c
 where c.run_id = $1 and c.upto_key[1]::int <= (select walked from {schema}.run where run_id = $1)
