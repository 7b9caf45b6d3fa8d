select exists (select from {schema}.revision_log l
                where l.revision = $1
                  and (l.event in ('taken back', 'stamped away') or (l.event = 'resolved' and l.detail like 'counts as not applied%'))
                  and l.at > (select r.created_at from {schema}.run r where r.run_id = $2))
