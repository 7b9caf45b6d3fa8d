//! Cuts chunks again: those that do not go through, down to the row that is in the way, and those of unknown size.

use std::time::Instant;

use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::chunker::{check_place, find_cuts, transact};
use super::{Fault, Setback, Work, walk};
use crate::db;
use crate::db::session::Bounds;
use crate::key::{Bound, KeyRange, Place};
use crate::mutation::Step;
use crate::plan::rehearse::{params as range_params, typed};
use crate::state::{Chunk, Cut, Done};

/// What became of a chunk that was to be halved.
#[derive(Debug)]
pub enum Halved {
    /// It keeps the lower part; the second is new.
    Parts(Chunk, Chunk),
    /// It holds this one row, which cannot be halved.
    Single(Bound),
    /// It holds no row any more.
    Empty,
    /// An earlier attempt had committed it: its rows.
    Done(i64),
}

/// Slices that a chunk of unknown size is cut into at once, at most.
const PARTS_MAX: i64 = 100;

/// Cuts a chunk whose entries nobody has counted, because its leaf was no part of the table then, into slices of `size` entries. None when
/// it needs no cutting. What is left behind the last slice is of unknown size again.
pub async fn measure(work: &Work, chunk: &Chunk, size: u32) -> Result<Option<Vec<Chunk>>, Setback> {
    transact(work, async |client: &Client, started: &mut Instant| {
        let inside = work.store.within();
        let bounds = Bounds::LOOKUP;
        let store = |error, started: &Instant| {
            Setback::from_store(error, started.elapsed(), bounds.statement)
        };
        let claim = inside.claim(client, work.address(chunk.seq)).await;
        let claim = claim.map_err(|e| store(e, started))?;
        let is_known = claim.range.only.is_some() || !matches!(claim.place, Place::Leaf(..));
        if claim.done_rows.is_some() || is_known {
            return Ok(None);
        }
        let range = KeyRange::new(claim.range.after.clone(), claim.range.upto.clone());
        let stripes = claim.range.stripe.map_or(1, |stripe| i64::from(stripe.k));
        *started = Instant::now();
        let size = i64::from(size.max(1)) * stripes;
        let found = find_cuts(client, work, &claim.place, &range, size, PARTS_MAX).await;
        let (cuts, is_whole) = found.map_err(|error| {
            Setback::from_place(&error, &claim.place, started.elapsed(), bounds.statement)
        })?;
        check_place(client, work, &claim.place).await.map_err(|e| store(e, started))?;
        let keys = |cut: &Cut| cut.keys / stripes as i32;
        let mut parts = Vec::new();
        let mut rest = chunk.clone();
        let inner = cuts.len() - usize::from(is_whole);
        for (i, cut) in cuts.iter().take(inner).enumerate() {
            let upto = claim.place.bound(&cut.upto);
            let behind = cuts.get(i + 1).map_or(0, keys);
            let upper = inside
                .split(client, work.address(rest.seq), (&upto, None), (keys(cut), behind))
                .await;
            let upper = upper.map_err(|e| store(e, started))?;
            let range = KeyRange { upto, ..rest.range };
            parts.push(Chunk { seq: rest.seq, range, keys: keys(cut) });
            rest = upper;
        }
        parts.push(rest);
        Ok((parts.len() > 1).then_some(parts))
    })
    .await
}

/// Halves a chunk at the middle of the entries it has now.
pub async fn halve(work: &Work, chunk: &Chunk) -> Result<Halved, Setback> {
    transact(work, async |client: &Client, started: &mut Instant| {
        let inside = work.store.within();
        let bounds = Bounds::LOOKUP;
        let store = |error, started: &Instant| {
            Setback::from_store(error, started.elapsed(), bounds.statement)
        };
        let at = work.address(chunk.seq);
        let claim = inside.claim(client, at).await.map_err(|e| store(e, started))?;
        if let Some(rows) = claim.done_rows {
            return Ok(Halved::Done(rows));
        }
        let params = range_params(&claim.range);
        let mut bind = typed(&params);
        *started = Instant::now();
        let here = work.sql_at(&claim.place);
        let kept = here.keep.as_ref().and_then(|keep| keep.middle.as_ref());
        if kept.is_some() {
            bind.extend([
                (&at.seq as &(dyn ToSql + Sync), Type::INT8),
                (&claim.source_seq, Type::INT8),
            ]);
        }
        let middle = match kept {
            Some(kept) => kept.get(claim.range.form()).to_owned(),
            None => here.middle.text(&claim.range.parts()),
        };
        let Some(sql) = claim.place.text(&middle) else { return Ok(Halved::Empty) };
        let rows = db::ask_as_is(client, &sql, &bind).await.map_err(|error| {
            Setback::from_place(&error, &claim.place, started.elapsed(), bounds.statement)
        })?;
        if kept.is_none() {
            check_place(client, work, &claim.place).await.map_err(|e| store(e, started))?;
        }
        let Some(row) = rows.first() else { return Ok(Halved::Empty) };
        let middle = Bound(row.get(0));
        let keys = (row.get::<_, i64>(1) as i32, row.get::<_, i64>(2) as i32);
        if keys.1 == 0 {
            return Ok(Halved::Single(middle));
        }
        // Before-images of what was done by place are halved by key, and from then on are given back as those of the sweep are.
        let by_key = work.swept_behind(&claim.place).filter(|_| kept.is_some());
        let (middle, upto) = match by_key {
            Some(number) => (middle.in_leaf(number), Some(Bound(row.get(3)).in_leaf(number))),
            None => (claim.place.bound(&middle), None),
        };
        let upper = inside.split(client, at, (&middle, upto.as_ref()), keys).await;
        let upper = upper.map_err(|e| store(e, started))?;
        Step::Split.reach();
        let range = KeyRange { upto: middle, ..chunk.range.clone() };
        Ok(Halved::Parts(Chunk { seq: chunk.seq, range, keys: keys.0 }, upper))
    })
    .await
}

/// Sets the only row of a chunk aside and marks the chunk done, in one transaction. A walk leaves its row to the sweep instead, which knows
/// rows by their keys; true when the row was set aside.
pub async fn set_aside(
    work: &Work,
    chunk: &Chunk,
    key: &Bound,
    fault: &Fault,
) -> Result<bool, Setback> {
    transact(work, async |client: &Client, started: &mut Instant| {
        let inside = work.store.within();
        let at = work.address(chunk.seq);
        let code = fault.sqlstate.as_deref().unwrap_or("XX000");
        let statements = async {
            let claim = inside.claim(client, at).await?;
            if claim.done_rows.is_some() {
                return Ok(false);
            }
            let is_left = work.halves_places(&claim.place) && !work.is_in_rounds();
            if is_left {
                let keys = walk::keys_at(work, client, &claim.place, key).await?;
                inside.leave_to_sweep(client, at, &keys).await?;
            } else {
                inside.release(client, at).await?;
                inside.quarantine(client, at, key, code, &fault.message).await?;
            }
            let done = Done {
                rows: 0,
                took_ms: 0,
                hot_at: None,
                place: &claim.place,
                is_passed_over: false,
            };
            inside.settle(client, at, done).await?;
            Step::SetAside.reach();
            Ok(!is_left)
        };
        let bound = Bounds::LOOKUP.statement;
        statements.await.map_err(|error| Setback::from_store(error, started.elapsed(), bound))
    })
    .await
}
