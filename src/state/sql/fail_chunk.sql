update {schema}.chunk
   set state = 'failed', attempts = attempts + 1, error_sqlstate = $4, error_message = $5
 where run_id = $1 and seq = $2 and state <> 'done'
   and exists (select from {schema}.run where run_id = $1 and epoch = $3)
returning seq
