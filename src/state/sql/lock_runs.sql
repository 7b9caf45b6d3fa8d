lock table {schema}.run in share update exclusive mode
