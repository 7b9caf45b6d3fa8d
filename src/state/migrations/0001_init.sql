-- The state of backfills. Everything that can be derived (in flight, interrupted, percentages) is not stored.

create table {schema}.run (
    run_id           bigint generated always as identity primary key,
    name             text not null,
    direction        text not null check (direction in ('forward', 'reverse')),
    reverses         bigint references {schema}.run,
    state            text not null check (state in
                         ('running', 'pausing', 'paused', 'cancelling', 'cancelled', 'succeeded', 'failed')),
    -- Raised by every resume and takeover; a runner of an older epoch can claim and settle nothing.
    epoch            integer not null default 1,
    -- Raised by every request from another session, so that the runner sees it with its next claim.
    control_version  integer not null default 0,
    table_name       text not null,
    table_oid        oid not null,
    key              jsonb not null,
    -- The greatest key when the run began; null when the table was empty.
    ceiling          text[],
    -- The end of the last chunk cut; null before the first.
    cut_upto         text[],
    fully_cut        boolean not null,
    next_seq         bigint not null default 1,
    spec_digest      text not null,
    spec_text        text not null,
    statement        text not null,
    -- The condition of a row still to do, when the spec has one that can be read from the data.
    remaining        text,
    session          jsonb not null,
    table_rows_estimate bigint not null,
    -- What an operator tuned: workers, rate_rows_per_s, chunk_time_ms. Wins over every file.
    tuned            jsonb not null default '{}',
    -- What the runner last worked with, for status from another session.
    workers          integer,
    rate_limit_rows_per_s double precision,
    chunk_time_ms    integer,
    chunk_rows       integer,
    throttle_verdict text,
    throttle_reason  text,
    runner_host      text,
    runner_pid       integer,
    failure          text,
    created_by       text not null,
    created_at       timestamptz not null default clock_timestamp(),
    started_at       timestamptz not null default clock_timestamp(),
    updated_at       timestamptz not null default clock_timestamp(),
    finished_at      timestamptz,
    check ((state in ('cancelled', 'succeeded')) = (finished_at is not null)),
    check ((direction = 'reverse') = (reverses is not null)),
    check (fully_cut or ceiling is not null)
);
comment on table {schema}.run is 'one execution of a backfill, forward or reverse';

-- At most one unfinished run of a name.
create unique index run_unfinished on {schema}.run (name)
    where state not in ('cancelled', 'succeeded');
create index run_by_name on {schema}.run (name, run_id desc);

create table {schema}.chunk (
    run_id         bigint not null references {schema}.run,
    seq            bigint not null,
    -- The slice (after_key, upto_key], and stripe j of k of it.
    after_key      text[],
    upto_key       text[] not null,
    stripe         smallint not null default 0,
    stripes        smallint not null default 1,
    state          text not null default 'pending' check (state in ('pending', 'done', 'failed')),
    -- Index entries in the slice when it was cut.
    keys           integer not null,
    rows_done      bigint not null default 0,
    attempts       integer not null default 0,
    took_ms        integer,
    settled_at     timestamptz,
    settled_epoch  integer,
    error_sqlstate text,
    error_message  text,
    primary key (run_id, seq),
    check ((state = 'done') = (settled_at is not null)),
    check (stripe >= 0 and stripe < stripes)
) with (fillfactor = 70);
comment on table {schema}.chunk is 'a slice of a run''s key space; its rows and its done mark commit in one transaction';
create index chunk_open on {schema}.chunk (run_id, seq) where state <> 'done';
create index chunk_settled on {schema}.chunk (run_id, settled_at);

create table {schema}.quarantine (
    quarantine_id bigint generated always as identity primary key,
    run_id        bigint not null,
    seq           bigint not null,
    key           text[] not null,
    sqlstate      text not null,
    message       text not null,
    set_aside_at  timestamptz not null default clock_timestamp(),
    foreign key (run_id, seq) references {schema}.chunk
);
comment on table {schema}.quarantine is 'rows set aside with their error; a retry that succeeds removes them';
create index quarantine_by_run on {schema}.quarantine (run_id, seq);

create table {schema}.log (
    log_id  bigint generated always as identity primary key,
    run_id  bigint not null references {schema}.run,
    at      timestamptz not null default clock_timestamp(),
    who     text not null,
    event   text not null,
    detail  text not null default ''
);
comment on table {schema}.log is 'what happened to a run, and on whose word';
create index log_by_run on {schema}.log (run_id, log_id);
