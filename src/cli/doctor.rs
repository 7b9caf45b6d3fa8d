//! `doctor`: what will work on this server with this role, what will not, and the statement that mends it.

mod outlook;

use deadpool_postgres::Object;
use serde::Serialize;
use tokio_postgres::types::Type;

use super::context::Context;
use super::failure::{Exit, Failure, statement};
use super::{Global, pace, print, print_json};
use crate::db;
use crate::db::lock;
use crate::plan::surroundings;
use crate::sql::Ident;
use crate::state::{Installed, StoreError};

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Good,
    Warning,
    Bad,
}

/// One finding.
#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    what: String,
    mend: Option<String>,
}

fn good(what: impl Into<String>) -> Finding {
    Finding { level: Level::Good, what: what.into(), mend: None }
}

fn warning(what: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { level: Level::Warning, what: what.into(), mend: Some(mend.into()) }
}

fn bad(what: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { level: Level::Bad, what: what.into(), mend: Some(mend.into()) }
}

/// `backfill doctor`. Exit 6 when something will not work.
pub(super) async fn doctor(global: &Global, ddl: bool) -> Result<Exit, Failure> {
    let ctx = Context::open(global)?;
    if ddl {
        print(&ctx.store.ddl());
        return Ok(Exit::Done);
    }
    let client = ctx.connect().await?;
    let mut findings = server(&ctx, &client).await?;
    findings.extend(pooler(&ctx, &client).await?);
    findings.extend(state(&ctx, &client).await?);
    findings.extend(around(&client).await?);
    findings.extend(outlook::look(&ctx, &client).await?);
    findings.extend(signals(&ctx, &client).await?);
    if ctx.json {
        print_json(&serde_json::json!({ "findings": findings }));
    } else {
        for finding in &findings {
            let mark = match finding.level {
                Level::Good => "ok  ",
                Level::Warning => "warn",
                Level::Bad => "BAD ",
            };
            print(&format!("{mark}  {}", finding.what));
            if let Some(mend) = &finding.mend {
                print(&format!("      {mend}"));
            }
        }
    }
    Ok(if findings.iter().any(|finding| finding.level == Level::Bad) {
        Exit::Found
    } else {
        Exit::Done
    })
}

async fn server(ctx: &Context, client: &Object) -> Result<Vec<Finding>, Failure> {
    let server = surroundings::server(client).await.map_err(statement("look up the server"))?;
    let mut findings = vec![good(format!(
        "connected to {} as role {}, PostgreSQL {}",
        ctx.database.target(),
        server.role,
        server.version
    ))];
    if let Some(refusal) = crate::plan::checks::server_refusal(&server) {
        findings.push(bad(format!("{}: {}", refusal.what, refusal.why), refusal.mend));
    }
    Ok(findings)
}

async fn pooler(ctx: &Context, client: &Object) -> Result<Vec<Finding>, Failure> {
    let is_pooled = lock::is_pooled(&ctx.database, client).await?;
    Ok(vec![if is_pooled {
        good(
            "a transaction pooler stands in between; runs work through it, and each keeps one transaction open \
             (idle, without a snapshot) to hold its lock",
        )
    } else {
        good("no transaction pooler in between")
    }])
}

async fn state(ctx: &Context, client: &Object) -> Result<Vec<Finding>, Failure> {
    let schema = ctx.store.schema();
    let sql = "select n.oid is not null,
                      coalesce(pg_catalog.has_schema_privilege(n.oid, 'create'), false),
                      pg_catalog.has_database_privilege(current_database(), 'create'),
                      current_user::text, current_database()::text,
                      pg_catalog.has_database_privilege(current_database(), 'temporary'),
                      current_setting('server_version_num')::int
                 from (select 1) one left join pg_catalog.pg_namespace n on n.nspname = $1";
    let rows = db::ask(client, sql, &[(&schema.as_str(), Type::TEXT)]).await;
    let rows = rows.map_err(statement("look up privileges"))?;
    let row = &rows[0];
    let (exists, may_create_in, may_create): (bool, bool, bool) =
        (row.get(0), row.get(1), row.get(2));
    let role = Ident::new(row.get::<_, String>(3));
    let database = Ident::new(row.get::<_, String>(4));
    let mut findings = Vec::new();
    match ctx.store.installed(client).await {
        Ok(Installed::Yes) => {
            findings.push(good(format!("state tables are in schema {schema}")));
            findings.extend(tables(ctx, client, &role).await?);
        }
        Ok(Installed::Older(version)) => {
            findings.push(good(format!(
                "state tables are of version {version}; the next run upgrades them"
            )));
        }
        Ok(Installed::No) if may_create_in || (!exists && may_create) => {
            findings.push(good(format!(
                "the first run will create the state tables in schema {schema}"
            )));
        }
        Ok(Installed::No) => {
            let mend = match exists {
                true => ctx.store.create_grants(&role.to_string()),
                false => ctx.store.schema_grants(&database.to_string(), &role.to_string()),
            };
            findings.push(bad(
                format!("role {role} may not create the state tables in schema {schema}"),
                mend,
            ));
        }
        Err(StoreError::Forbidden { mend, .. }) => findings.push(bad(
            format!("role {role} may not use the state tables in schema {schema}"),
            mend,
        )),
        Err(error) => findings.push(bad(error.to_string(), "see the message")),
    }
    if !row.get::<_, bool>(5) {
        findings.push(warning(
            "volatile functions in a spec cannot be found without temporary objects",
            format!("GRANT TEMPORARY ON DATABASE {database} TO {role};"),
        ));
    }
    let publications = surroundings::publications_of_state(client, schema, row.get(6)).await;
    let publications = publications.map_err(statement("look up publications"))?;
    if !publications.is_empty() {
        findings.push(bad(
            format!("publication {} would carry the state tables to its subscribers", publications.join(", ")),
            "create them there first (`backfill doctor --ddl`), then run with --subscribers-prepared",
        ));
    }
    findings.push(good(format!(
        "for each table a run needs: GRANT SELECT ON table TO {role}; GRANT UPDATE (written columns) ON table TO {role};"
    )));
    Ok(findings)
}

/// State tables that others made and that this role may not all use.
async fn tables(ctx: &Context, client: &Object, role: &Ident) -> Result<Option<Finding>, Failure> {
    let sql = "select coalesce(bool_and(has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert')
                        and has_table_privilege(c.oid, 'update') and has_table_privilege(c.oid, 'delete')), true)
                      and bool_and(has_schema_privilege(n.oid, 'create'))
                 from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                where n.nspname = $1 and c.relkind = 'r' and c.relname !~ '^before_image_'";
    let schema = ctx.store.schema();
    let rows = db::ask(client, sql, &[(&schema.as_str(), Type::TEXT)]).await;
    let rows = rows.map_err(statement("look up privileges"))?;
    let may_use = rows.first().and_then(|row| row.get::<_, Option<bool>>(0)) != Some(false);
    Ok((!may_use).then(|| {
        let what = format!("role {role} may not use all state tables in schema {schema}");
        let role = role.to_string();
        let grants = [ctx.store.create_grants(&role), ctx.store.table_grants(&role, false)];
        bad(what, grants.join(" "))
    }))
}

async fn around(client: &Object) -> Result<Vec<Finding>, Failure> {
    let sql = "select (select count(*) from pg_catalog.pg_stat_replication),
                      (select count(*) from pg_catalog.pg_replication_slots where not active),
                      current_setting('max_wal_size'), current_setting('checkpoint_timeout'),
                      current_setting('autovacuum'),
                      (select count(*) from pg_catalog.pg_prepared_xacts)";
    let rows = db::ask(client, sql, &[]).await.map_err(statement("look around the server"))?;
    let row = &rows[0];
    let (replicas, idle_slots): (i64, i64) = (row.get(0), row.get(1));
    let (wal, checkpoint): (String, String) = (row.get(2), row.get(3));
    let mut findings = vec![good(format!(
        "{replicas} replicas stream from here; max_wal_size {wal}, checkpoint_timeout {checkpoint}"
    ))];
    if idle_slots > 0 {
        findings.push(warning(
            format!("{idle_slots} replication slots are inactive and keep WAL; a large run makes much of it"),
            "look at pg_replication_slots; drop those that nobody will use again",
        ));
    }
    if row.get::<_, String>(4) == "off" {
        findings.push(warning(
            "autovacuum is off: dead rows of a run will stay",
            "ALTER SYSTEM SET autovacuum = on;",
        ));
    }
    if row.get::<_, i64>(5) > 0 {
        findings.push(warning(
            format!(
                "{} prepared transactions are open; no dead row behind them can be vacuumed",
                row.get::<_, i64>(5)
            ),
            "look at pg_prepared_xacts",
        ));
    }
    if let Some((seconds, pid, user)) = surroundings::oldest_transaction(client)
        .await
        .map_err(statement("look for long transactions"))?
        && seconds > 120.0
    {
        findings.push(warning(
            format!(
                "backend {pid} ({user}) has had a transaction open for {} min",
                (seconds / 60.0) as u64
            ),
            "dead rows pile up meanwhile; let it end first",
        ));
    }
    Ok(findings)
}

/// The health signals that this role cannot see.
async fn signals(ctx: &Context, client: &Object) -> Result<Vec<Finding>, Failure> {
    let settings = ctx.project.health.clone().unwrap_or_default();
    let server = surroundings::server(client).await.map_err(statement("look up the server"))?;
    let blind = pace::blind(client, &settings).await?;
    Ok(vec![if blind.is_empty() {
        good("every health signal can be seen")
    } else {
        let what = format!(
            "blind: role {} cannot see the health signals {}; a run refuses without --accept-blind",
            Ident::new(&server.role),
            pace::names(&blind)
        );
        warning(what, pace::mend(&server.role))
    }])
}
