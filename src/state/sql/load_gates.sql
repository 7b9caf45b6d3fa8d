select revision, demand, outcome, evidence, who, to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
  from {schema}.gate order by gate_id
