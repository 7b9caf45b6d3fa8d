-- An operator's word to a live run: seen with the runner's next claim.
update {schema}.run
   set tuned = tuned || $2::text::jsonb, control_version = control_version + 1, updated_at = clock_timestamp()
 where run_id = $1 and state in ('running', 'pausing', 'paused', 'failed')
returning run_id
