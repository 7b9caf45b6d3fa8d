select exists (select from {schema}.revision_log l
                where l.revision = $1 and l.event = 'taken back'
                  and l.at > (select r.created_at from {schema}.run r where r.run_id = $2))
