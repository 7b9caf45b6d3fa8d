-- Runs that go through a partitioned table leaf by leaf.

-- The leaves in the run's order, and the greatest key of each when the run began, null for an empty one. Bounds of such a run begin with
-- the number of a leaf, from 1. Null for a run that goes through the table as a whole.
alter table {schema}.run
    add column leaves oid[],
    add column leaf_ceilings jsonb,
    add check ((leaves is null) = (leaf_ceilings is null)),
    add check (cardinality(leaves) = jsonb_array_length(leaf_ceilings));

-- Done without a look, because its leaf was dropped or detached.
alter table {schema}.chunk add column passed_over boolean not null default false;

alter table {schema}.run
    -- What the rows of each leaf had in common when the run began, as SQL.
    add column leaf_bounds text[],
    -- On whose word rows that may have been moved are left as they are.
    add column moved_accepted text;

-- Partitions that hold rows which belonged to a leaf of the run when it began and that leaf is no part of the table any more. Was it passed
-- over, such rows may not be done; was it done and they lie in another leaf of the run now, they may be done twice. Nobody can tell.
create function {schema}.strays(of_run bigint)
returns setof text
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO'
set intervalstyle = 'postgres'
set row_security = off
as $body$
declare
    run record;
    gone record;
    columns text;
    ceiling text;
    own text;
    host oid;
begin
    select r.* into run from {schema}.run r where r.run_id = of_run and r.leaves is not null and r.moved_accepted is null;
    if not found then
        return;
    end if;
    select pg_catalog.string_agg(pg_catalog.format('backfill_moved.%I', part->>0), ', ' order by place) into columns
      from pg_catalog.jsonb_array_elements(run.key) with ordinality as key (part, place);
    for gone in
        select leaf.number, run.leaf_bounds[leaf.number] as bound, run.leaf_ceilings->(leaf.number::int - 1) as ceiling,
               exists (select from {schema}.chunk c
                        where c.run_id = of_run and c.passed_over and c.upto_key[1] = leaf.number::text) as was_passed_over
          from pg_catalog.unnest(run.leaves) with ordinality as leaf (relid, number)
         where not run.table_oid in (select a.relid from pg_catalog.pg_partition_ancestors(leaf.relid) as a)
           and run.leaf_bounds[leaf.number] <> '' and run.leaf_ceilings->(leaf.number::int - 1) <> 'null'
    loop
        select pg_catalog.string_agg(pg_catalog.format('%L::%s', gone.ceiling->>(place::int - 1), part->>1), ', ' order by place) into ceiling
          from pg_catalog.jsonb_array_elements(run.key) with ordinality as key (part, place);
        own := case when gone.was_passed_over then 'true' else 'backfill_moved.tableoid = any ($1)' end;
        perform pg_catalog.set_config('search_path', run.session->>'search_path', true),
                pg_catalog.set_config('TimeZone', run.session->>'time_zone', true),
                pg_catalog.set_config('DateStyle', run.session->>'date_style', true),
                pg_catalog.set_config('IntervalStyle', run.session->>'interval_style', true);
        -- Through the table, which a caller may read who may not read its partitions.
        execute pg_catalog.format('select backfill_moved.tableoid from %s as backfill_moved where (%s) and (%s) <= (%s) and %s limit 1',
                                  run.table_oid::regclass, gone.bound, columns, ceiling, own)
           into host using run.leaves;
        perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        if host is not null then
            return next host::regclass::text;
        end if;
    end loop;
end
$body$;
comment on function {schema}.strays(bigint) is 'partitions that may hold rows a run missed or did twice';
