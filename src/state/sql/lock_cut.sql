-- Serialises cutting; a runner of an older epoch gets no row.
select cut_upto, fully_cut from {schema}.run where run_id = $1 and epoch = $2 for update
