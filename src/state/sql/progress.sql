-- Everything about progress is derived from the chunks. Of a run in rounds, whose key is the place in the heap, keys are those of the newest
-- round.
with latest as materialized (
    select max(c.upto_key[1]::int) as round
      from {schema}.chunk c join {schema}.run r using (run_id)
     where c.run_id = $1 and r.walked > 0 and r.key->0->>0 = 'ctid'
), met as (
    select c.*, case when l.round is null or c.upto_key[1]::int = l.round then c.keys else 0 end as keys_met
      from {schema}.chunk c, latest l
     where c.run_id = $1
)
select count(*) filter (where state = 'done'),
       count(*) filter (where state = 'failed'),
       count(*) filter (where state = 'pending'),
       coalesce(sum(rows_done), 0)::bigint,
       coalesce(sum(keys_met) filter (where state = 'done'), 0)::bigint,
       coalesce(sum(keys_met), 0)::bigint,
       to_json(max(settled_at))#>>'{}',
       coalesce(sum(keys_met) filter (where settled_epoch = (select epoch from {schema}.run where run_id = $1)), 0)::bigint,
       sum(rows_hot)::bigint,
       sum(rows_done) filter (where rows_hot is not null)::bigint
  from met
