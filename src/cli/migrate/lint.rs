//! `migrate lint` and `migrate plan`: what revisions would do, tried on a scratch database and sized on the real one.

use std::collections::BTreeMap;
use std::time::Duration;

use deadpool_postgres::Object;
use serde_json::{Value, json};
use tokio_postgres::types::Type;

use super::super::context::Context;
use super::super::failure::{Exit, Failure, statement};
use super::super::{print, print_json, say};
use super::gate;
use super::scratch::{Scratch, Traced, trace};
use super::standing::{Standing, read_tree};
use super::twins::look_for_twins;
use super::upgrade::choose;
use crate::db;
use crate::diagnostic::{Diagnostic, Report};
use crate::event::{bytes, count, duration};
use crate::migrate::blockers::{Blocker, Target, blockers};
use crate::migrate::class::Way;
use crate::migrate::facts::Change;
use crate::migrate::file::Statement;
use crate::migrate::lint::{self, Weight};
use crate::migrate::trace::{Observed, blocks_writes};
use crate::migrate::tree::Tree;
use crate::spec::Spec;

/// The specs that revisions name, as far as they can be read.
pub(super) fn specs(ctx: &Context, tree: &Tree) -> Result<BTreeMap<String, Spec>, Failure> {
    let mut specs = BTreeMap::new();
    for (name, _) in tree.revisions.iter().filter_map(|revision| revision.backfill.as_ref()) {
        specs.insert(name.clone(), ctx.spec(name)?);
    }
    Ok(specs)
}

/// `backfill migrate lint [REVISION…]`.
pub(super) async fn lint_all(
    ctx: &Context,
    only: &[String],
    scratch_url: Option<&str>,
) -> Result<Exit, Failure> {
    let tree = read_tree(&ctx.directory)?;
    for id in only {
        let nothing = Standing { tree: tree.clone(), recorded: Vec::new(), gates: Vec::new() };
        nothing.find(id)?;
    }
    let scratch = Scratch::make(ctx, scratch_url, None).await?;
    let traced = trace(&scratch, &tree, &specs(ctx, &tree)?).await;
    scratch.remove().await;
    let mut found = Vec::new();
    for one in traced? {
        let is_meant =
            only.is_empty() || only.iter().any(|id| one.revision.id.starts_with(id.as_str()));
        if is_meant {
            let findings = lint::lint(one.revision, &one.observed, &one.before);
            found.extend(findings.into_iter().map(|finding| (one.revision, finding)));
        }
    }
    if ctx.json {
        let shown: Vec<Value> = found
            .iter()
            .map(|(revision, finding)| {
                let line = revision.source[..finding.span.start].matches('\n').count() + 1;
                json!({ "revision": revision.id, "path": revision.path, "line": line, "rule": finding.rule, "weight": if finding.weight == Weight::Note { "note" } else { "warning" }, "message": finding.message, "safe": finding.safe })
            })
            .collect();
        print_json(&json!({ "findings": shown }));
    } else {
        for (revision, finding) in &found {
            let end = revision.source[finding.span.clone()]
                .find('\n')
                .map_or(finding.span.end, |at| finding.span.start + at);
            let problem = Diagnostic::new(
                format!("{}: {}", finding.rule, finding.message),
                finding.span.start..end,
                "here",
            )
            .help(&finding.safe)
            .noted(finding.weight == Weight::Note);
            print(&Report::new(&revision.path, &revision.source, vec![problem]).render(false));
            print("");
        }
        print(&match found.len() {
            0 => "nothing found".to_owned(),
            number => format!(
                "{number} findings, {} of them only notes; a rule is passed over with a line `-- ignore RULE: reason` in the file's header",
                found.iter().filter(|(_, finding)| finding.weight == Weight::Note).count()
            ),
        });
    }
    let fails = found.iter().any(|(_, finding)| finding.weight == Weight::Warning);
    Ok(if fails { Exit::Found } else { Exit::Done })
}

/// What the real database says about a table.
#[derive(Clone, Debug, Default)]
pub(super) struct Live {
    pub(super) oid: u32,
    bytes: i64,
    rows: i64,
}

/// `backfill migrate plan [TARGET]`.
pub(super) async fn plan(
    ctx: &Context,
    target: &str,
    scratch_url: Option<&str>,
) -> Result<Exit, Failure> {
    let client = ctx.connect().await?;
    let standing = Standing::read(ctx, &client).await?;
    let pending = choose(&standing, target, true)?;
    if pending.is_empty() {
        say("nothing to apply: the schema is where it was asked to be");
        return Ok(Exit::Done);
    }
    let version = "select current_setting('server_version_num')::int / 10000";
    let rows =
        db::ask(&client, version, &[]).await.map_err(statement("ask for the server's version"))?;
    let major = u32::try_from(rows[0].get::<_, i32>(0)).ok();
    let scratch = Scratch::make(ctx, scratch_url, major).await?;
    let traced = trace(&scratch, &standing.tree, &specs(ctx, &standing.tree)?).await;
    scratch.remove().await;
    let mut shown = Vec::new();
    for one in traced? {
        if pending.iter().any(|revision| revision.id == one.revision.id) {
            shown.push(show(ctx, &client, &one).await?);
        }
    }
    if ctx.json {
        print_json(&json!({ "revisions": shown }));
    } else {
        shown.iter().for_each(tell);
        print("nothing was changed; apply it with: backfill migrate upgrade");
    }
    Ok(Exit::Done)
}

/// One revision for people and for scripts: both are made from this.
async fn show(ctx: &Context, client: &Object, one: &Traced<'_>) -> Result<Value, Failure> {
    let revision = one.revision;
    let mut steps = Vec::new();
    for (step, seen) in revision.up.iter().zip(&one.observed) {
        steps.push(show_step(client, step, seen).await?);
    }
    let mut gates = Vec::new();
    for demand in &revision.requires {
        // A table that a pending revision makes is not there to be asked.
        let judged = gate::judge(ctx, client, demand).await;
        let (holds, evidence) = match judged {
            Ok(judged) => (judged.holds, judged.evidence),
            Err(failure) => (false, format!("cannot be told yet: {}", failure.message)),
        };
        gates.push(json!({ "demand": demand.show(), "holds": holds, "evidence": evidence }));
    }
    Ok(json!({
        "id": revision.id,
        "title": revision.title,
        "backfill": revision.backfill.as_ref().map(|(name, _)| name),
        "gates": gates,
        "is_reversible": revision.is_reversible(),
        "irreversible": revision.irreversible,
        "steps": steps,
    }))
}

async fn show_step(client: &Object, step: &Statement, seen: &Observed) -> Result<Value, Failure> {
    let mut locks = Vec::new();
    let mut work = 0;
    let mut in_the_way: Vec<Blocker> = Vec::new();
    for (table, mode) in &seen.locks {
        let live = live(client, table).await?;
        if blocks_writes(mode) && live.oid != 0 {
            let mode = if mode == "AccessExclusiveLock" {
                "ACCESS EXCLUSIVE"
            } else {
                "SHARE ROW EXCLUSIVE"
            };
            let target = Target { oid: live.oid, name: table.clone(), mode, is_table: true };
            in_the_way.extend(
                blockers(client, &[target], true).await.map_err(statement("look for locks"))?,
            );
        }
        if reads(seen, table) {
            work += live.bytes;
        }
        locks.push(json!({ "table": table, "mode": mode, "bytes": live.bytes, "rows": live.rows }));
    }
    let class = class(step, seen);
    let seconds = if class == "instant" { 0.0 } else { work as f64 / pace(class) };
    Ok(json!({
        "statement": step.head(),
        "class": class,
        "estimate_s": seconds,
        "locks": locks,
        "changes": seen.changes,
        "in_the_way": in_the_way,
        "duplicates": look_for_twins(client, seen).await,
    }))
}

/// How long a statement takes, in kind.
fn class(step: &Statement, seen: &Observed) -> &'static str {
    let is_rewritten = |change: &Change| matches!(change, Change::Rewritten { .. });
    let is_built = |change: &Change| {
        matches!(
            change,
            Change::IndexAdded { .. }
                | Change::ConstraintAdded { is_fast: false, is_valid: true, .. }
        )
    };
    match &step.way {
        Way::Outside(_) => "beside the application",
        Way::Long => "beside the application",
        _ if seen.changes.iter().any(is_rewritten) => "rewrite",
        _ if seen.changes.iter().any(is_built) => "build",
        _ if seen
            .changes
            .iter()
            .any(|change| matches!(change, Change::Required { is_proved: false, .. })) =>
        {
            "scan"
        }
        _ => "instant",
    }
}

/// Whether a statement goes through all rows of a table.
fn reads(seen: &Observed, table: &str) -> bool {
    seen.changes.iter().any(|change| match change {
        Change::Rewritten { table: of }
        | Change::Required { table: of, is_proved: false, .. }
        | Change::ConstraintAdded { table: of, is_valid: true, is_fast: false, .. }
        | Change::Validated { table: of, .. }
        | Change::IndexAdded { table: of, .. } => of == table,
        _ => false,
    })
}

/// Bytes of table a second, for an estimate: half a gigabyte is read in a second from memory, a fifth is written anew or sorted into an
/// index. Disks are slower; the true time may well be several times the one that is shown.
fn pace(class: &str) -> f64 {
    match class {
        "rewrite" | "build" => 100e6,
        _ => 500e6,
    }
}

pub(super) async fn live(client: &Object, table: &str) -> Result<Live, Failure> {
    let sql = "select c.oid, pg_catalog.pg_relation_size(c.oid), greatest(c.reltuples, 0)::bigint
                 from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                where n.nspname || '.' || c.relname = $1";
    let rows = db::ask(client, sql, &[(&table, Type::TEXT)])
        .await
        .map_err(statement("look up a table"))?;
    Ok(rows.first().map_or_else(Live::default, |row| Live {
        oid: row.get(0),
        bytes: row.get(1),
        rows: row.get(2),
    }))
}

/// A revision in words.
fn tell(shown: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    print(&format!("{} {}", text(&shown["id"]), text(&shown["title"])));
    for gate in shown["gates"].as_array().into_iter().flatten() {
        let word = if gate["holds"] == true { "holds" } else { "does not hold" };
        print(&format!(
            "  requires {}: {word}: {}",
            text(&gate["demand"]),
            text(&gate["evidence"])
        ));
    }
    if let Some(name) = shown["backfill"].as_str() {
        print(&format!("  starts the backfill {name}; see: backfill plan {name}"));
    }
    for step in shown["steps"].as_array().into_iter().flatten() {
        let estimate = match step["estimate_s"].as_f64() {
            Some(seconds) if seconds > 0.0 => {
                format!(", about {} from memory", duration(Duration::from_secs_f64(seconds)))
            }
            _ => String::new(),
        };
        print(&format!("  {}\n      {}{estimate}", text(&step["statement"]), text(&step["class"])));
        for lock in step["locks"].as_array().into_iter().flatten() {
            let size = (lock["bytes"].as_u64().unwrap_or(0), lock["rows"].as_u64().unwrap_or(0));
            print(&format!(
                "      {} on {} ({}, {} rows)",
                text(&lock["mode"]),
                text(&lock["table"]),
                bytes(size.0),
                count(size.1)
            ));
        }
        for twins in step["duplicates"].as_array().into_iter().flatten() {
            print(&format!("      {}", text(&twins["evidence"])));
        }
        for blocker in step["in_the_way"].as_array().into_iter().flatten() {
            let age = duration(Duration::from_secs_f64(blocker["age_s"].as_f64().unwrap_or(0.0)));
            print(&format!(
                "      in the way now: process {} ({}), {} for {age}",
                blocker["pid"],
                text(&blocker["application"]),
                text(&blocker["state"])
            ));
        }
    }
    if shown["is_reversible"] == false {
        let why = shown["irreversible"].as_str().unwrap_or("its file gives no way back");
        print(&format!("  point of no return: {why}"));
    }
}
