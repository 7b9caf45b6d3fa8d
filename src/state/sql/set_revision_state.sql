update {schema}.revision set state = $2 where id = $1 returning id
