-- The chunk map as evidence: chunks, those not done, chunks that do not begin or end where others of the same rows do, and whether the
-- ceiling is reached. Text equality is enough: bounds are copies of one another. Where stripes begin or end, all of them must, next to a
-- slice that is whole, or to all stripes of another number.
with map as (
    select seq, state, after_key, upto_key, stripe, stripes from {schema}.chunk where run_id = $1
), begun as (
    select after_key as at from map group by after_key, stripes having count(distinct stripe) = stripes
), ended as (
    select upto_key as at from map group by upto_key, stripes having count(distinct stripe) = stripes
)
select count(*),
       count(*) filter (where c.state <> 'done'),
       count(*) filter (where not (
           case when c.after_key is null then exists (select from begun where at is null)
                else exists (select from map p where p.upto_key = c.after_key and (p.stripe, p.stripes) = (c.stripe, c.stripes))
                     or (c.after_key in (select at from begun) and c.after_key in (select at from ended)) end
           and
           (c.upto_key = r.ceiling
            or exists (select from map n where n.after_key = c.upto_key and (n.stripe, n.stripes) = (c.stripe, c.stripes))
            or (c.upto_key in (select at from begun) and c.upto_key in (select at from ended)))))
       + count(*) - count(distinct (c.after_key, c.stripe, c.stripes)),
       r.ceiling in (select at from ended)
  from map c, {schema}.run r
 where r.run_id = $1
 group by r.ceiling
