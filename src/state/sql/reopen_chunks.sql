-- Failed chunks, and chunks whose only row was set aside, become pending again. Returns how many.
with reopened as (
    update {schema}.chunk
       set state = 'pending', attempts = 0, settled_at = null, settled_epoch = null
     where run_id = $1
       and (state = 'failed'
            or ($2 and seq in (select seq from {schema}.quarantine where run_id = $1)))
    returning 1
)
select count(*) from reopened
