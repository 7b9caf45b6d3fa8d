insert into {schema}.gate (revision, demand, outcome, evidence, who) values ($1, $2, $3, $4, $5)
