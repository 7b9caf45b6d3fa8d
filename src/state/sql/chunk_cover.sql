-- The chunk map as evidence: chunks, those not done, chunks that do not begin where another ends, and whether the last ends at
-- the ceiling. Text equality is enough: bounds are copies of one another.
select count(*),
       count(*) filter (where c.state <> 'done'),
       count(*) filter (where not exists (
           select from {schema}.chunk p
            where p.run_id = c.run_id and p.stripe = c.stripe and p.upto_key = c.after_key
              and p.seq <> c.seq) and c.after_key is not null),
       bool_or(c.upto_key = r.ceiling)
  from {schema}.chunk c
  join {schema}.run r using (run_id)
 where c.run_id = $1
