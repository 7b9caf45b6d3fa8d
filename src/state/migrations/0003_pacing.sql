-- What paces a run, for status from another session.

alter table {schema}.run
    add column throttle_by text,
    add column window_name text,
    add column window_until text,
    add column wal_limit_bytes_per_s double precision,
    add column wal_bytes_per_row double precision,
    -- Seconds under each constraint, over all runners.
    add column spent jsonb not null default '{}';
