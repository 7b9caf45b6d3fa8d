-- $1 run, $2 epoch.
update {schema}.run set fully_cut = true where run_id = $1 and epoch = $2 returning run_id
