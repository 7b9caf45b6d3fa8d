insert into {schema}.log (run_id, who, event, detail) values ($1, $2, $3, $4)
