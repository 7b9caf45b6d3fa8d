insert into {schema}.revision_log (who, revision, event, detail) values ($1, $2, $3, $4)
