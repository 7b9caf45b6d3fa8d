-- Where places stand in for keys, a row may be met again in a later round.
with known as (
    delete from {schema}.quarantine where run_id = $1 and key = $3
)
insert into {schema}.quarantine (run_id, seq, key, sqlstate, message) values ($1, $2, $3, $4, $5)
returning quarantine_id
