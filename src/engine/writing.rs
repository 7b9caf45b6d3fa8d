//! The writing statements of a chunk, and the proof that what was saved, written and left alone is the same rows.

use std::borrow::Cow;
use std::time::Instant;

use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::{Fault, Setback, Work};
use crate::db::Class;
use crate::db::session::Bounds;
use crate::plan::rehearse::{params as range_params, typed};
use crate::plan::{ByRange, Keep};
use crate::state::Claim;
use crate::undo::Conflicts;

/// What the writing statements did.
#[derive(Clone, Copy, Default)]
pub(super) struct Written {
    pub(super) rows: i64,
    pub(super) image_bytes: i64,
    /// Whether nothing was there to be written, because the leaf is no part of the table any more.
    pub(super) is_passed_over: bool,
    /// Whether rows of other leaves are among them.
    pub(super) is_elsewhere: bool,
}

/// Locks and saves when before-images are kept that way, then writes; and makes sure that both met the same rows.
pub(super) async fn write(
    work: &Work,
    client: &Client,
    claim: &Claim,
    seq: i64,
    bounds: Bounds,
) -> Result<Written, Setback> {
    let form = claim.range.form();
    let params = range_params(&claim.range);
    let mut step = Instant::now();
    let fault = |error: tokio_postgres::Error, step: Instant| {
        Setback::from_place(&error, &claim.place, step.elapsed(), bounds.statement)
    };
    let here = |sql: &ByRange| claim.place.text(sql.get(form)).map(Cow::into_owned);
    if let Some(ambiguous) = work.sql.ambiguous.as_ref().and_then(here) {
        let rows = client.query_typed(&ambiguous, &typed(&params)).await;
        if let Some(row) = rows.map_err(|error| fault(error, step))?.first() {
            return Err(ambiguous_join(&row.get::<_, Vec<String>>(0)));
        }
        step = Instant::now();
    }
    let Some(keep) = &work.sql.keep else {
        let Some(update) = here(&work.sql.update) else { return Ok(Written::passed_over()) };
        let rows = client.execute_typed(&update, &typed(&params)).await;
        let rows = rows.map_err(|error| fault(error, step))? as i64;
        return Ok(Written { rows, ..Written::default() });
    };
    let mut bind = typed(&params);
    bind.extend([(&seq as &(dyn ToSql + Sync), Type::INT8), (&claim.source_seq, Type::INT8)]);
    let Some(write) = here(&keep.write) else {
        let Some(gone) = keep.elsewhere.as_ref().and_then(|elsewhere| here(&elsewhere.gone)) else {
            return Ok(Written::passed_over());
        };
        let rows = client.query_typed(&gone, &bind).await.map_err(|error| fault(error, step))?;
        let back = Counts::read(&rows[0]);
        return match back.written + back.conflicted {
            0 => Ok(Written::passed_over()),
            _ => back.check(0, keep).map(|rows| Written {
                rows,
                is_elsewhere: true,
                ..Written::default()
            }),
        };
    };
    if keep.joins_in_bulk {
        let bulk = client.batch_execute("SET LOCAL enable_nestloop = off").await;
        bulk.map_err(|error| fault(error, step))?;
    }
    let bet = keep.bet.as_ref().filter(|_| work.caution.may_bet()).and_then(here);
    let mut locked = None;
    if let (Some(lock), None) = (keep.lock.as_ref().and_then(here), &bet) {
        let rows = client.query_typed(&lock, &bind).await;
        let rows = rows.map_err(|error| fault(error, step))?;
        let (count, saved): (i64, i64) = (rows[0].get(0), rows[0].get(1));
        if count != saved {
            return Err(moved(&format!("{count} rows locked, {saved} saved")));
        }
        locked = Some(count);
        step = Instant::now();
    }
    let sql = bet.as_ref().unwrap_or(&write);
    let rows = client.query_typed(sql, &bind).await.map_err(|error| fault(error, step))?;
    let counts = Counts::read(&rows[0]);
    match bet {
        Some(_) if counts.written != counts.accounted => work.caution.lost(),
        Some(_) => work.caution.won(),
        None => {}
    }
    if let Some(locked) = locked.filter(|locked| *locked != counts.written) {
        return Err(moved(&format!("{locked} rows locked, {} written", counts.written)));
    }
    let mut written = Written { image_bytes: counts.image_bytes, ..Written::default() };
    let beside = keep.elsewhere.as_ref().and_then(|elsewhere| here(&elsewhere.beside));
    let mut found = 0;
    if let Some(beside) = beside.filter(|_| counts.missing() > 0) {
        // Few rows of many leaves: by index.
        let single = client.batch_execute("SET LOCAL enable_nestloop = on").await;
        single.map_err(|error| fault(error, step))?;
        let rows = client.query_typed(&beside, &bind).await.map_err(|error| fault(error, step))?;
        let counts = Counts::read(&rows[0]);
        written.rows = counts.check(0, keep)?;
        (written.is_elsewhere, found) = (true, counts.accounted);
    }
    written.rows += counts.check(found, keep)?;
    Ok(written)
}

impl Written {
    fn passed_over() -> Written {
        Written { is_passed_over: true, ..Written::default() }
    }
}

/// What a statement with before-images tells of itself.
struct Counts {
    written: i64,
    accounted: i64,
    conflicted: i64,
    image_bytes: i64,
    conflict: Option<Vec<String>>,
}

impl Counts {
    fn read(row: &tokio_postgres::Row) -> Counts {
        Counts {
            written: row.get(0),
            accounted: row.get(1),
            conflicted: row.get(2),
            image_bytes: row.get(3),
            conflict: row.get(4),
        }
    }

    /// Rows that must be accounted for and were neither written nor in conflict.
    fn missing(&self) -> i64 {
        self.accounted - self.written - self.conflicted
    }

    /// Makes sure that every row is accounted for, as many as were `found` elsewhere too, and that a conflict does not stop the run: the
    /// rows written.
    fn check(&self, found: i64, keep: &Keep) -> Result<i64, Setback> {
        let Counts { written, accounted, conflicted, .. } = self;
        if self.missing() != found {
            return Err(moved(&format!(
                "{accounted} saved, {written} written, {conflicted} in conflict, {found} elsewhere"
            )));
        }
        if *conflicted > 0 && keep.conflicts == Conflicts::Stop {
            return Err(in_conflict(self.conflict.as_deref().unwrap_or_default()));
        }
        Ok(*written)
    }
}

/// The application moved rows in or out under the chunk; another attempt meets them where they are now.
fn moved(counts: &str) -> Setback {
    let message = format!(
        "rows of the chunk moved while it was at work, or a trigger keeps some from being written ({counts})"
    );
    Setback::Fault(Fault { class: Class::Contention, sqlstate: None, message })
}

fn in_conflict(key: &[String]) -> Setback {
    let key = key.join(", ");
    fatal(format!(
        "the row with key ({key}) no longer holds what the backfill wrote, and conflicts stop this run; nothing of its chunk is \
         given back. Look at the row, then resume with `--conflicts=skip` to leave such rows alone"
    ))
}

fn ambiguous_join(key: &[String]) -> Setback {
    let key = key.join(", ");
    fatal(format!(
        "the row with key ({key}) matches several rows of the spec's `from`; which of them would write it is left \
         to chance. Make the join unique and start again"
    ))
}

/// What only a person can decide: the run stops.
fn fatal(message: String) -> Setback {
    Setback::Fault(Fault { class: Class::Fatal, sqlstate: None, message })
}
