insert into {schema}.quarantine (run_id, seq, key, sqlstate, message) values ($1, $2, $3, $4, $5)
returning quarantine_id
