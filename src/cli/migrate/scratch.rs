//! A database to try revisions on: on a private server that is started and removed here, or where `--scratch-url` says; never the one that
//! the revisions are for.

use std::collections::{BTreeMap, BTreeSet};

use deadpool_postgres::Object;

use super::super::Global;
use super::super::context::Context;
use super::super::failure::{Failure, Kind, statement};
use crate::db;
use crate::diagnostic::{Diagnostic, Report};
use crate::migrate::facts::{Change, Facts};
use crate::migrate::file::{Revision, Statement};
use crate::migrate::lint::{Before, Writes, relies};
use crate::migrate::trace::{Observed, observe};
use crate::migrate::tree::Tree;
use crate::migrate::unit::units;
use crate::server::{Options, Server};
use crate::spec::Spec;

/// A scratch database and the way to it.
pub(super) struct Scratch {
    /// As for any other database.
    pub ctx: Context,
    name: Option<String>,
    admin: Option<Object>,
    server: Option<Server>,
}

impl Scratch {
    /// Makes one. `major` is the version that the revisions are for; another is taken, aloud, when that is not to be had.
    pub(super) async fn make(
        ctx: &Context,
        url: Option<&str>,
        major: Option<u32>,
    ) -> Result<Scratch, Failure> {
        let open = |url: String| {
            let global = Global {
                url: Some(url),
                project: ctx.directory.clone(),
                json: ctx.json,
                verbose: ctx.verbose,
            };
            Context::open(&global)
        };
        if let Some(url) = url {
            let outer = open(url.to_owned())?;
            let admin = outer.connect().await?;
            let name = format!("backfill_scratch_{:08x}", fastrand::u32(..));
            admin
                .batch_execute(&format!("create database {name}"))
                .await
                .map_err(statement("create a scratch database"))?;
            let inner = outer.database.elsewhere(&name, 4)?;
            let ctx = Context { database: inner, ..outer };
            return Ok(Scratch { ctx, name: Some(name), admin: Some(admin), server: None });
        }
        let options = |major| Options { major, settings: Vec::new(), no_fsync: true };
        let server = match Server::start(&options(major)) {
            Err(error) if major.is_some() => {
                super::super::say(&format!(
                    "no PostgreSQL {} to try it on ({error}); trying another",
                    major.unwrap_or(0)
                ));
                Server::start(&options(None))?
            }
            other => other?,
        };
        let inner = open(server.url("postgres"))?;
        copy_roles(ctx, &inner).await?;
        Ok(Scratch { ctx: inner, name: None, admin: None, server: Some(server) })
    }

    /// Removes it.
    pub(super) async fn remove(self) {
        if let (Some(admin), Some(name)) = (self.admin, self.name) {
            self.ctx.database.close();
            let _ = admin.batch_execute(&format!("drop database {name} with (force)")).await;
        }
    }
}

/// The names of the real server's roles, where it can be asked: revisions grant things to them.
async fn copy_roles(ctx: &Context, scratch: &Context) -> Result<(), Failure> {
    let Ok(client) = ctx.connect().await else { return Ok(()) };
    let inner = scratch.connect().await?;
    let sql = "select rolname::text from pg_catalog.pg_roles where rolname !~ '^pg_'";
    for row in db::ask(&client, sql, &[]).await.unwrap_or_default() {
        let role = crate::sql::Ident::new(row.get::<_, String>(0));
        // The superuser is there already.
        let _ = inner.batch_execute(&format!("CREATE ROLE {role}")).await;
    }
    Ok(())
}

/// What the statements of a revision did, and what it stands on.
pub(super) struct Traced<'t> {
    pub revision: &'t Revision,
    pub observed: Vec<Observed>,
    pub before: Before,
}

/// Applies every revision to an empty database and tells what each statement did.
pub(super) async fn trace<'t>(
    scratch: &Scratch,
    tree: &'t Tree,
    specs: &BTreeMap<String, Spec>,
) -> Result<Vec<Traced<'t>>, Failure> {
    let client = scratch.ctx.connect().await?;
    let schema = scratch.ctx.store.schema();
    let mut told: BTreeMap<&str, Before> = BTreeMap::new();
    let mut traced = Vec::new();
    for revision in &tree.revisions {
        let mut before = Before::default();
        for (parent, _) in &revision.revises {
            if let Some(of) = told.get(parent.as_str()) {
                before.backfills.extend(of.backfills.clone());
                before.proved.extend(of.proved.clone());
                before.released.extend(of.released.clone());
            }
        }
        let demanded = revision.requires.iter().filter(|demand| relies(demand.level));
        before.proved.extend(demanded.map(|demand| demand.name.clone()));
        let facts = Facts::read(&client, schema).await.map_err(statement("read the catalogs"))?;
        let old = facts.tables();
        let writes =
            revision.backfill.as_ref().and_then(|(name, _)| Some((name, writes(specs.get(name)?))));
        if let Some((_, writes)) = &writes {
            let unguarded =
                writes.columns.iter().filter(|column| facts.is_unguarded(&writes.table, column));
            before.unguarded = unguarded.cloned().collect();
        }
        let observed = trace_one(scratch, &client, revision, &old).await?;
        let mut after = before.clone();
        if let Some((name, writes)) = writes {
            after.backfills.insert(name.clone(), writes);
        }
        for change in observed.iter().flat_map(|seen| &seen.changes) {
            if let Change::Released { table, column } = change {
                after.released.insert((table.clone(), column.clone()));
            }
        }
        told.insert(&revision.id, after);
        traced.push(Traced { revision, observed, before });
    }
    Ok(traced)
}

async fn trace_one(
    scratch: &Scratch,
    client: &Object,
    revision: &Revision,
    old: &BTreeSet<u32>,
) -> Result<Vec<Observed>, Failure> {
    let reset = "RESET ROLE; RESET ALL";
    client.batch_execute(reset).await.map_err(statement("reset the session"))?;
    let mut observed = Vec::new();
    for unit in units(&revision.up, revision.grouping) {
        let steps = &revision.up[unit.range.clone()];
        let schema = scratch.ctx.store.schema();
        let mut tries = 0;
        loop {
            match observe(client, schema, (steps, &unit.kind), old).await {
                Ok(seen) => {
                    observed.extend(seen);
                    break;
                }
                Err((_, error))
                    if tries < ROLES_MAX && make_role(scratch, client, &error).await =>
                {
                    tries += 1;
                }
                Err((i, error)) => return Err(broken(revision, &steps[i], &error)),
            }
        }
    }
    Ok(observed)
}

/// Roles that one unit may name, and that a private server does not have.
const ROLES_MAX: u32 = 20;

/// Makes the role that a statement misses, on a private server, where it is nobody's.
async fn make_role(scratch: &Scratch, client: &Object, error: &tokio_postgres::Error) -> bool {
    let Some(db) = error.as_db_error().filter(|_| scratch.server.is_some()) else { return false };
    let missing = db
        .message()
        .strip_prefix("role \"")
        .and_then(|rest| rest.strip_suffix("\" does not exist"));
    let Some(role) = missing.filter(|_| db.code().code() == "42704") else { return false };
    client.batch_execute(&format!("CREATE ROLE {}", crate::sql::Ident::new(role))).await.is_ok()
}

/// A statement that fails on an empty database would fail on any.
fn broken(revision: &Revision, step: &Statement, error: &tokio_postgres::Error) -> Failure {
    let first_line = step.text.find('\n').unwrap_or(step.text.len());
    let label = error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned());
    let problem = Diagnostic::new(
        "this statement fails on an empty database",
        step.span.start..step.span.start + first_line,
        label,
    )
    .help("the revisions before it, as their files are now, do not lead here; nothing was changed");
    let mut failure = Failure::new(Kind::Failed, problem.message.clone());
    failure.reports = Box::new([Report::new(&revision.path, &revision.source, vec![problem])]);
    failure
}

/// What a spec writes, with the table's name as the catalogs have it.
fn writes(spec: &Spec) -> Writes {
    let words = crate::migrate::split::words(&spec.table.text);
    let names: Vec<&str> =
        words.iter().filter(|word| word.is_name).map(|word| word.text.as_str()).collect();
    // A scratch database has the default search path.
    let table = if names.len() == 1 { format!("public.{}", names[0]) } else { names.join(".") };
    Writes {
        table,
        columns: spec.columns().iter().map(|(column, _)| column.text.clone()).collect(),
    }
}
