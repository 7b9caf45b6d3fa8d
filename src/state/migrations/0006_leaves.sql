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
    -- What ties each leaf to the table, when the run began and when it first succeeded; empty for one that was no part of it.
    add column leaf_ties text[],
    add column leaf_ties_end text[],
    -- Leaves whose rows, wherever they are, somebody has looked at.
    add column leaves_accepted integer[],
    -- Somebody said that rows of earlier runs may be written once more.
    add column is_again boolean not null default false;

-- What the rows of partitions have in common, so that it can be read again whatever the session.
create function {schema}.leaf_bounds(leaves oid[])
returns text[]
language sql stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO'
set intervalstyle = 'postgres'
as $body$
    select pg_catalog.array_agg(coalesce(pg_catalog.pg_get_partition_constraintdef(leaf.relid), '') order by leaf.place)
      from pg_catalog.unnest(leaves) with ordinality as leaf (relid, place)
$body$;
comment on function {schema}.leaf_bounds(oid[]) is 'what the rows of partitions have in common';

-- What ties partitions to a table: another transaction's work once they, or what is between, were detached and attached again.
create function {schema}.leaf_ties(parent oid, leaves oid[])
returns text[]
language sql stable
set search_path = pg_catalog, pg_temp
as $body$
    select pg_catalog.array_agg(
               case when parent in (select a.relid from pg_catalog.pg_partition_ancestors(leaf.relid) as a)
                    then coalesce((select pg_catalog.string_agg(i.xmin::text, ' ' order by i.inhrelid) from pg_catalog.pg_inherits as i
                                    where i.inhrelid in (select a.relid from pg_catalog.pg_partition_ancestors(leaf.relid) as a)
                                      and i.inhrelid <> parent
                                      and i.inhrelid not in (select a.relid from pg_catalog.pg_partition_ancestors(parent) as a)), '')
                    else '' end order by leaf.place)
      from pg_catalog.unnest(leaves) with ordinality as leaf (relid, place)
$body$;
comment on function {schema}.leaf_ties(oid, oid[]) is 'what ties partitions to a table';

-- Partitions that hold rows which belonged to another leaf when the run began, one that was detached or dropped before the run's end. Such
-- rows may not be done, or done twice: nobody can tell.
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
    host oid;
begin
    select r.*, coalesce(r.leaf_ties_end, {schema}.leaf_ties(r.table_oid, r.leaves)) as ties_now into run
      from {schema}.run r
     where r.run_id = of_run and r.leaves is not null and exists (select from pg_catalog.pg_class c where c.oid = r.table_oid);
    if not found then
        return;
    end if;
    select pg_catalog.string_agg(pg_catalog.format('backfill_moved.%I', part->>0), ', ' order by place) into columns
      from pg_catalog.jsonb_array_elements(run.key) with ordinality as key (part, place);
    for lost in
        select leaf.number, leaf.relid, run.leaf_bounds[leaf.number] as bound, run.leaf_ceilings->(leaf.number::int - 1) as ceiling
          from pg_catalog.unnest(run.leaves) with ordinality as leaf (relid, number)
         where run.leaf_bounds[leaf.number] <> '' and run.leaf_ceilings->(leaf.number::int - 1) <> 'null'
           and run.leaf_ties[leaf.number] <> run.ties_now[leaf.number]
           and not coalesce(leaf.number = any (run.leaves_accepted), false)
    loop
        select pg_catalog.string_agg(pg_catalog.format('%L::%s', lost.ceiling->>(place::int - 1), part->>1), ', ' order by place) into ceiling
          from pg_catalog.jsonb_array_elements(run.key) with ordinality as key (part, place);
        begin
            perform pg_catalog.set_config('search_path', run.session->>'search_path', true),
                    pg_catalog.set_config('TimeZone', run.session->>'time_zone', true),
                    pg_catalog.set_config('DateStyle', run.session->>'date_style', true),
                    pg_catalog.set_config('IntervalStyle', run.session->>'interval_style', true);
            -- Through the table, which a caller may read who may not read its partitions.
            execute pg_catalog.format('select backfill_moved.tableoid from %s as backfill_moved
                                        where (%s) and (%s) <= (%s) and backfill_moved.tableoid <> $1 limit 1',
                                      run.table_oid::regclass, lost.bound, columns, ceiling)
               into host using lost.relid;
            perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
            if host is not null then
                return next host::regclass::text;
            end if;
        exception when undefined_column or undefined_table or undefined_function or undefined_object or datatype_mismatch or internal_error then
            -- A column has another name, or the condition needs what is gone: what cannot be looked for is in doubt.
            return next pg_catalog.format('a partition that cannot be looked for (%s)', sqlerrm);
        end;
    end loop;
end
$body$;
comment on function {schema}.strays(bigint) is 'partitions that may hold rows a run missed or did twice';
