-- The normal start and the whole recovery: waits for whoever holds the chunk, then sees the truth. No row: the epoch is over.
-- The shared lock shows in pg_locks which backends are inside a chunk of this run.
select c.state, c.rows_done, c.after_key, c.upto_key, r.state, r.control_version, coalesce(c.source_seq, c.seq),
       (pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_catalog.pg_lsn)::int8, c.stripe, c.stripes,
       -- Where remainders decide the stripe, so that keys are single whole numbers: whether those of the slice fill a good part of it.
       case when c.stripes > 1 and r.key->0->>3 = '%' and (r.leaves is null or c.after_key[1] = c.upto_key[1])
            then case when r.walked > 0 then false else coalesce(c.upto_key[cardinality(c.upto_key)]::numeric - c.after_key[cardinality(c.after_key)]::numeric
                          <= 4 * c.keys::bigint * c.stripes, false) end
            else false end,
       pg_catalog.pg_stat_get_xact_tuples_hot_updated(case when r.leaves is null then r.table_oid else r.leaves[c.upto_key[1]::int] end),
       case when r.leaves is not null then c.upto_key[1]::int end,
       -- The leaf by its number in the catalogs: it may have another name by now, or be no part of the table any more.
       case when r.leaves is not null then
            (select array[n.nspname::text, l.relname::text]
               from pg_catalog.pg_class l
               join pg_catalog.pg_namespace n on n.oid = l.relnamespace
              where l.oid = r.leaves[c.upto_key[1]::int] and (l.oid = r.table_oid or r.table_oid in (select relid from pg_catalog.pg_partition_ancestors(l.oid)))) end,
       pg_catalog.pg_try_advisory_xact_lock_shared($4, $5),
       case when r.leaves is not null then case when c.upto_key[1]::int > r.walked then c.only_keys::text end end
  from {schema}.chunk c
  join {schema}.run r using (run_id)
 where c.run_id = $1 and c.seq = $2 and r.epoch = $3
   for update of c
