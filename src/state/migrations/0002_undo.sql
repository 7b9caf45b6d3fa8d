-- What a reverse run works from: how a run can be undone, which chunk a chunk gives back, and the rows it left alone.

alter table {schema}.run
    -- Runs of older versions kept nothing.
    add column undo text not null default 'none' check (undo in ('capture', 'statement', 'none')),
    -- The written columns with their types, as the before-images hold them.
    add column undo_columns jsonb not null default '[]',
    add column pruned_at timestamptz,
    add column conflicts text not null default 'skip' check (conflicts in ('skip', 'stop', 'force'));

-- In a reverse run: the chunk of the forward run whose rows this one gives back.
alter table {schema}.chunk add column source_seq bigint;

create table {schema}.conflict (
    conflict_id bigint generated always as identity primary key,
    run_id      bigint not null,
    seq         bigint not null,
    key         text[] not null,
    kind        text not null check (kind in ('changed', 'deleted', 'altered', 'overwritten')),
    found_at    timestamptz not null default clock_timestamp(),
    foreign key (run_id, seq) references {schema}.chunk
);
comment on table {schema}.conflict is 'rows that a reverse run did not simply give back: changed or deleted since, altered by a trigger on the way, or overwritten by force';
create index conflict_by_run on {schema}.conflict (run_id, conflict_id);
