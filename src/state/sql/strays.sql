-- $1 run. Partitions that may hold rows of others that went away.
select distinct strays from {schema}.strays($1) order by 1
