select id from {schema}.revision where id = $1 for update
