select seq, error_sqlstate, error_message from {schema}.chunk where run_id = $1 and state = 'failed' order by seq limit $2
