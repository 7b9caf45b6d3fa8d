-- $1 run, $2 on whose word and why. What was passed over counts as done from here on.
with accepted as (
    update {schema}.run set moved_accepted = $2 where run_id = $1 returning run_id
)
update {schema}.chunk c set passed_over = false from accepted where c.run_id = accepted.run_id and c.passed_over
