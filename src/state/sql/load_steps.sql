select n, digest, state, tries from {schema}.revision_step where revision = $1 and direction = $2 order by n
