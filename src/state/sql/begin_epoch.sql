-- Takes the run over: every runner of an older epoch can claim and settle nothing from here on.
update {schema}.run
   set epoch = epoch + 1, runner_host = $2, runner_pid = $3, started_at = clock_timestamp(), updated_at = clock_timestamp(),
       throttle_verdict = null, throttle_reason = null, throttle_by = null, window_name = null, window_until = null
 where run_id = $1
returning epoch
