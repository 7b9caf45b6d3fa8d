-- Everything about progress is derived from the chunks.
select count(*) filter (where state = 'done'),
       count(*) filter (where state = 'failed'),
       count(*) filter (where state = 'pending'),
       coalesce(sum(rows_done), 0)::bigint,
       coalesce(sum(keys) filter (where state = 'done'), 0)::bigint,
       coalesce(sum(keys), 0)::bigint,
       to_json(max(settled_at))#>>'{}',
       coalesce(sum(keys) filter (where settled_epoch = (select epoch from {schema}.run where run_id = $1)), 0)::bigint,
       sum(rows_hot)::bigint,
       sum(rows_done) filter (where rows_hot is not null)::bigint
  from {schema}.chunk
 where run_id = $1
