delete from {schema}.revision_step where revision = $1 and direction = $2
