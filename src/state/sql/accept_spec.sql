update {schema}.run
   set spec_digest = $2, spec_text = $3, statement = $4, remaining = $5, verify_query = $6
 where run_id = $1
returning run_id
