//! Cuts chunks from the index, and cuts them again when they do not go through.
//!
//! Cutting moves the end of the last chunk forward and creates the new ones in one transaction, so the key space up to it is always
//! covered without gap or overlap. Each cut reads the index from where the last one ended: no offset from the beginning, no
//! arithmetic on keys.

use std::time::Instant;

use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::{Fault, Setback, Work};
use crate::db::roll_back;
use crate::db::session::Bounds;
use crate::key::{Bound, KeyRange, Place};
use crate::plan::rehearse::{params as range_params, typed};
use crate::state::{Chunk, Cut, Done, StoreError};

/// The next chunks.
#[derive(Debug)]
pub struct Sliced {
    /// In key order.
    pub chunks: Vec<Chunk>,
    /// Whether the last ends at the ceiling.
    pub fully_cut: bool,
}

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

/// How to cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutting {
    /// Entries of a slice.
    pub size: u32,
    /// Slices, at most.
    pub count: u32,
    /// Stripes that each slice is cut into; 1 for none.
    pub stripes: i16,
}

impl Cutting {
    /// As it fits a place: small leaves are cut into plain slices.
    fn fit(self, work: &Work, place: &Place) -> Cutting {
        let is_small = match place {
            Place::Table => false,
            Place::Leaf(number, _) | Place::Gone(number) => work.small_leaves.contains(number),
        };
        let k = u32::from(self.stripes.unsigned_abs());
        match is_small {
            true => Cutting { size: (self.size / k).max(1), count: self.count * k, stripes: 1 },
            false => self,
        }
    }
}

/// Cuts the next slices behind the last one, and each into its stripes.
pub async fn cut(work: &Work, cutting: Cutting) -> Result<Sliced, Setback> {
    transact(work, async |client: &Client, started: &mut Instant| {
        let bounds = Bounds::LOOKUP;
        let store = |error, started: &Instant| {
            Setback::from_store(error, started.elapsed(), bounds.statement)
        };
        let (after, fully_cut) = work
            .store
            .read_cut(client, work.run_id, work.epoch)
            .await
            .map_err(|e| store(e, started))?;
        let (mut cuts, mut fully_cut) = (Vec::new(), fully_cut);
        let mut used = cutting;
        while !fully_cut && cuts.len() < used.count as usize {
            let begun = cuts.last().map(|cut: &Cut| &cut.upto).or(after.as_ref());
            let found = next_place(client, work, begun).await;
            let Some((place, range)) = found.map_err(|e| store(e, started))? else {
                fully_cut = true;
                break;
            };
            let fitting = cutting.fit(work, &place);
            if fitting != used && !cuts.is_empty() {
                break;
            }
            used = fitting;
            *started = Instant::now();
            let size = used.size.into();
            let count = i64::from(used.count) - cuts.len() as i64;
            let found = find_cuts(client, work, &place, &range, size, count).await;
            let (found, is_whole) = found.map_err(|error| {
                Setback::from_place(&error, &place, started.elapsed(), bounds.statement)
            })?;
            check_place(client, work, &place).await.map_err(|e| store(e, started))?;
            cuts.extend(found.into_iter().map(|cut| Cut { upto: place.bound(&cut.upto), ..cut }));
            fully_cut = is_whole && cuts.last().map(|cut| &cut.upto) == work.ceiling.as_ref();
        }
        if cuts.is_empty() {
            return Ok(Sliced { chunks: Vec::new(), fully_cut });
        }
        let chunks = work
            .store
            .cut_chunks(
                client,
                (work.run_id, work.epoch),
                after.as_ref(),
                (&cuts, used.stripes),
                fully_cut,
            )
            .await;
        Ok(Sliced { chunks: chunks.map_err(|e| store(e, started))?, fully_cut })
    })
    .await
}

/// Where to cut behind a bound, and what is left to cut there; none behind the ceiling.
async fn next_place(
    client: &Client,
    work: &Work,
    after: Option<&Bound>,
) -> Result<Option<(Place, KeyRange)>, StoreError> {
    let Some(leaves) = &work.leaves else {
        let range = |ceiling: &Bound| KeyRange::new(after.cloned(), ceiling.clone());
        return Ok(work.ceiling.as_ref().map(|ceiling| (Place::Table, range(ceiling))));
    };
    let Some((number, range)) = leaves.next(after) else { return Ok(None) };
    let (place, _) = work.store.find_leaf(client, work.run_id, number).await?;
    Ok(Some((place, range)))
}

/// Makes sure that a look went to the leaf it was for: it keeps a lock there, so that the name cannot have changed since.
async fn check_place(client: &Client, work: &Work, place: &Place) -> Result<(), StoreError> {
    let Place::Leaf(number, _) = place else { return Ok(()) };
    let (now, _) = work.store.find_leaf(client, work.run_id, *number).await?;
    if now == *place { Ok(()) } else { Err(StoreError::PlaceMeanwhile) }
}

/// Whole chunks first; where they end, the rest up to the ceiling. The last chunk ends at the ceiling itself, even when the row that had
/// it is gone: a row that comes back below the ceiling must lie in a chunk.
async fn find_cuts(
    client: &Client,
    work: &Work,
    place: &Place,
    range: &KeyRange,
    size: i64,
    count: i64,
) -> Result<(Vec<Cut>, bool), tokio_postgres::Error> {
    let Some(boundaries) = place.text(work.sql.boundaries.get(range.form())) else {
        return Ok((vec![Cut { upto: range.upto.clone(), keys: 0 }], true));
    };
    let params = range_params(range);
    let mut bind = typed(&params);
    bind.extend([(&size as &(dyn ToSql + Sync), Type::INT8), (&count, Type::INT8)]);
    let rows = client.query_typed(&boundaries, &bind).await?;
    let mut cuts: Vec<Cut> =
        rows.iter().map(|row| Cut { upto: Bound(row.get(0)), keys: size as i32 }).collect();
    if rows.last().is_some_and(|row| row.get(1)) {
        return Ok((cuts, true));
    }
    if cuts.len() as i64 == count {
        return Ok((cuts, false));
    }
    let after = cuts.last().map(|cut| cut.upto.clone()).or(range.after.clone());
    let rest = KeyRange::new(after, range.upto.clone());
    let params = range_params(&rest);
    let mut bind = typed(&params);
    bind.push((&size, Type::INT8));
    let stretch = place.text(work.sql.stretch.get(rest.form())).unwrap_or_default();
    let rows = client.query_typed(&stretch, &bind).await?;
    let (upto, keys) = match rows.first() {
        // Rows were inserted since: there is a whole chunk after all, and perhaps more behind it.
        Some(row) if row.get::<_, i64>(1) == size && !row.get::<_, bool>(2) => {
            cuts.push(Cut { upto: Bound(row.get(0)), keys: size as i32 });
            return Ok((cuts, false));
        }
        Some(row) => (range.upto.clone(), row.get::<_, i64>(1) as i32),
        None => (range.upto.clone(), 0),
    };
    cuts.push(Cut { upto, keys });
    Ok((cuts, true))
}

/// Slices that a chunk of unknown size is cut into at once, at most.
const PARTS_MAX: i64 = 100;

/// Cuts a chunk whose entries nobody has counted, because its leaf was no part of the table then, into slices of `size` entries. None when
/// it needs no cutting. What is left behind the last slice is of unknown size again.
pub async fn measure(work: &Work, chunk: &Chunk, size: u32) -> Result<Option<Vec<Chunk>>, Setback> {
    transact(work, async |client: &Client, started: &mut Instant| {
        let bounds = Bounds::LOOKUP;
        let store = |error, started: &Instant| {
            Setback::from_store(error, started.elapsed(), bounds.statement)
        };
        let claim = work.store.claim(client, work.address(chunk.seq)).await;
        let claim = claim.map_err(|e| store(e, started))?;
        if claim.done_rows.is_some() || !matches!(claim.place, Place::Leaf(..)) {
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
            let upper =
                work.store.split(client, work.address(rest.seq), &upto, (keys(cut), behind)).await;
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
        let bounds = Bounds::LOOKUP;
        let store = |error, started: &Instant| {
            Setback::from_store(error, started.elapsed(), bounds.statement)
        };
        let at = work.address(chunk.seq);
        let claim = work.store.claim(client, at).await.map_err(|e| store(e, started))?;
        if let Some(rows) = claim.done_rows {
            return Ok(Halved::Done(rows));
        }
        let params = range_params(&claim.range);
        let mut bind = typed(&params);
        *started = Instant::now();
        let kept = work.sql.keep.as_ref().and_then(|keep| keep.middle.as_ref());
        if kept.is_some() {
            bind.extend([
                (&at.seq as &(dyn ToSql + Sync), Type::INT8),
                (&claim.source_seq, Type::INT8),
            ]);
        }
        let middle = match kept {
            Some(kept) => kept.get(claim.range.form()).to_owned(),
            None => work.sql.middle.text(&claim.range.parts()),
        };
        let Some(sql) = claim.place.text(&middle) else { return Ok(Halved::Empty) };
        let rows = client.query_typed(&sql, &bind).await.map_err(|error| {
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
        let middle = claim.place.bound(&middle);
        let upper =
            work.store.split(client, at, &middle, keys).await.map_err(|e| store(e, started))?;
        let range = KeyRange { upto: middle, ..chunk.range.clone() };
        Ok(Halved::Parts(Chunk { seq: chunk.seq, range, keys: keys.0 }, upper))
    })
    .await
}

/// Sets the only row of a chunk aside and marks the chunk done, in one transaction.
pub async fn set_aside(
    work: &Work,
    chunk: &Chunk,
    key: &Bound,
    fault: &Fault,
) -> Result<(), Setback> {
    transact(work, async |client: &Client, started: &mut Instant| {
        let at = work.address(chunk.seq);
        let code = fault.sqlstate.as_deref().unwrap_or("XX000");
        let statements = async {
            let claim = work.store.claim(client, at).await?;
            if claim.done_rows.is_some() {
                return Ok(());
            }
            work.store.release(client, at).await?;
            work.store.quarantine(client, at, key, code, &fault.message).await?;
            let done = Done {
                rows: 0,
                took_ms: 0,
                hot_at: None,
                place: &claim.place,
                is_passed_over: false,
            };
            work.store.settle(client, at, done).await.map(drop)
        };
        let bound = Bounds::LOOKUP.statement;
        statements.await.map_err(|error| Setback::from_store(error, started.elapsed(), bound))
    })
    .await
}

/// Runs `body` in a transaction of its own; COMMIT when it succeeds, ROLLBACK when not. `body` notes when its statements begin, so that
/// a timeout can be told from a cancel.
async fn transact<T>(
    work: &Work,
    body: impl AsyncFnOnce(&Client, &mut Instant) -> Result<T, Setback>,
) -> Result<T, Setback> {
    let connection = work.database.get().await.map_err(|error| Setback::from_connect(&error))?;
    let mut started = Instant::now();
    let fault = |error: tokio_postgres::Error, started: Instant| {
        Setback::Fault(Fault::from_error(&error, started.elapsed(), Bounds::LOOKUP.statement))
    };
    let done = match work.session.begin(&connection, Bounds::LOOKUP).await {
        Ok(()) => body(&connection, &mut started).await,
        Err(error) => Err(Setback::from_begin(&error, started.elapsed(), Bounds::LOOKUP.statement)),
    };
    match done {
        Ok(value) => match connection.batch_execute("COMMIT").await {
            Ok(()) => Ok(value),
            Err(error) => {
                roll_back(connection).await;
                Err(fault(error, started))
            }
        },
        Err(setback) => {
            roll_back(connection).await;
            Err(setback)
        }
    }
}
