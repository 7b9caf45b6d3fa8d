//! `plan`: what a run would do, tried on the live table and rolled back.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::context::Context;
use super::failure::{Exit, Failure};
use super::{AcceptFlags, LimitFlags, pace, print, print_json};
use crate::calendar::week;
use crate::engine::stripe_rows_max;
use crate::event::{bytes, count, duration};
use crate::plan::{Accepted, ByLeaf, Forecast, LeafNow, Plan, Rehearsal, rehearse};
use crate::settings::Limits;
use crate::signal::Kind;
use crate::spec::Spec;
use crate::undo::UndoMode;

/// What the rehearsed chunk says about the whole run.
#[derive(Debug, Serialize)]
struct Estimate {
    chunks: i64,
    wal_bytes: i64,
    before_image_bytes: Option<i64>,
    seconds_low: f64,
    seconds_high: f64,
}

/// What will pace the run.
struct Pacing {
    week: Vec<String>,
    signals: Vec<&'static str>,
    blind: Vec<Kind>,
    forecast: Forecast,
}

/// `backfill plan NAME`.
pub(super) async fn plan(
    ctx: &Context,
    name: &str,
    flags: LimitFlags,
    accepted: AcceptFlags,
) -> Result<Exit, Failure> {
    let spec = ctx.spec(name)?;
    let limits = ctx.limits(flags.layer(), &spec)?;
    let client = ctx.connect().await?;
    let accepted =
        Accepted { subscribers_prepared: accepted.subscribers_prepared, ..Accepted::default() };
    let mut plan = Plan::make(&client, &spec, ctx.store.schema(), accepted).await?;
    let rehearsed = rehearse::rehearse(&client, &plan).await?;
    let health = pace::health(ctx, &spec);
    if health.has(Kind::Latency) {
        plan.warnings.push("the signal `latency` finds the rate while the run is at work: it may take far longer than estimated here".to_owned());
    }
    let pacing = Pacing {
        week: week::chart(&pace::calendar(ctx, &spec), Timestamp::now(), limits.rate.value),
        blind: pace::blind(&client, &health).await?,
        forecast: plan.forecast(pace::vacuum(ctx, &spec).every),
        signals: health.signals.iter().map(|(kind, _)| kind.name()).collect(),
    };
    if ctx.json {
        print_json(&as_json(&spec, &plan, &rehearsed, &limits, &pacing));
    } else {
        print(&as_text(&spec, &plan, &rehearsed, &limits, &pacing, ctx.verbose));
    }
    Ok(Exit::Done)
}

type Rehearsed = Result<Option<Rehearsal>, String>;

/// Part of the WAL of an update that is spared when it is HOT: 0.57 with three secondary indexes, 0.46 with none.
const HOT_SAVES: f64 = 0.5;

fn estimate(plan: &Plan, rehearsed: &Rehearsed, limits: &Limits) -> Option<Estimate> {
    let rehearsal = rehearsed.as_ref().ok()?.as_ref().filter(|rehearsal| rehearsal.rows > 0)?;
    let rows = rehearsal.rows as f64;
    let ms_per_row = rehearsal.took.as_secs_f64() * 1000.0 / rows;
    let to_do = plan.rows_to_do as f64;
    let chunk_rows = (limits.chunk_time.value.as_secs_f64() * 1000.0 / ms_per_row)
        .max(100.0)
        .min(f64::from(limits.chunk_rows_max.value));
    let chunk_rows = plan.way.striping.map_or(chunk_rows, |striping| {
        chunk_rows.min(stripe_rows_max(striping, limits.workers.value))
    });
    let share = (to_do / (plan.table_rows.max(1) as f64)).clamp(0.001, 1.0);
    let unlimited = to_do * ms_per_row / 1000.0 / f64::from(limits.workers.value);
    // The rehearsed chunk found no stripe before it.
    let hot_share = plan.way.striping.map_or(0.0, |_| plan.hot_share());
    let wal_per_row = rehearsal.wal_bytes as f64 / rows * (1.0 - hot_share * HOT_SAVES);
    let paced = to_do / limits.rate.value.as_rows(wal_per_row);
    Some(Estimate {
        chunks: chunks(plan, to_do / share, chunk_rows),
        wal_bytes: (wal_per_row * to_do) as i64,
        before_image_bytes: rehearsal
            .image_bytes
            .map(|weight| (weight as f64 / rows * to_do) as i64),
        // A chunk of a few hundred rows on a warm page is the best case; workers that share a disk rarely reach twice it.
        seconds_low: unlimited.max(paced),
        seconds_high: (unlimited * 2.5).max(paced * 1.1),
    })
}

/// Chunks of so many entries that a table of so many rows is cut into: no chunk reaches over two leaves, and every slice of stripes has all
/// of them.
fn chunks(plan: &Plan, rows: f64, chunk_rows: f64) -> i64 {
    let k = plan.way.striping.map_or(1.0, |striping| f64::from(striping.k));
    let leaves = plan.by_leaf().map_or(vec![rows as i64], |by_leaf| by_leaf.rows(rows as i64));
    let small = plan.small_leaves();
    let of_leaf = |(number, rows): (usize, &i64)| {
        let k = if small.contains(&number) { 1.0 } else { k };
        (*rows as f64 / (chunk_rows * k)).ceil() * k
    };
    (1..).zip(&leaves).map(of_leaf).sum::<f64>() as i64
}

fn as_json(
    spec: &Spec,
    plan: &Plan,
    rehearsed: &Rehearsed,
    limits: &Limits,
    pacing: &Pacing,
) -> serde_json::Value {
    let rehearsal = rehearsed.as_ref().ok().and_then(Option::as_ref).map(|rehearsal| {
        serde_json::json!({
            "keys": rehearsal.keys,
            "rows": rehearsal.rows,
            "took_ms": rehearsal.took.as_secs_f64() * 1000.0,
            "wal_bytes": rehearsal.wal_bytes,
            "before_image_bytes": rehearsal.image_bytes,
        })
    });
    serde_json::json!({
        "name": spec.name,
        "description": spec.description,
        "table": plan.table.name.plain(),
        "key": plan.key.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(),
        "key_index": plan.index,
        "ceiling": plan.ceiling.as_ref().map(|bound| &bound.0),
        "leaves": plan.by_leaf().map(leaves_json),
        "through_parent_because": plan.leaves.as_ref().and_then(|leaves| leaves.as_ref().err()),
        "statement": plan.update_statement(),
        "remaining": plan.remaining,
        "undo": plan.undo,
        "table_rows_estimate": plan.table_rows,
        "rows_to_do_estimate": plan.rows_to_do,
        "order": { "by_place": plan.way.is_physical, "stripes": plan.way.striping.map_or(1, |striping| striping.k), "reason": plan.way.reason },
        "storage": pacing.forecast,
        "hot_possible": plan.hot_blockers.is_empty(),
        "hot_blockers": plan.hot_blockers,
        "rehearsal": rehearsal,
        "rehearsal_error": rehearsed.as_ref().err(),
        "estimate": estimate(plan, rehearsed, limits),
        "warnings": plan.warnings,
        "week": pacing.week,
        "signals": pacing.signals,
        "blind_signals": pacing.blind,
        "limits": {
            "workers": limits.workers,
            "rate": limits.rate,
            "chunk_time_ms": { "value": limits.chunk_time.value.as_millis() as u64, "origin": limits.chunk_time.origin },
            "chunk_rows_max": limits.chunk_rows_max,
            "quarantine_max": limits.quarantine_max,
            "durability": limits.durability,
            "lock_timeout_ms": { "value": limits.lock_timeout.value.as_millis() as u64, "origin": limits.lock_timeout.origin },
        },
    })
}

fn as_text(
    spec: &Spec,
    plan: &Plan,
    rehearsed: &Rehearsed,
    limits: &Limits,
    pacing: &Pacing,
    verbose: bool,
) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut line = |label: &str, value: String| lines.push(format!("  {label:<12} {value}"));
    line(
        "table",
        format!(
            "{}, {} heap",
            plan.table.name.plain(),
            bytes(plan.table.heap_bytes.max(0).unsigned_abs())
        ),
    );
    line(
        "key",
        match plan.key.is_places() {
            true => "none: by place, and without a way back".to_owned(),
            false => format!("({}) by index {}", plan.key.plain(), plan.index),
        },
    );
    match &plan.ceiling {
        Some(_) if plan.by_leaf().is_some() => {
            let own = "of each leaf its own greatest key (rows inserted behind it, or into a leaf that is empty now, are the application's)";
            line("ceiling", own.to_owned());
        }
        Some(_) if plan.key.is_places() => {
            line("ceiling", "none: rows inserted while it runs are done too".to_owned());
        }
        Some(ceiling) => {
            line("ceiling", format!("{ceiling} (rows inserted behind it are the application's)"));
        }
        None => line("ceiling", "none: the table is empty".to_owned()),
    }
    if let Some(leaves) = &plan.leaves {
        line("leaves", leaves_text(leaves, verbose));
    }
    line("rows", format!("about {} of {} to write", big(plan.rows_to_do), big(plan.table_rows)));
    match rehearsed {
        Ok(Some(rehearsal)) if rehearsal.rows > 0 => {
            let per_row = rehearsal.wal_bytes / rehearsal.rows;
            let took = duration(rehearsal.took);
            line(
                "rehearsed",
                format!("{} rows in {took}, {per_row} B of WAL a row; rolled back", rehearsal.rows),
            );
        }
        Ok(Some(_)) => {
            line("rehearsed", "the first chunk has nothing to do, so cost is unknown".to_owned());
        }
        Ok(None) => {}
        Err(error) => line("rehearsed", format!("failed, as chunks of the run may: {error}")),
    }
    if let Some(estimate) = estimate(plan, rehearsed, limits) {
        let time = |seconds: f64| duration(Duration::from_secs_f64(seconds.clamp(0.001, 1e9)));
        let range = format!("{} to {}", time(estimate.seconds_low), time(estimate.seconds_high));
        line("estimate", format!("{} chunks, {range}", big(estimate.chunks)));
        line(
            "WAL",
            format!(
                "about {}, more after each checkpoint",
                bytes(estimate.wal_bytes.unsigned_abs())
            ),
        );
    }
    let weight = estimate(plan, rehearsed, limits).and_then(|estimate| estimate.before_image_bytes);
    line("undo", undo(plan.undo, weight));
    line("order", plan.way.reason.clone());
    line("HOT", hot(plan));
    line("storage", storage(plan, pacing.forecast));
    line("verify", match &plan.remaining {
        Some(_) => "from the data: no row left that the statement would write".to_owned(),
        None => "from the chunk map only: the data cannot tell a row that is done; `[verify] remaining` can".to_owned(),
    });
    for (label, value) in limit_lines(limits, verbose) {
        line(label, value);
    }
    for (i, row) in pacing.week.iter().enumerate() {
        line(if i == 0 { "the week" } else { "" }, row.clone());
    }
    line(
        "signals",
        match pacing.signals.is_empty() {
            true => "none: [health] turns all of them off".to_owned(),
            false => pacing.signals.join(", "),
        },
    );
    if !pacing.blind.is_empty() {
        let (blind, mend) = (pace::names(&pacing.blind), pace::mend(&plan.server.role));
        line(
            "blind",
            format!(
                "this role cannot see {blind}; a run will refuse without --accept-blind: {mend}"
            ),
        );
    }
    for warning in &plan.warnings {
        line("warning", warning.clone());
    }
    let head = match &spec.description {
        Some(description) => format!("{}: {description}", spec.name),
        None => spec.name.clone(),
    };
    let statement = indent(&plan.update_statement());
    let next = format!("nothing was changed; start it with: backfill run {}", spec.name);
    format!("{head}\n{}\n  each chunk runs\n{statement}\n{next}", lines.join("\n"))
}

/// Leaves that are named without being asked for: what fits in a line.
const NAMED: usize = 4;

/// The leaves in the order of the run, or why they are gone through as one.
fn leaves_text(leaves: &Result<ByLeaf, String>, verbose: bool) -> String {
    let by_leaf = match leaves {
        Ok(by_leaf) => by_leaf,
        Err(reason) => return format!("gone through as one, through the parent: {reason}"),
    };
    let size = |leaf: &LeafNow| {
        format!("{} {}", leaf.name.plain(), bytes(leaf.heap_bytes.max(0).unsigned_abs()))
    };
    let named = if verbose { by_leaf.now.len() } else { NAMED };
    let mut names: Vec<String> = by_leaf.now.iter().take(named).map(size).collect();
    if by_leaf.now.len() > named {
        names.push(format!("and {} more (-v names them)", by_leaf.now.len() - named));
    }
    format!("{}, one after the other: {}", by_leaf.now.len(), names.join(", "))
}

fn leaves_json(by_leaf: &ByLeaf) -> Vec<serde_json::Value> {
    let leaves = by_leaf.now.iter().zip(&by_leaf.leaves.0);
    leaves
        .map(|(now, leaf)| {
            serde_json::json!({
                "table": now.name.plain(),
                "heap_bytes": now.heap_bytes,
                "ceiling": leaf.ceiling.as_ref().map(|bound| &bound.0),
            })
        })
        .collect()
}

/// What the table is expected to come to.
fn storage(plan: &Plan, forecast: Forecast) -> String {
    let size = |n: i64| bytes(n.max(0).unsigned_abs());
    let vacuumed = if forecast.heap_bytes < forecast.heap_bytes_without_vacuum {
        format!(" ({} without vacuums on the way)", size(forecast.heap_bytes_without_vacuum))
    } else {
        String::new()
    };
    format!(
        "heap {} → about {}{vacuumed}, indexes {} → about {}",
        size(plan.table.heap_bytes),
        size(forecast.heap_bytes),
        size(plan.table.index_bytes),
        size(forecast.index_bytes)
    )
}

/// What the mode of undo costs and what it gives up.
fn undo(mode: UndoMode, weight: Option<i64>) -> String {
    match (mode, weight) {
        (UndoMode::Capture, Some(weight)) => {
            let weight = bytes(weight.unsigned_abs());
            format!("exact: before-images, about {weight}, kept until `backfill prune`")
        }
        (UndoMode::Capture, None) => "exact: before-images, kept until `backfill prune`".to_owned(),
        (UndoMode::Statement, _) => "by the spec's undo rules: no before-images, so what the application changes \
            meanwhile is neither noticed nor spared, and values come back only as exactly as the rules say"
            .to_owned(),
        (UndoMode::None, _) => {
            "none: the spec says so; the old values are lost, and `backfill reverse` will refuse".to_owned()
        }
    }
}

fn hot(plan: &Plan) -> String {
    if plan.hot_blockers.is_empty() {
        "possible: no index mentions a written column".to_owned()
    } else {
        format!(
            "impossible: {} mention a written column, so every row also writes to all indexes",
            plan.hot_blockers.join(", ")
        )
    }
}

fn limit_lines(limits: &Limits, verbose: bool) -> Vec<(&'static str, String)> {
    let rate = limits.rate.value;
    if !verbose {
        let workers = limits.workers.value;
        let chunk_time = duration(limits.chunk_time.value);
        return vec![(
            "limits",
            format!("{workers} workers, {rate}, chunks of {chunk_time} (-v tells where from)"),
        )];
    }
    vec![
        ("workers", format!("{} ({})", limits.workers.value, limits.workers.origin)),
        ("rate", format!("{rate} ({})", limits.rate.origin)),
        (
            "chunk time",
            format!("{} ({})", duration(limits.chunk_time.value), limits.chunk_time.origin),
        ),
        (
            "chunk rows",
            format!("at most {} ({})", limits.chunk_rows_max.value, limits.chunk_rows_max.origin),
        ),
        (
            "quarantine",
            format!("at most {} ({})", limits.quarantine_max.value, limits.quarantine_max.origin),
        ),
        ("durability", format!("{} ({})", limits.durability.value, limits.durability.origin)),
        (
            "lock wait",
            format!("{} ({})", duration(limits.lock_timeout.value), limits.lock_timeout.origin),
        ),
    ]
}

fn big(number: i64) -> String {
    count(number.max(0).unsigned_abs())
}

fn indent(sql: &str) -> String {
    sql.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}
