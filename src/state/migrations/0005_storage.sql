-- How a run's chunks are cut, and what it does to the table's storage.

alter table {schema}.run
    add column cut_by text not null default 'key' check (cut_by in ('key', 'stripes', 'place')),
    -- Bytes of the table when the run began.
    add column heap_bytes bigint,
    add column index_bytes bigint,
    -- Bytes of WAL written while its chunks were at work, and the rows of those chunks, over all runners, as far as they could tell.
    add column wal_bytes bigint not null default 0,
    add column wal_rows bigint not null default 0,
    -- Vacuums on the way, over all runners.
    add column vacuums integer not null default 0,
    add column vacuum_ms bigint not null default 0;

-- Of the rows written those that needed no new index entry; null where nobody counted.
alter table {schema}.chunk add column rows_hot bigint;
