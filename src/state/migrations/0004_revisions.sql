-- Schema steps: which revisions are applied, how far one is that was interrupted, and what was demanded of backfills on the way.

create table {schema}.revision (
    id           text primary key,
    parents      text[] not null,
    title        text not null,
    -- Of what the server reads of the file; comments and line ends make no difference.
    digest       text not null,
    -- The backfill that it starts; null when it runs statements.
    backfill     text,
    -- As applied, so that a checkout without the file can go back.
    down_sql     text not null,
    irreversible text,
    -- applying and reverting: taken up by the next upgrade or downgrade where its steps say.
    state        text not null check (state in ('applying', 'applied', 'reverting')),
    -- ran: by its statements. stamped, adopted: counted as applied on somebody's word.
    origin       text not null default 'ran' check (origin in ('ran', 'stamped', 'adopted')),
    applied_by   text not null,
    applied_at   timestamptz not null default clock_timestamp(),
    position     bigint generated always as identity
);
comment on table {schema}.revision is 'schema steps that are applied, or on their way';

create table {schema}.revision_step (
    revision   text not null references {schema}.revision on delete cascade,
    direction  text not null check (direction in ('up', 'down')),
    n          integer not null,
    digest     text not null,
    statement  text not null,
    -- running: outside of a transaction; whether it was done is looked up in the catalogs.
    state      text not null check (state in ('running', 'done')),
    tries      integer not null default 1,
    took_ms    bigint,
    started_at timestamptz not null default clock_timestamp(),
    primary key (revision, direction, n)
);
comment on table {schema}.revision_step is 'statements of schema steps; those of a transaction are marked done in it';

create table {schema}.gate (
    gate_id  bigint generated always as identity primary key,
    revision text not null,
    demand   text not null,
    -- satisfied: by evidence. overridden: on somebody's word, for the reason given.
    outcome  text not null check (outcome in ('satisfied', 'overridden')),
    evidence text not null,
    who      text not null,
    at       timestamptz not null default clock_timestamp()
);
comment on table {schema}.gate is 'what revisions demanded of backfills, and on what evidence they went on';
create index gate_by_revision on {schema}.gate (revision, gate_id);

create table {schema}.revision_log (
    log_id   bigint generated always as identity primary key,
    at       timestamptz not null default clock_timestamp(),
    who      text not null,
    revision text not null,
    event    text not null,
    detail   text not null default ''
);
comment on table {schema}.revision_log is 'what happened to schema steps, and on whose word';

-- A query that yields a row while something is left to do; null where the data cannot tell.
alter table {schema}.run add column verify_query text;

-- Raises unless the backfill is as far as the level says, so that a migration of any other tool can wait for it:
--   select backfill.require('governance_phases', 'verified');
-- With a table, a backfill that was never run here is no obstacle while that table is empty, as in a new database.
create function {schema}.require(backfill text, level text default 'verified', on_table regclass default null)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO'
set intervalstyle = 'postgres'
set constraint_exclusion = on
set row_security = off
as $body$
declare
    run record;
    is_there boolean;
    plan json;
    aside bigint;
    open_chunks bigint;
    strays text;
begin
    if level is null or level not in ('started', 'finished', 'verified', 'proved') then
        raise invalid_parameter_value using
            message = pg_catalog.format('%s is no level', pg_catalog.quote_nullable(level)),
            hint = 'There are started, finished, verified and proved.';
    end if;
    select r.run_id, r.state, r.direction, r.verify_query, r.session, r.table_name, r.table_oid, r.leaves into run
      from {schema}.run r where r.name = backfill order by r.run_id desc limit 1;
    if not found then
        if on_table is not null then
            execute pg_catalog.format('select not exists (select from %s)', on_table) into is_there;
            if is_there then
                return pg_catalog.format('%s has no rows', on_table);
            end if;
        end if;
        raise object_not_in_prerequisite_state using
            message = pg_catalog.format('backfill %s has never been run here', backfill),
            hint = pg_catalog.format('Run it first: backfill run %s', backfill);
    end if;
    if run.direction = 'reverse' then
        raise object_not_in_prerequisite_state using
            message = pg_catalog.format('backfill %s was taken back by run %s', backfill, run.run_id),
            hint = pg_catalog.format('Run it again: backfill run %s', backfill);
    end if;
    if level = 'started' then
        return pg_catalog.format('run %s of %s is %s', run.run_id, backfill, run.state);
    end if;
    if level in ('verified', 'proved') and run.verify_query is not null then
        perform pg_catalog.set_config('search_path', run.session->>'search_path', true),
                pg_catalog.set_config('TimeZone', run.session->>'time_zone', true),
                pg_catalog.set_config('DateStyle', run.session->>'date_style', true),
                pg_catalog.set_config('IntervalStyle', run.session->>'interval_style', true);
        if level = 'proved' then
            execute 'explain (format json) ' || run.verify_query into plan;
            -- Nothing is read when constraints in force rule every row out.
            if plan::text !~ '"Node Type": "[^"]*Scan"' then
                return pg_catalog.format('constraints of %s leave no row to do', run.table_name);
            end if;
            raise object_not_in_prerequisite_state using
                message = pg_catalog.format('no constraint in force proves that backfill %s is complete', backfill),
                hint = pg_catalog.format('Add and validate a CHECK on %s that its rows satisfy.', run.table_name);
        end if;
        execute 'select exists (' || run.verify_query || ')' into is_there;
        if is_there then
            raise object_not_in_prerequisite_state using
                message = pg_catalog.format('backfill %s is not complete: rows of %s are left to do', backfill, run.table_name),
                hint = pg_catalog.format('See how far it is: backfill status %1$s. Count what is left: backfill verify %1$s', backfill);
        end if;
        return pg_catalog.format('no row of %s is left to do', run.table_name);
    end if;
    if level = 'proved' then
        raise object_not_in_prerequisite_state using
            message = pg_catalog.format('the data cannot tell whether backfill %s is complete, so no constraint can prove it', backfill),
            hint = 'Name a condition with `[verify] remaining` in its spec, or require only that it is verified.';
    end if;
    select pg_catalog.count(*) into aside from {schema}.quarantine q where q.run_id = run.run_id;
    -- Also open: chunks of a partition that was no part of the table when their turn came, and is again.
    select pg_catalog.count(*) into open_chunks from {schema}.chunk c
     where c.run_id = run.run_id
       and (c.state <> 'done'
            or c.passed_over and c.upto_key[1]::int in
                (select leaf.number from pg_catalog.unnest(run.leaves) with ordinality as leaf (relid, number)
                  where run.table_oid in (select a.relid from pg_catalog.pg_partition_ancestors(leaf.relid) as a)));
    if run.state = 'succeeded' and aside = 0 and open_chunks = 0 then
        select pg_catalog.string_agg(distinct s, ', ') into strays from {schema}.strays(run.run_id) as s where level = 'verified';
        if strays is not null then
            raise object_not_in_prerequisite_state using
                message = pg_catalog.format('nobody can tell whether backfill %s is complete: %s may hold rows that run %s missed or did twice',
                                            backfill, strays, run.run_id),
                hint = pg_catalog.format('See what to do: backfill verify %s', backfill);
        end if;
        return pg_catalog.format('run %s of %s has done all its chunks', run.run_id, backfill);
    end if;
    raise object_not_in_prerequisite_state using
        message = pg_catalog.format('backfill %s is not finished: run %s is %s, %s chunks are open, %s rows are set aside',
                                    backfill, run.run_id, run.state, open_chunks, aside),
        hint = pg_catalog.format('See how far it is: backfill status %1$s. Go on: backfill resume %1$s', backfill);
end
$body$;
comment on function {schema}.require(text, text, regclass) is 'raises unless a backfill is started, finished, verified or proved; returns the evidence';
