-- A retried row that went through is no longer set aside; part of the chunk's own transaction.
delete from {schema}.quarantine where run_id = $1 and seq = $2
