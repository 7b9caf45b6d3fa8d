-- The chunk map as evidence: chunks, those not done or of a leaf that was passed over and is a part of the table again, chunks that do not begin or end where others of the same rows do, and whether the
-- ceiling is reached. Text equality is enough: bounds are copies of one another. Where stripes begin or end, all of them must, next to a
-- slice that is whole, or to all stripes of another number; and what begins somewhere is cut into one number of stripes.
with returned as (
    select leaf.number
      from {schema}.run r, unnest(r.leaves) with ordinality as leaf (relid, number)
     where r.run_id = $1 and r.table_oid in (select a.relid from pg_catalog.pg_partition_ancestors(leaf.relid) as a)
), map as materialized (
    select seq, case when passed_over and upto_key[1]::int in (select number from returned) then 'returned' else state end as state,
           after_key, upto_key, stripe, stripes
      from {schema}.chunk where run_id = $1
), begun as (
    select after_key as at from map where after_key is not null
     group by after_key, stripes having count(distinct stripe) = stripes
), ended as (
    select upto_key as at from map group by upto_key, stripes having count(distinct stripe) = stripes
), joined as (
    select at from begun join ended using (at)
), checked as (
    select c.seq, c.state,
           (c.after_key is null or p.seq is not null or a.at is not null) as begins,
           (c.upto_key = r.ceiling or n.seq is not null or b.at is not null) as ends
      from {schema}.run r
      join map c on true
      left join map p on p.upto_key = c.after_key and p.stripe = c.stripe and p.stripes = c.stripes
      left join map n on n.after_key = c.upto_key and n.stripe = c.stripe and n.stripes = c.stripes
      left join joined a on a.at = c.after_key
      left join joined b on b.at = c.upto_key
     where r.run_id = $1
)
select (select count(*) from map),
       (select count(*) from map where state <> 'done'),
       (select count(*) from checked where not (begins and ends))
       -- What begins the table must be whole, and nothing may begin twice.
       + (select count(*) from (select stripes from map where after_key is null
                                 group by stripes having count(distinct stripe) < stripes) as torn)
       + (select count(*) - count(distinct (after_key, stripe)) from map),
       (select r.ceiling in (select at from ended) from {schema}.run r where r.run_id = $1)
