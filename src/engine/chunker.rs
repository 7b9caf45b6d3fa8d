//! Cuts chunks from the index, or by pages of the heap.
//!
//! Cutting moves the end of the last chunk forward and creates the new ones in one transaction, so the key space up to it is always
//! covered without gap or overlap. Each cut reads the index from where the last one ended: no offset from the beginning, no
//! arithmetic on keys.

use std::time::Instant;

use tokio::sync::mpsc;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::walk::{self, Left};
use super::worker::Note;
use super::{Fault, Setback, Work};
use crate::db;
use crate::db::roll_back;
use crate::db::session::Bounds;
use crate::key::{Bound, KeyRange, Place};
use crate::mutation::Step;
use crate::plan::rehearse::{params as range_params, typed};
use crate::state::{Chunk, Cut, StoreError};

/// The next chunks.
#[derive(Debug, Default)]
pub struct Sliced {
    /// In key order.
    pub chunks: Vec<Chunk>,
    /// Whether the last ends at the ceiling.
    pub fully_cut: bool,
    /// Whether nothing can be cut before the chunks cut so far are done: what comes next is the sweep behind a walk.
    pub waits: bool,
    /// Whether the table that is walked has been rewritten since the run began.
    pub is_rewritten: bool,
    /// What is swept, where that begins: so many rows, or none where every key is looked at.
    pub swept: Option<Option<usize>>,
    /// The number of the round that begins.
    pub again: Option<usize>,
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
    /// As it fits a place: small leaves, and what is swept behind a walk, are cut into plain slices.
    fn fit(self, work: &Work, place: &Place) -> Cutting {
        let is_small = place.leaf().is_some_and(|number| work.small_leaves.contains(&number));
        let is_swept = work.walk.is_some() && !work.is_walked(place);
        let k = u32::from(self.stripes.unsigned_abs());
        match is_small || is_swept {
            true => Cutting { size: (self.size / k).max(1), count: self.count * k, stripes: 1 },
            false => self,
        }
    }
}

/// Cuts the next slices behind the last one, and each into its stripes.
pub async fn cut(
    work: &Work,
    cutting: Cutting,
    notes: &mpsc::UnboundedSender<Note>,
) -> Result<Sliced, Setback> {
    let (place, ceiling) = match slice(work, cutting, None).await? {
        Next::Sliced(sliced) => return Ok(sliced),
        Next::Sweep(place, ceiling) => (place, ceiling),
    };
    let waits = Sliced { waits: true, ..Sliced::default() };
    let Some(left) = walk::look(work, &place, &ceiling, notes).await? else { return Ok(waits) };
    match slice(work, cutting, Some(&left)).await? {
        Next::Sliced(sliced) => Ok(sliced),
        Next::Sweep(..) => Ok(waits),
    }
}

/// What is to be cut.
enum Next {
    /// This has been cut.
    Sliced(Sliced),
    /// The sweep of this place up to its ceiling, for which it must be known what is left.
    Sweep(Place, Bound),
}

/// Cuts slices; where a sweep begins, from what is `left` to do there.
async fn slice(work: &Work, cutting: Cutting, left: Option<&Left>) -> Result<Next, Setback> {
    transact(work, async |client: &Client, started: &mut Instant| {
        let bounds = Bounds::LOOKUP;
        let store = |error, started: &Instant| {
            Setback::from_store(error, started.elapsed(), bounds.statement)
        };
        let cut = work.store.within().read_cut(client, work.run_id, work.epoch).await;
        let cut = cut.map_err(|e| store(e, started))?;
        let (after, mut cuts, mut fully_cut) = (cut.upto, Vec::new(), cut.is_whole);
        let (mut swept, mut again) = (None, None);
        let mut used = cutting;
        while !fully_cut && cuts.len() < used.count as usize {
            let begun = cuts.last().map(|cut: &Cut| &cut.upto).or(after.as_ref());
            let found = next_place(client, work, begun).await;
            let Some((place, range)) = found.map_err(|e| store(e, started))? else {
                fully_cut = true;
                break;
            };
            let fitting = cutting.fit(work, &place);
            let begins_sweep = work.is_behind_walk(&place, &range);
            if (fitting != used || begins_sweep) && !cuts.is_empty() {
                break;
            }
            used = fitting;
            let listed = match left.filter(|_| begins_sweep) {
                None if begins_sweep => return Ok(Next::Sweep(place, range.upto)),
                Some(left) if work.is_in_rounds() => {
                    if let Left::Keys(keys) = left
                        && keys.is_empty()
                    {
                        let inside = work.store.within();
                        let end = inside.end_cut(client, (work.run_id, work.epoch)).await;
                        end.map_err(|e| store(e, started))?;
                        return Ok(Next::Sliced(Sliced { fully_cut: true, ..Sliced::default() }));
                    }
                    if work.is_behind_rounds(&place) {
                        return Err(Setback::Fault(walk::is_endless(left)));
                    }
                    None
                }
                Some(Left::Keys(keys)) => Some(walk::list(keys, used.size.into(), &range.upto)),
                _ => None,
            };
            if begins_sweep && work.is_in_rounds() {
                again = place.leaf();
            } else if begins_sweep {
                let keys = listed.iter().flatten().map(|cut| cut.keys as usize).sum();
                swept = Some(listed.as_ref().map(|_| keys));
            }
            *started = Instant::now();
            let size = used.size.into();
            let count = i64::from(used.count) - cuts.len() as i64;
            let (found, is_whole) = match listed {
                Some(listed) => (listed, true),
                None => {
                    let found = find_cuts(client, work, &place, &range, size, count).await;
                    found.map_err(|error| {
                        Setback::from_place(&error, &place, started.elapsed(), bounds.statement)
                    })?
                }
            };
            check_place(client, work, &place).await.map_err(|e| store(e, started))?;
            cuts.extend(found.into_iter().map(|cut| Cut { upto: place.bound(&cut.upto), ..cut }));
            fully_cut = is_whole && cuts.last().map(|cut| &cut.upto) == work.ceiling.as_ref();
        }
        let sliced =
            Sliced { fully_cut, is_rewritten: cut.is_rewritten, swept, again, ..Sliced::default() };
        if cuts.is_empty() {
            return Ok(Next::Sliced(sliced));
        }
        let chunks = work
            .store
            .within()
            .cut_chunks(
                client,
                (work.run_id, work.epoch),
                after.as_ref(),
                (&cuts, used.stripes),
                fully_cut,
            )
            .await;
        let chunks = chunks.map_err(|e| store(e, started))?;
        Step::Cut.reach();
        Ok(Next::Sliced(Sliced { chunks, ..sliced }))
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
    let (place, _) = work.store.within().find_leaf(client, work.run_id, number).await?;
    Ok(Some((place, range)))
}

/// Makes sure that a look went to the leaf it was for: it keeps a lock there, so that the name cannot have changed since.
pub(super) async fn check_place(
    client: &Client,
    work: &Work,
    place: &Place,
) -> Result<(), StoreError> {
    let Place::Leaf(number, _) = place else { return Ok(()) };
    let (now, _) = work.store.within().find_leaf(client, work.run_id, *number).await?;
    if now == *place { Ok(()) } else { Err(StoreError::PlaceMeanwhile) }
}

/// Whole chunks first; where they end, the rest up to the ceiling. The last chunk ends at the ceiling itself, even when the row that had
/// it is gone: a row that comes back below the ceiling must lie in a chunk.
pub(super) async fn find_cuts(
    client: &Client,
    work: &Work,
    place: &Place,
    range: &KeyRange,
    size: i64,
    count: i64,
) -> Result<(Vec<Cut>, bool), tokio_postgres::Error> {
    if let Some(walk) = work.walk.as_ref().filter(|_| work.is_walked(place)) {
        let pages = match walk.in_rounds {
            true => walk::pages(work, client).await?,
            false => i64::MAX,
        };
        return Ok(walk::cut_pages(range, size, count, (walk.rows_a_page, pages)));
    }
    let Some(boundaries) = place.text(work.sql.boundaries.get(range.form())) else {
        return Ok((vec![Cut::new(range.upto.clone(), 0)], true));
    };
    let params = range_params(range);
    let mut bind = typed(&params);
    bind.extend([(&size as &(dyn ToSql + Sync), Type::INT8), (&count, Type::INT8)]);
    let rows = db::ask_as_is(client, &boundaries, &bind).await?;
    let mut cuts: Vec<Cut> =
        rows.iter().map(|row| Cut::new(Bound(row.get(0)), size as i32)).collect();
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
    let rows = db::ask_as_is(client, &stretch, &bind).await?;
    let (upto, keys) = match rows.first() {
        // Rows were inserted since: there is a whole chunk after all, and perhaps more behind it.
        Some(row) if row.get::<_, i64>(1) == size && !row.get::<_, bool>(2) => {
            cuts.push(Cut::new(Bound(row.get(0)), size as i32));
            return Ok((cuts, false));
        }
        Some(row) => (range.upto.clone(), row.get::<_, i64>(1) as i32),
        None => (range.upto.clone(), 0),
    };
    cuts.push(Cut::new(upto, keys));
    Ok((cuts, true))
}

/// Runs `body` in a transaction of its own; COMMIT when it succeeds, ROLLBACK when not. `body` notes when its statements begin, so that
/// a timeout can be told from a cancel.
pub(super) async fn transact<T>(
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
