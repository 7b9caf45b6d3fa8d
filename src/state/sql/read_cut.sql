-- Where cutting has come to; a runner of an older epoch gets no row. Not locked: finding the next slices takes its time, and what has been
-- read is compared when they are written.
select cut_upto, fully_cut, coalesce(walked > 0 and walked_file <> pg_catalog.pg_relation_filenode(table_oid), false)
  from {schema}.run
 where run_id = $1 and epoch = $2
