-- How the run is cut, and the table's size before its first chunk, over all partitions.
update {schema}.run r
   set cut_by = coalesce((select f.cut_by from {schema}.run f where f.run_id = r.reverses), $2),
       (heap_bytes, index_bytes) =
           (select coalesce(sum(pg_catalog.pg_relation_size(relid)), 0), coalesce(sum(pg_catalog.pg_indexes_size(relid)), 0)
              from (select table_oid::regclass as relid union select relid from pg_catalog.pg_partition_tree(table_oid)) as tree)
 where run_id = $1 and heap_bytes is null
