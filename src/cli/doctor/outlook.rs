//! What may go wrong later and can be seen beforehand: the way to the server, room on it, clocks, and who may come in between.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deadpool_postgres::Object;
use tokio_postgres::config::{Host, TargetSessionAttrs};
use tokio_postgres::types::Type;

use super::super::context::Context;
use super::super::failure::{Failure, statement};
use super::{Finding, bad, good, warning};
use crate::db;
use crate::db::tls::Verify;
use crate::engine::pool_size;
use crate::event::duration;
use crate::plan::operators::hides_all;
use crate::settings::WORKERS;
use crate::sql::Ident;

/// All of it.
pub(super) async fn look(ctx: &Context, client: &Object) -> Result<Vec<Finding>, Failure> {
    let mut findings = way_there(ctx, client).await?;
    findings.push(room(client).await?);
    findings.extend(clocks(client).await?);
    findings.extend(open_schemas(client).await?);
    Ok(findings)
}

/// A connection that others could read or answer, and hosts among which a standby may be taken.
async fn way_there(ctx: &Context, client: &Object) -> Result<Vec<Finding>, Failure> {
    let info = ctx.database.info();
    let hosts = info.config.get_hosts();
    let mut findings = Vec::new();
    if hosts.len() > 1 && info.config.get_target_session_attrs() != TargetSessionAttrs::ReadWrite {
        findings.push(warning(
            "of several hosts the first that answers is taken, be it a standby",
            "add target_session_attrs=read-write to the URL: after a failover a run then finds the new primary",
        ));
    }
    let is_far = |host: &Host| match host {
        Host::Tcp(name) => !["localhost", "127.0.0.1", "::1"].contains(&name.as_str()),
        Host::Unix(_) => false,
    };
    if !hosts.iter().any(is_far) {
        return Ok(findings);
    }
    let sql = "select coalesce((select ssl from pg_catalog.pg_stat_ssl where pid = pg_catalog.pg_backend_pid()), false)";
    let rows = db::ask(client, sql, &[]).await.map_err(statement("look up the connection"))?;
    let is_encrypted = rows.first().is_some_and(|row| row.get(0));
    let what = match (is_encrypted, info.tls.verify) {
        (true, Verify::Full) => return Ok(findings),
        (false, _) => {
            "the connection is not encrypted: whoever is on the way can read and change it"
        }
        (true, Verify::Nothing) => {
            "nobody checks who answers at the other end of the encrypted connection"
        }
        (true, Verify::Authority) => {
            "any server with a certificate of the same authority may answer"
        }
    };
    findings.push(warning(
        what,
        "add sslmode=verify-full to the URL, and sslrootcert=FILE for an authority of your own",
    ));
    Ok(findings)
}

/// Connections left for a run, by all limits there are.
async fn room(client: &Object) -> Result<Finding, Failure> {
    let sql = "select least(
                 current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint
                   - coalesce(current_setting('reserved_connections', true)::bigint, 0)
                   - (select sum(numbackends)::bigint from pg_catalog.pg_stat_database),
                 case when d.datconnlimit >= 0
                      then d.datconnlimit - (select sum(s.numbackends)::bigint from pg_catalog.pg_stat_database s where s.datid = d.oid) end,
                 case when r.rolconnlimit >= 0
                      then r.rolconnlimit - (select count(*) from pg_catalog.pg_stat_activity a where a.usesysid = r.oid) end)
                 from pg_catalog.pg_database d, pg_catalog.pg_roles r
                where d.datname = current_database() and r.rolname = current_user";
    let rows = db::ask(client, sql, &[]).await.map_err(statement("count the connections"))?;
    let free = rows.first().and_then(|row| row.get::<_, Option<i64>>(0)).unwrap_or(0).max(0);
    // One more for the health signals.
    let takes = pool_size(WORKERS) as i64 + 1;
    let what =
        format!("{free} connections are free; a run with {WORKERS} workers takes up to {takes}");
    Ok(match free < takes {
        true => warning(
            what,
            "a run waits for connections, and so may the application: --workers 1, a higher limit, or a pooler in between",
        ),
        false => good(what),
    })
}

/// How far clocks may be apart before a window would open or close at a time that surprises.
const APART_MAX: Duration = Duration::from_secs(5);

/// How far a clock is off, when it showed a time between two of ours.
fn apart(there: f64, (before, after): (f64, f64)) -> Option<Duration> {
    let apart = (before - there).max(there - after).max(0.0);
    Some(Duration::from_secs_f64(apart)).filter(|apart| *apart > APART_MAX)
}

/// Windows and exemptions go by the clock of the machine that runs the backfill, what is written by the server's.
async fn clocks(client: &Object) -> Result<Option<Finding>, Failure> {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let before = now();
    let sql = "select extract(epoch from clock_timestamp())::float8";
    let rows = db::ask(client, sql, &[]).await.map_err(statement("look at the server's clock"))?;
    let (after, there) = (now(), rows.first().map_or(before, |row| row.get::<_, f64>(0)));
    Ok(apart(there, (before, after)).map(|apart| {
        let apart = duration(apart);
        warning(
            format!("this machine's clock and the server's are {apart} apart; windows go by this machine's"),
            "let both be set by NTP",
        )
    }))
}

/// Schemas of the search path in which others may create: names in the author's SQL may come to mean theirs.
async fn open_schemas(client: &Object) -> Result<Vec<Finding>, Failure> {
    let look = || statement("look up who may create in the search_path");
    let path = db::schemas_in_path(client).await.map_err(look())?;
    let sql = "select n.nspname::text, g.grantee = 0, coalesce(r.rolname::text, '')
                 from pg_catalog.pg_namespace n
                cross join pg_catalog.aclexplode(coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))) g
                 left join pg_catalog.pg_roles r on r.oid = g.grantee
                where n.nspname = any ($1) and g.privilege_type = 'CREATE' and g.grantee <> n.nspowner
                  and r.rolname is distinct from current_user and not coalesce(r.rolsuper, false)
                order by 1, 2, 3";
    let rows = db::ask(client, sql, &[(&path, Type::TEXT_ARRAY)]).await.map_err(look())?;
    let hidden = hides_all(&path).map(|first| {
        bad(
            format!(
                "the search_path leads to schema {} before pg_catalog: no run is begun by it",
                Ident::new(first)
            ),
            "leave pg_catalog out of it: then it is searched first",
        )
    });
    let finding = |row: &tokio_postgres::Row| {
        let schema = Ident::new(row.get::<_, String>(0));
        let (who, grantee) = match row.get(1) {
            true => ("every role".to_owned(), "PUBLIC".to_owned()),
            false => {
                let role = Ident::new(row.get::<_, String>(2)).to_string();
                (format!("role {role}"), role)
            }
        };
        warning(
            format!(
                "{who} may create in schema {schema}, which is in the search_path: a function or an operator planted there may be what a \
                 spec comes to mean, and is then called by the role that runs it"
            ),
            format!("REVOKE CREATE ON SCHEMA {schema} FROM {grantee};"),
        )
    };
    Ok(hidden.into_iter().chain(rows.iter().map(finding)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_is_no_wrong_clock() {
        assert_eq!(apart(100.0, (90.0, 130.0)), None);
        assert_eq!(apart(100.0, (104.0, 105.0)), None);
        assert_eq!(apart(100.0, (107.0, 109.0)), Some(Duration::from_secs(7)));
        assert_eq!(apart(100.0, (60.0, 70.0)), Some(Duration::from_secs(30)));
    }
}
