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
    -- What the rows of each leaf had in common when the run began, and when it succeeded, as SQL; empty for one that was no part of the
    -- table any more.
    add column leaf_bounds text[],
    add column leaf_bounds_end text[],
    -- Leaves whose rows, wherever they are, somebody has looked at.
    add column leaves_accepted integer[];

-- What the rows of partitions of a table have in common, so that it can be read again whatever the session.
create function {schema}.leaf_bounds(parent oid, leaves oid[])
returns text[]
language sql stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO'
set intervalstyle = 'postgres'
as $body$
    select pg_catalog.array_agg(case when parent in (select a.relid from pg_catalog.pg_partition_ancestors(leaf.relid) as a)
                                     then coalesce(pg_catalog.pg_get_partition_constraintdef(leaf.relid), '') else '' end order by leaf.place)
      from pg_catalog.unnest(leaves) with ordinality as leaf (relid, place)
$body$;
comment on function {schema}.leaf_bounds(oid, oid[]) is 'what the rows of partitions have in common';

-- Partitions that hold rows which belonged to another leaf when the run began, and which that had lost when it ended. Was it passed over,
-- or did it only lose a part, such rows may not be done; was it done and they lie in another leaf of the run now, they may be done twice.
-- Nobody can tell.
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
    lost record;
    columns text;
    ceiling text;
    own text;
    host oid;
begin
    select r.*, coalesce(r.leaf_bounds_end, {schema}.leaf_bounds(r.table_oid, r.leaves)) as bounds_now into run
      from {schema}.run r
     where r.run_id = of_run and r.leaves is not null and exists (select from pg_catalog.pg_class c where c.oid = r.table_oid);
    if not found then
        return;
    end if;
    select pg_catalog.string_agg(pg_catalog.format('backfill_moved.%I', part->>0), ', ' order by place) into columns
      from pg_catalog.jsonb_array_elements(run.key) with ordinality as key (part, place);
    for lost in
        select leaf.number, leaf.relid, run.leaf_bounds[leaf.number] as bound, run.leaf_ceilings->(leaf.number::int - 1) as ceiling,
               run.bounds_now[leaf.number] <> ''
               or exists (select from {schema}.chunk c
                           where c.run_id = of_run and c.passed_over and c.upto_key[1] = leaf.number::text) as is_open
          from pg_catalog.unnest(run.leaves) with ordinality as leaf (relid, number)
         where run.leaf_bounds[leaf.number] <> '' and run.leaf_ceilings->(leaf.number::int - 1) <> 'null'
           and run.leaf_bounds[leaf.number] <> run.bounds_now[leaf.number]
           and not coalesce(leaf.number = any (run.leaves_accepted), false)
    loop
        select pg_catalog.string_agg(pg_catalog.format('%L::%s', lost.ceiling->>(place::int - 1), part->>1), ', ' order by place) into ceiling
          from pg_catalog.jsonb_array_elements(run.key) with ordinality as key (part, place);
        own := case when lost.is_open then 'true' else 'backfill_moved.tableoid = any ($1)' end;
        begin
            perform pg_catalog.set_config('search_path', run.session->>'search_path', true),
                    pg_catalog.set_config('TimeZone', run.session->>'time_zone', true),
                    pg_catalog.set_config('DateStyle', run.session->>'date_style', true),
                    pg_catalog.set_config('IntervalStyle', run.session->>'interval_style', true);
            -- Through the table, which a caller may read who may not read its partitions.
            execute pg_catalog.format('select backfill_moved.tableoid from %s as backfill_moved
                                        where (%s) and (%s) <= (%s) and backfill_moved.tableoid <> $2 and %s limit 1',
                                      run.table_oid::regclass, lost.bound, columns, ceiling, own)
               into host using run.leaves, lost.relid;
            perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
            if host is not null then
                return next host::regclass::text;
            end if;
        exception when others then
            -- A column has another name, or the condition needs what is gone: what cannot be looked for is in doubt.
            return next pg_catalog.format('a partition that cannot be looked for (%s)', sqlerrm);
        end;
    end loop;
end
$body$;
comment on function {schema}.strays(bigint) is 'partitions that may hold rows a run missed or did twice';
