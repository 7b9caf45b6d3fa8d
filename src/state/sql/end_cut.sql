-- $1 run in rounds, $2 epoch. It ends where cutting has come to.
update {schema}.run set fully_cut = true, ceiling = cut_upto where run_id = $1 and epoch = $2 returning run_id
