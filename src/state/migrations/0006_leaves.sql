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

-- Partitions that came to the table since a run began and hold keys of its chunks that were passed over. Such rows may have been moved
-- there from a partition that went away before its turn, and nobody can tell whether they are done.
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
    came regclass;
    passed record;
    columns text;
    behind text;
    upto text;
    is_there boolean;
begin
    select r.* into run from {schema}.run r where r.run_id = of_run and r.leaves is not null;
    if not found or not exists (select from {schema}.chunk c where c.run_id = of_run and c.passed_over) then
        return;
    end if;
    select pg_catalog.string_agg(pg_catalog.format('backfill_moved.%I', part->>0), ', ' order by place) into columns
      from pg_catalog.jsonb_array_elements(run.key) with ordinality as key (part, place);
    for came in
        select l.relid from pg_catalog.pg_partition_tree(run.table_oid) as l
         where l.isleaf and not exists (select from pg_catalog.unnest(run.leaves) with ordinality as begun (relid, number)
                                         where begun.relid = l.relid and run.leaf_ceilings->(begun.number::int - 1) <> 'null')
    loop
        for passed in
            select distinct c.after_key[2:] as after_key, c.upto_key[2:] as upto_key
              from {schema}.chunk c
             where c.run_id = of_run and c.passed_over
               and not run.table_oid in (select a.relid from pg_catalog.pg_partition_ancestors(run.leaves[c.upto_key[1]::int]) as a)
        loop
            select pg_catalog.string_agg(pg_catalog.format('%L::%s', passed.after_key[place], part->>1), ', ' order by place),
                   pg_catalog.string_agg(pg_catalog.format('%L::%s', passed.upto_key[place], part->>1), ', ' order by place)
              into behind, upto
              from pg_catalog.jsonb_array_elements(run.key) with ordinality as key (part, place);
            behind := case when passed.after_key is null then 'true' else pg_catalog.format('(%s) > (%s)', columns, behind) end;
            perform pg_catalog.set_config('search_path', run.session->>'search_path', true),
                    pg_catalog.set_config('TimeZone', run.session->>'time_zone', true),
                    pg_catalog.set_config('DateStyle', run.session->>'date_style', true),
                    pg_catalog.set_config('IntervalStyle', run.session->>'interval_style', true);
            execute pg_catalog.format('select exists (select from %s as backfill_moved where %s and (%s) <= (%s))',
                                      came, behind, columns, upto) into is_there;
            perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
            if is_there then
                return next came::text;
                exit;
            end if;
        end loop;
    end loop;
end
$body$;
comment on function {schema}.strays(bigint) is 'partitions that may hold rows a run passed over';
