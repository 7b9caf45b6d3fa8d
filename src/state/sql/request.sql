-- An operator's word to a live run: seen with the runner's next claim. Exemptions add up, everything else is replaced.
update {schema}.run
   set tuned = tuned || $2::text::jsonb
               || jsonb_build_object('ignore', coalesce(tuned->'ignore', '{}') || coalesce($2::text::jsonb->'ignore', '{}')),
       control_version = control_version + 1, updated_at = clock_timestamp()
 where run_id = $1 and state in ('running', 'pausing', 'paused', 'failed')
returning run_id
