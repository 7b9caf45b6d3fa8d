-- $1 run. Partitions that may hold rows of others that went away before their turn.
select strays from {schema}.strays($1)
