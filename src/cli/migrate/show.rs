//! `migrate current`, `history`, `heads`, `show`, `check`: where the schema stands.

use serde_json::json;

use super::super::context::Context;
use super::super::failure::{Exit, Failure};
use super::super::status::plain_table;
use super::super::{print, print_json};
use super::standing::Standing;
use crate::migrate::file::Revision;
use crate::state::{Recorded, RevisionState};

async fn standing(ctx: &Context) -> Result<Standing, Failure> {
    let client = ctx.connect().await?;
    Standing::read(ctx, &client).await
}

/// `backfill migrate current`.
pub(super) async fn current(ctx: &Context) -> Result<Exit, Failure> {
    let standing = standing(ctx).await?;
    let current = standing.current();
    let pending = super::upgrade::pending_ids(&standing);
    let overridden: Vec<_> =
        standing.gates.iter().filter(|gate| gate.outcome == "overridden").collect();
    if ctx.json {
        print_json(&json!({ "current": current, "pending": pending, "overridden": overridden }));
        return Ok(Exit::Done);
    }
    if current.is_empty() {
        print("nothing is applied");
    }
    for record in current {
        print(&format!("{} {} ({})", record.id, record.title, state_words(record)));
    }
    if !pending.is_empty() {
        print(&format!("pending: {}; apply them with: backfill migrate upgrade", pending.len()));
    }
    for gate in overridden {
        print(&format!(
            "overridden by {} at {}: {} requires {}: {}",
            gate.who, gate.at, gate.revision, gate.demand, gate.evidence
        ));
    }
    Ok(Exit::Done)
}

fn state_words(record: &Recorded) -> String {
    let state = match (record.state, record.origin.as_str()) {
        (RevisionState::Applied, "ran") => "applied".to_owned(),
        (RevisionState::Applied, origin) => origin.to_owned(),
        (RevisionState::Applying, _) => {
            "interrupted; go on with: backfill migrate upgrade".to_owned()
        }
        (RevisionState::Reverting, _) => {
            "half taken back; go on with: backfill migrate downgrade -1".to_owned()
        }
    };
    format!("{state}, {}", record.applied_at)
}

/// `backfill migrate history`.
pub(super) async fn history(ctx: &Context) -> Result<Exit, Failure> {
    let standing = standing(ctx).await?;
    if ctx.json {
        let revisions: Vec<_> =
            standing.tree.revisions.iter().map(|revision| as_json(&standing, revision)).collect();
        let only_recorded = standing.without_file();
        print_json(&json!({ "revisions": revisions, "without_file": only_recorded }));
        return Ok(Exit::Done);
    }
    let mut table = plain_table(&["revision", "builds on", "state", "", "title"]);
    for revision in &standing.tree.revisions {
        let record = standing.record(&revision.id);
        let state = record.map_or("pending", |record| record.state.as_str());
        table.add_row([
            &revision.id,
            &parents(revision),
            state,
            &marks(&standing, revision),
            &revision.title,
        ]);
    }
    for record in standing.without_file() {
        table.add_row([
            &record.id,
            &record.parents.join(", "),
            record.state.as_str(),
            "no file here",
            &record.title,
        ]);
    }
    print(&table.to_string());
    Ok(Exit::Done)
}

fn parents(revision: &Revision) -> String {
    let ids: Vec<&str> = revision.revises.iter().map(|(id, _)| id.as_str()).collect();
    if ids.is_empty() { "base".to_owned() } else { ids.join(", ") }
}

/// What sets a revision apart, in a few words.
fn marks(standing: &Standing, revision: &Revision) -> String {
    let mut marks = Vec::new();
    if let Some((name, _)) = &revision.backfill {
        marks.push(format!("backfill {name}"));
    }
    marks.extend(revision.requires.iter().map(|demand| format!("requires {}", demand.show())));
    if standing
        .gates
        .iter()
        .any(|gate| gate.revision == revision.id && gate.outcome == "overridden")
    {
        marks.push("gate overridden".to_owned());
    }
    if revision.stop.is_some() {
        marks.push("stops before it".to_owned());
    }
    if !revision.is_reversible() {
        marks.push("no way back".to_owned());
    }
    if standing.edited().iter().any(|edited| edited.id == revision.id) {
        marks.push("edited since".to_owned());
    }
    marks.join("; ")
}

fn as_json(standing: &Standing, revision: &Revision) -> serde_json::Value {
    let record = standing.record(&revision.id);
    let gates: Vec<_> = standing.gates.iter().filter(|gate| gate.revision == revision.id).collect();
    json!({
        "id": revision.id,
        "title": revision.title,
        "path": revision.path,
        "revises": revision.revises.iter().map(|(id, _)| id).collect::<Vec<_>>(),
        "requires": revision.requires.iter().map(crate::migrate::requirement::Requirement::show).collect::<Vec<_>>(),
        "backfill": revision.backfill.as_ref().map(|(name, _)| name),
        "is_reversible": revision.is_reversible(),
        "irreversible": revision.irreversible,
        "stop": revision.stop,
        "state": record.map_or("pending", |record| record.state.as_str()),
        "applied_at": record.map(|record| &record.applied_at),
        "applied_by": record.map(|record| &record.applied_by),
        "origin": record.map(|record| &record.origin),
        "gates": gates,
    })
}

/// `backfill migrate heads`.
pub(super) async fn heads(ctx: &Context) -> Result<Exit, Failure> {
    let tree = super::standing::read_tree(&ctx.directory)?;
    let heads = tree.heads();
    if ctx.json {
        print_json(&json!({ "heads": heads.iter().map(|head| &head.id).collect::<Vec<_>>() }));
        return Ok(Exit::Done);
    }
    for head in &heads {
        print(&format!("{} {} ({})", head.id, head.title, head.path));
    }
    if heads.len() > 1 {
        print("join them with: backfill migrate merge -m \"…\"");
    }
    Ok(Exit::Done)
}

/// `backfill migrate show ID`.
pub(super) async fn show(ctx: &Context, typed: &str) -> Result<Exit, Failure> {
    let standing = standing(ctx).await?;
    let revision = standing.find(typed)?;
    let client = ctx.connect().await?;
    let log = match ctx.has_tables(&client).await? {
        true => ctx.store.revision_log(&client).await?,
        false => Vec::new(),
    };
    let log: Vec<_> = log.into_iter().filter(|line| line[2] == revision.id).collect();
    if ctx.json {
        let mut value = as_json(&standing, revision);
        value["source"] = json!(revision.source);
        value["log"] = json!(log);
        print_json(&value);
        return Ok(Exit::Done);
    }
    let record = standing.record(&revision.id);
    let state = record.map_or_else(|| "pending".to_owned(), state_words);
    print(&format!(
        "{} {} ({state})\n{}\n\n{}",
        revision.id,
        revision.title,
        revision.path,
        revision.source.trim_end()
    ));
    for gate in standing.gates.iter().filter(|gate| gate.revision == revision.id) {
        print(&format!(
            "{} {} {}: {} ({})",
            gate.at, gate.demand, gate.outcome, gate.evidence, gate.who
        ));
    }
    for [at, who, _, event, detail] in log {
        print(&format!("{at} {event} by {who}: {detail}"));
    }
    Ok(Exit::Done)
}

/// `backfill migrate check`: whether files and database agree; exit 6 when they do not.
pub(super) async fn check(ctx: &Context) -> Result<Exit, Failure> {
    let standing = standing(ctx).await?;
    let mut found = Vec::new();
    for edited in standing.edited() {
        found.push(format!(
            "{} has been edited since it was applied; see: backfill migrate resolve {} --restamp --reason \"…\"",
            edited.path, edited.id
        ));
    }
    for record in standing.without_file() {
        found.push(format!(
            "revision {} ({}) is applied and has no file here",
            record.id, record.title
        ));
    }
    for record in standing.recorded.iter().filter(|record| record.state != RevisionState::Applied) {
        found.push(format!("{} is {}", record.id, state_words(record)));
    }
    let heads = standing.tree.heads();
    if heads.len() > 1 {
        let ids: Vec<&str> = heads.iter().map(|head| head.id.as_str()).collect();
        found.push(format!(
            "the history has {} heads: {}; join them: backfill migrate merge",
            heads.len(),
            ids.join(", ")
        ));
    }
    for revision in &standing.tree.revisions {
        for name in revision
            .backfill
            .iter()
            .map(|(name, _)| name)
            .chain(revision.requires.iter().map(|demand| &demand.name))
        {
            if standing.record(&revision.id).is_none() && ctx.spec(name).is_err() {
                found.push(format!(
                    "{} names the backfill {name}, whose spec cannot be read: backfill plan {name}",
                    revision.path
                ));
            }
        }
    }
    let pending = super::upgrade::pending_ids(&standing);
    if ctx.json {
        print_json(&json!({ "findings": found, "pending": pending }));
    } else {
        found.iter().for_each(|finding| print(finding));
        if found.is_empty() {
            print(&format!("files and database agree; {} revisions are pending", pending.len()));
        }
    }
    Ok(if found.is_empty() { Exit::Done } else { Exit::Found })
}
