//! How a runner's work ended, in words and as an exit code.

use super::context::Context;
use super::failure::{Exit, Failure, Kind};
use super::{print_json, say};
use crate::engine::Outcome;
use crate::event::count;
use crate::report::Report;
use crate::state::{Run, RunState};

/// Tells the end of a run that this process worked on.
pub(crate) async fn tell_end(ctx: &Context, run: &Run, outcome: Outcome) -> Result<Exit, Failure> {
    let name = &run.name;
    let reached = match outcome {
        Outcome::Lost(why) => {
            let mut failure =
                Failure::new(Kind::Stopped, "the server stayed away; the run is interrupted");
            failure.causes.push(why);
            return Err(failure.hint(format!("when it is back: `backfill resume {name}`")));
        }
        Outcome::TakenOver => {
            return Err(Failure::refused(format!(
                "run {} of {name} was taken over by another runner",
                run.run_id
            ))
            .hint(format!("see by whom with `backfill status {name}`")));
        }
        Outcome::Reached(state) => state,
    };
    let client = ctx.connect().await?;
    let run = ctx.store.run(&client, run.run_id).await?;
    let report = Report::load(&client, &ctx.store, run, ctx).await?;
    if ctx.json {
        print_json(&serde_json::json!({ "event": "report", "report": report }));
    } else {
        say(&end_line(&report));
    }
    Ok(match reached {
        RunState::Succeeded if report.rows_quarantined + report.rows_conflicted > 0 => {
            Exit::Quarantined
        }
        RunState::Succeeded => Exit::Done,
        RunState::Failed => Exit::Failed,
        _ => Exit::Stopped,
    })
}

fn end_line(report: &Report) -> String {
    let rows = count(report.rows_done.max(0).unsigned_abs());
    let what = if report.direction == "reverse" { "reverse " } else { "" };
    let mut text = format!(
        "{} {what}{}: {rows} rows in {} chunks",
        report.name, report.state, report.chunks_done
    );
    if let Some(failure) = &report.failure {
        text.push_str(&format!("\n  {failure}"));
    }
    if let Some(spent) = report.spent_text() {
        text.push_str(&format!("\n  time by what held it back: {spent}"));
    }
    for line in report.storage_text() {
        text.push_str(&format!("\n  {line}"));
    }
    if report.rows_quarantined > 0 {
        text.push_str(&format!("\n  {} rows are set aside:", report.rows_quarantined));
        for row in &report.quarantined {
            text.push_str(&format!("\n    ({}) {}", row.key.join(", "), row.message));
        }
    }
    if report.rows_conflicted > 0 {
        let rows = match report.rows_conflicted {
            1 => "1 row was".to_owned(),
            n => format!("{n} rows were"),
        };
        text.push_str(&format!("\n  {rows} not simply given back:"));
        for row in &report.conflicts {
            text.push_str(&format!("\n    ({}) {}", row.key.join(", "), row.in_words()));
        }
    }
    if report.rows_overwritten > 0 {
        text.push_str(&format!("\n  {} rows were overwritten by force", report.rows_overwritten));
    }
    for (seq, _, message) in &report.failed_chunks {
        text.push_str(&format!("\n  chunk {seq}: {message}"));
    }
    if let Some(next) = report.next_command() {
        text.push_str(&format!("\nnext: {next}"));
    }
    text
}
