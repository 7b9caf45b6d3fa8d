//! The writing statements of a chunk, and the proof that what was saved, written and left alone is the same rows.

use std::borrow::Cow;
use std::time::Instant;

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::{Fault, Setback, Work};
use crate::db::session::Bounds;
use crate::db::{self, Class};
use crate::key::{Form, Place};
use crate::mutation::{Guard, Step};
use crate::plan::rehearse::{params as range_params, typed};
use crate::plan::{AS_USUAL, ByRange, IN_BULK, Keep};
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

/// Locks and saves when before-images are kept that way, then writes; and makes sure that both met the same rows. One part of the range
/// after the other.
pub(super) async fn write(
    work: &Work,
    client: &Client,
    claim: &Claim,
    seq: i64,
    bounds: Bounds,
) -> Result<Written, Setback> {
    let params = range_params(&claim.range);
    let mut bind = typed(&params);
    if matches!(claim.place, Place::Gone(_)) && work.walk.is_some() {
        return Err(fatal(format!("{} is not there any more", work.table.name.plain())));
    }
    if work.sql_at(&claim.place).keep.is_some() {
        bind.extend([(&seq as &(dyn ToSql + Sync), Type::INT8), (&claim.source_seq, Type::INT8)]);
    }
    // Without an index that lists them, keys are joined with the table one by one, and so is the source with them.
    let is_one_by_one = claim.range.only.is_some() && !work.lists_by_index;
    let is_bulk = work.sql_at(&claim.place).joins_in_bulk.is_some() && !is_one_by_one;
    let chunk = Writing { work, client, claim, width: params.len(), bind, bounds, is_bulk };
    // What was in a leaf that is gone is looked for by its key, all at once.
    let forms = match claim.place {
        Place::Gone(_) => vec![claim.range.form()],
        _ => claim.range.parts(),
    };
    if is_bulk {
        chunk.set(IN_BULK).await?;
    }
    let mut written = Written::default();
    for form in forms {
        let part = chunk.part(form).await?;
        written.rows += part.rows;
        written.image_bytes += part.image_bytes;
        written.is_passed_over |= part.is_passed_over;
        written.is_elsewhere |= part.is_elsewhere;
    }
    if is_bulk {
        chunk.set(AS_USUAL).await?;
    }
    Ok(written)
}

/// A chunk being written.
struct Writing<'c> {
    work: &'c Work,
    client: &'c Client,
    claim: &'c Claim,
    /// How many of the parameters are the range's.
    width: usize,
    bind: Vec<(&'c (dyn ToSql + Sync), Type)>,
    bounds: Bounds,
    is_bulk: bool,
}

impl Writing<'_> {
    /// Writes a part of the chunk.
    async fn part(&self, form: Form) -> Result<Written, Setback> {
        let here = |sql: &ByRange| self.claim.place.text(sql.get(form)).map(Cow::into_owned);
        let sql = self.work.sql_at(&self.claim.place);
        if let Some(ambiguous) = sql.ambiguous.as_ref().and_then(here) {
            let rows = self.query(&ambiguous, &self.bind[..self.width]).await?;
            if let Some(row) = rows.first() {
                return Err(ambiguous_join(&row.get::<_, Vec<String>>(0)));
            }
        }
        let Some(keep) = &sql.keep else {
            let Some(update) = here(&sql.update) else { return Ok(Written::passed_over()) };
            let started = Instant::now();
            let rows = db::write_as_is(self.client, &update, &self.bind).await;
            let rows = rows.map_err(|error| self.fault(&error, started))? as i64;
            return Ok(Written { rows, ..Written::default() });
        };
        let Some(write) = here(&keep.write) else {
            let gone = keep.elsewhere.as_ref().and_then(|elsewhere| here(&elsewhere.gone));
            let Some(gone) = gone else { return Ok(Written::passed_over()) };
            // Few rows of many leaves: by index.
            self.set(AS_USUAL).await?;
            let back = self.counts(&gone).await?;
            self.back_in_bulk().await?;
            return match back.written + back.conflicted {
                0 => Ok(Written::passed_over()),
                _ => {
                    let rows = back.check(0, keep)?;
                    Ok(Written { rows, is_elsewhere: true, ..Written::default() })
                }
            };
        };
        let counts = self.save_and_write(keep, write, here).await?;
        let mut written = Written { image_bytes: counts.image_bytes, ..Written::default() };
        let beside = keep.elsewhere.as_ref().and_then(|elsewhere| here(&elsewhere.beside));
        let mut found = 0;
        if let Some(beside) = beside.filter(|_| counts.missing() > 0) {
            // Few rows of many leaves: by index.
            self.set(AS_USUAL).await?;
            let counts = self.counts(&beside).await?;
            self.back_in_bulk().await?;
            written.rows = counts.check(0, keep)?;
            (written.is_elsewhere, found) = (true, counts.accounted);
        }
        written.rows += counts.check(found, keep)?;
        Ok(written)
    }

    /// Locks and saves first, or bets that this is not needed.
    async fn save_and_write(
        &self,
        keep: &Keep,
        write: String,
        here: impl Fn(&ByRange) -> Option<String>,
    ) -> Result<Counts, Setback> {
        let caution = &self.work.caution;
        if let Some(bet) = keep.bet.as_ref().filter(|_| caution.may_bet()).and_then(&here) {
            let counts = self.counts(&bet).await?;
            if counts.written == counts.accounted {
                caution.won();
            } else {
                caution.lost();
            }
            return Ok(counts);
        }
        let Some(lock) = keep.lock.as_ref().and_then(&here) else {
            return self.counts(&write).await;
        };
        let rows = self.query(&lock, &self.bind).await?;
        let (locked, saved): (i64, i64) = (rows[0].get(0), rows[0].get(1));
        if locked != saved && !Guard::Accounting.is_out() {
            return Err(moved(&format!("{locked} rows locked, {saved} saved")));
        }
        Step::Saved.reach();
        let counts = self.counts(&write).await?;
        match counts.written == locked || Guard::Accounting.is_out() {
            true => Ok(counts),
            false => Err(moved(&format!("{locked} rows locked, {} written", counts.written))),
        }
    }

    async fn counts(&self, sql: &str) -> Result<Counts, Setback> {
        let rows = self.query(sql, &self.bind).await?;
        Ok(Counts::read(&rows[0]))
    }

    async fn query(
        &self,
        sql: &str,
        bind: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Setback> {
        let started = Instant::now();
        let rows = db::ask_as_is(self.client, sql, bind).await;
        rows.map_err(|error| self.fault(&error, started))
    }

    async fn back_in_bulk(&self) -> Result<(), Setback> {
        match self.is_bulk {
            true => self.set(IN_BULK).await,
            false => Ok(()),
        }
    }

    async fn set(&self, sql: &str) -> Result<(), Setback> {
        let started = Instant::now();
        let set = self.client.batch_execute(sql).await;
        set.map_err(|error| self.fault(&error, started))
    }

    fn fault(&self, error: &tokio_postgres::Error, started: Instant) -> Setback {
        Setback::from_place(error, &self.claim.place, started.elapsed(), self.bounds.statement)
    }
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
    fn read(row: &Row) -> Counts {
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
        if self.missing() != found && !Guard::Accounting.is_out() {
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
