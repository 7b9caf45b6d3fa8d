delete from {schema}.revision where id = $1
