//! `migrate adopt TOOL`: takes the history of another tool over as a baseline; that tool's own tables are read and never written.

use std::path::PathBuf;

use deadpool_postgres::Object;
use tokio_postgres::types::Type;

use super::super::context::{Context, who};
use super::super::failure::{Exit, Failure, Kind, statement};
use super::super::say;
use super::ChangeFlags;
use super::session::Session;
use super::standing::{Standing, read_tree};
use super::upgrade::record_of;
use super::write::{NewFile, tell, write};
use crate::db;
use crate::migrate::file::{self, Statement};
use crate::sql::QualifiedName;
use crate::state::{Recorded, RevisionState};

/// A tool whose history can be read.
struct Tool {
    name: &'static str,
    table: &'static str,
    /// The versions that are applied, oldest first.
    applied: &'static str,
    /// A version that is half applied; empty where the tool keeps no such thing.
    half: &'static str,
}

const TOOLS: [Tool; 8] = [
    Tool { name: "alembic", table: "alembic_version", applied: "select version_num::text from alembic_version order by 1", half: "" },
    Tool {
        name: "sqlx",
        table: "_sqlx_migrations",
        applied: "select version::text || ' ' || description from _sqlx_migrations where success order by version",
        half: "select version::text from _sqlx_migrations where not success",
    },
    Tool {
        name: "refinery",
        table: "refinery_schema_history",
        applied: "select version::text || ' ' || name from refinery_schema_history order by version",
        half: "",
    },
    Tool {
        name: "flyway",
        table: "flyway_schema_history",
        applied: "select coalesce(version, script) || ' ' || description from flyway_schema_history
                   where success and type not in ('DELETE', 'UNDO_SQL', 'UNDO_JDBC') order by installed_rank",
        half: "select coalesce(version, script) from flyway_schema_history where not success",
    },
    Tool {
        name: "golang-migrate",
        table: "schema_migrations",
        applied: "select version::text from schema_migrations where not dirty",
        half: "select version::text from schema_migrations where dirty",
    },
    Tool { name: "dbmate", table: "schema_migrations", applied: "select version::text from schema_migrations order by 1", half: "" },
    Tool {
        name: "diesel",
        table: "__diesel_schema_migrations",
        applied: "select version::text from __diesel_schema_migrations order by 1",
        half: "",
    },
    Tool {
        name: "django",
        table: "django_migrations",
        applied: "select app || '.' || name from django_migrations order by id",
        half: "",
    },
];

/// `backfill migrate adopt TOOL`.
pub(super) async fn adopt(
    ctx: &Context,
    name: &str,
    change: &ChangeFlags,
) -> Result<Exit, Failure> {
    let Some(tool) = TOOLS.iter().find(|tool| tool.name == name) else {
        let names: Vec<&str> = TOOLS.iter().map(|tool| tool.name).collect();
        return Err(Failure::usage(format!("the history of `{name}` cannot be read"))
            .hint(format!("these can: {}", names.join(", "))));
    };
    if !read_tree(&ctx.directory)?.revisions.is_empty() {
        return Err(Failure::refused(
            "there are revisions in migrations/ already; a baseline comes before all others",
        )
        .hint("to count those as applied: backfill migrate stamp"));
    }
    let session = Session::open(ctx, change.lock_budget).await?;
    let standing = Standing::read(ctx, &session.watch).await?;
    if let Some(first) = standing.recorded.first() {
        return Err(Failure::refused(format!(
            "revision {} is applied here already; a baseline comes before all others",
            first.id
        ))
        .hint("see them with `backfill migrate history`"));
    }
    let versions = read(&session.watch, tool).await?;
    let schema = dump(ctx);
    let written = write(ctx, None, &[baseline(tool, &versions, schema.as_deref())])?;
    tell(ctx, &written);
    let tree = read_tree(&ctx.directory)?;
    let revision = tree
        .heads()
        .first()
        .copied()
        .cloned()
        .ok_or_else(|| Failure::new(Kind::Failed, "the baseline is gone"))?;
    let record =
        Recorded { origin: "adopted".to_owned(), ..record_of(&revision, RevisionState::Applied) };
    ctx.store.put_revision(&session.watch, &record).await?;
    for version in &versions {
        ctx.store
            .log_revision(
                &session.watch,
                &who(),
                &revision.id,
                "adopted",
                &format!("{name} {version}"),
            )
            .await?;
    }
    session.close();
    say(&format!(
        "{} counts as applied: {} versions of {name} are behind it; {} is left as it is",
        revision.id,
        versions.len(),
        tool.table
    ));
    if schema.is_none() {
        say(
            "without pg_dump the baseline is empty: plan, lint and test need the schema in its `-- up` (pg_dump --schema-only)",
        );
    }
    Ok(Exit::Done)
}

async fn read(client: &Object, tool: &Tool) -> Result<Vec<String>, Failure> {
    let look = || statement("look for the table");
    let oid = db::find_relation(client, tool.table).await.map_err(look())?;
    let sql = "select n.nspname::text, c.relname::text from pg_catalog.pg_class c
                 join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.oid = $1";
    let found = db::ask(client, sql, &[(&oid, Type::OID)]).await.map_err(look())?;
    let Some(table) = found.first() else {
        return Err(Failure::refused(format!(
            "there is no table {} here, so {} has applied nothing",
            tool.table, tool.name
        ))
        .hint("is it in another database or schema? `backfill doctor` shows where this one is"));
    };
    let table = QualifiedName::new(table.get::<_, String>(0), table.get::<_, String>(1));
    let ask = async |sql: &str| -> Result<Vec<String>, Failure> {
        let sql = sql.replacen(&format!("from {}", tool.table), &format!("from {table}"), 1);
        let rows =
            db::ask(client, &sql, &[]).await.map_err(statement("read the other tool's history"))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    };
    if !tool.half.is_empty()
        && let Some(half) = ask(tool.half).await?.first()
    {
        return Err(Failure::refused(format!("{} is half applied, says {}", half, tool.table))
            .hint(format!("mend it with {} first", tool.name)));
    }
    ask(tool.applied).await
}

fn baseline(tool: &Tool, versions: &[String], schema: Option<&str>) -> NewFile {
    let list: String =
        versions.iter().map(|version| format!("--   {}\n", version.replace('\n', " "))).collect();
    let body = format!(
        "-- Everything before it was applied by {}:\n{list}-- irreversible: the schema before it belongs to {}\n\n-- up\n{}",
        tool.name,
        tool.name,
        schema.unwrap_or_default()
    );
    NewFile { title: format!("adopted from {}", tool.name), body }
}

/// The schema as SQL, by `pg_dump` where there is one, so that a scratch database can be made from the files.
fn dump(ctx: &Context) -> Option<String> {
    let variables = ctx.database.variables();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> =
        beside.map(|version| version.path().join("bin/pg_dump")).collect();
    places.sort();
    places.reverse();
    places.extend(std::env::split_paths(&path).map(|place| place.join("pg_dump")));
    for program in places.into_iter().filter(|program| program.is_file()) {
        let mut command = std::process::Command::new(program);
        command
            .args(["--schema-only", "--no-owner", "--no-privileges", "--exclude-schema"])
            .arg(ctx.store.schema().to_string());
        let Ok(output) = command.envs(variables.clone()).output() else { continue };
        if output.status.success() {
            return Some(without_meta(&String::from_utf8_lossy(&output.stdout)));
        }
    }
    None
}

/// Without the commands of psql that `pg_dump` puts around it, its settings, and what every database has.
fn without_meta(dumped: &str) -> String {
    let plain: String = dumped
        .lines()
        .filter(|line| !line.starts_with('\\'))
        .map(|line| format!("{line}\n"))
        .collect();
    let Some(statements) = file::statements(&plain) else { return String::new() };
    let is_noise = |statement: &Statement| {
        let words = statement.words();
        let is = |i: usize, word: &str| words.get(i).is_some_and(|found| found.text == word);
        // Bodies of functions name tables that come after them.
        let is_setting = is(0, "set") && !is(1, "check_function_bodies");
        is_setting
            || (is(0, "select") && is(3, "set_config"))
            || (is(0, "create") && is(1, "schema") && is(2, "public"))
    };
    let kept = statements.iter().filter(|statement| !is_noise(statement));
    kept.map(|statement| format!("{};\n", statement.text)).collect()
}
