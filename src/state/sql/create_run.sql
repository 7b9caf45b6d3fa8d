insert into {schema}.run
    (name, direction, state, table_name, table_oid, key, ceiling, fully_cut, spec_digest, spec_text, statement, remaining,
     session, table_rows_estimate, created_by, undo, undo_columns, verify_query,
     leaves, leaf_ceilings, is_again, leaf_bounds, leaf_ties, walked, walked_file, walk_before)
select $1, 'forward', 'running', $2, $3, $4::jsonb, $5, $5 is null, $6, $7, $8, $9, $10::jsonb, $11, $12, $13, $14::jsonb, $15, $16, $17::jsonb,
       $18, {schema}.leaf_bounds($16::oid[]), {schema}.leaf_ties($3, $16::oid[]), $19,
       case when $19 > 0 then pg_catalog.pg_relation_filenode($3) end, $21
 where not exists (select from {schema}.run where name = $1 and run_id > $20)
on conflict (name) where state not in ('cancelled', 'succeeded') do nothing
returning run_id
