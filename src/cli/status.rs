//! `status`, `list` and `log`: what the state tables say.

use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};

use super::context::Context;
use super::failure::{Exit, Failure};
use super::{print, print_json, say};
use crate::event::count;
use crate::report::Report;

/// `backfill status [NAME] [--watch]`.
pub(super) async fn status(
    ctx: &Context,
    name: Option<&str>,
    watch: bool,
) -> Result<Exit, Failure> {
    let Some(name) = name else { return all(ctx).await };
    loop {
        let client = ctx.connect().await?;
        let run = ctx.need_run(&client, name).await?;
        let report = Report::load(&client, &ctx.store, run, ctx).await?;
        drop(client);
        if watch && std::io::stdout().is_terminal() && !ctx.json {
            // Home and clear: the report keeps its place on the screen.
            let _ = write!(std::io::stdout().lock(), "\x1b[H\x1b[2J");
        }
        if ctx.json {
            print_json(&report);
        } else {
            print(&report.text());
        }
        if !watch || !report.is_live() {
            return Ok(Exit::Done);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn all(ctx: &Context) -> Result<Exit, Failure> {
    let reports = reports(ctx).await?;
    if ctx.json {
        print_json(&serde_json::json!({ "runs": reports }));
    } else if reports.is_empty() {
        say("nothing has been run here; start with `backfill plan NAME` and `backfill run NAME`");
    } else {
        for report in reports {
            print(&report.text());
        }
    }
    Ok(Exit::Done)
}

async fn reports(ctx: &Context) -> Result<Vec<Report>, Failure> {
    let client = ctx.connect().await?;
    if !ctx.has_tables(&client).await? {
        return Ok(Vec::new());
    }
    let mut reports = Vec::new();
    for run in ctx.store.list(&client).await? {
        reports.push(Report::load(&client, &ctx.store, run, ctx).await?);
    }
    Ok(reports)
}

/// `backfill list`: every spec, and the newest run of each, also of specs that are gone.
pub(super) async fn list(ctx: &Context) -> Result<Exit, Failure> {
    let reports = reports(ctx).await?;
    let mut names = ctx.spec_names();
    names.extend(reports.iter().map(|report| report.name.clone()));
    names.sort();
    names.dedup();
    let found = |name: &str| reports.iter().find(|report| report.name == name);
    if ctx.json {
        let entries: Vec<_> = names
            .iter()
            .map(|name| serde_json::json!({ "name": name, "newest_run": found(name) }))
            .collect();
        print_json(&serde_json::json!({ "backfills": entries }));
        return Ok(Exit::Done);
    }
    if names.is_empty() {
        say("there are no specs in backfills/; write one with `backfill new NAME`");
        return Ok(Exit::Done);
    }
    let mut table = plain_table(&["name", "state", "progress", "rows", "updated"]);
    for name in &names {
        match found(name) {
            Some(report) => table.add_row([
                name.clone(),
                report.state.clone(),
                format!("{:.1} %", report.percent()),
                count(report.rows_done.max(0).unsigned_abs()),
                report.updated_at.clone(),
            ]),
            None => table.add_row([name.as_str(), "never run", "", "", ""]),
        };
    }
    print(&table.to_string());
    Ok(Exit::Done)
}

/// Conflicts that `log` lists: enough to look at each, and more than a screen is a matter for SQL.
const CONFLICTS_LISTED: i64 = 1_000;

/// `backfill log NAME`: the audit trail of all runs, and the conflicts of the newest.
pub(super) async fn log(ctx: &Context, name: &str) -> Result<Exit, Failure> {
    let client = ctx.connect().await?;
    let run = ctx.need_run(&client, name).await?;
    let lines = ctx.store.read_log(&client, name).await?;
    let conflicts = ctx.store.conflicts(&client, run.run_id, CONFLICTS_LISTED).await?;
    if ctx.json {
        print_json(&serde_json::json!({ "name": name, "log": lines, "conflicts": conflicts }));
        return Ok(Exit::Done);
    }
    let mut table = plain_table(&["at", "run", "event", "detail", "who"]);
    for line in lines {
        table.add_row([line.at, line.run_id.to_string(), line.event, line.detail, line.who]);
    }
    for row in conflicts {
        let (run, key) = (run.run_id.to_string(), row.key.join(", "));
        let detail = format!("({key}) {}", row.in_words());
        table.add_row([row.found_at, run, "conflict".to_owned(), detail, String::new()]);
    }
    print(&table.to_string());
    Ok(Exit::Done)
}

/// A table without boxes, as wide as the terminal when there is one.
pub(super) fn plain_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if !std::io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table.set_header(header.to_vec());
    table
}
