delete from {schema}.revision_step where revision = $1 and direction = $2 and n = $3
