-- Once for a run: how it is cut, and the table's size before its first chunk.
update {schema}.run r
   set cut_by = coalesce((select f.cut_by from {schema}.run f where f.run_id = r.reverses), $2), heap_bytes = $3, index_bytes = $4
 where run_id = $1 and heap_bytes is null
