-- Failed chunks, chunks whose only row was set aside, and those of leaves that were passed over and are parts of the table again, become
-- pending. Returns how many.
with returned as (
    select leaf.number
      from {schema}.run r, unnest(r.leaves) with ordinality as leaf (relid, number)
     where r.run_id = $1 and r.table_oid in (select a.relid from pg_catalog.pg_partition_ancestors(leaf.relid) as a)
), reopened as (
    update {schema}.chunk
       set state = 'pending', attempts = 0, settled_at = null, settled_epoch = null, passed_over = false
     where run_id = $1
       and (state = 'failed'
            or ($2 and seq in (select seq from {schema}.quarantine where run_id = $1))
            or (passed_over and upto_key[1]::int in (select number from returned)))
    returning 1
)
select count(*) from reopened
