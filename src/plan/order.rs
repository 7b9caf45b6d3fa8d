//! In which order a run goes through the table, and why.

use tokio_postgres::Client;

use super::physical::rows_a_page;
use super::table::Table;
use super::{Plan, PlanError, Refusal};
use crate::db::session::Bounds;
use crate::db::{self, Session};
use crate::event::bytes;
use crate::key::{Key, Spread};
use crate::spec::{Kind, Order};

/// A window of stripes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Striping {
    /// Stripes of a window; at least 2.
    pub k: i16,
    /// Most entries of a window.
    pub window_max: f64,
}

/// How the table is gone through.
#[derive(Clone, Debug, PartialEq)]
pub struct Way {
    /// The stripes; none for plain slices.
    pub striping: Option<Striping>,
    /// Whether it goes by place in the heap first; only by key otherwise.
    pub is_physical: bool,
    /// Why, in words.
    pub reason: String,
}

impl Way {
    /// By key, in plain slices.
    pub(super) fn by_key(reason: String) -> Way {
        Way { striping: None, is_physical: false, reason }
    }
}

/// Stripes to choose from. Prime, so that keys in even steps fall into all of them. Eleven and more leave the index entries of the first
/// pass in the tenth that a fresh index page keeps free, which seven do not; beyond thirteen the passes cost more than they save.
const STRIPES: [i16; 5] = [13, 11, 7, 5, 3];

/// Most stripes by place. A scattered key's new entries fall on every page of its index and split it, however few they are; and each pass
/// looks at every row. Measured on three million rows, 13 against 7: with the key alone 11 % slower, 76 instead of 69 % HOT; with three more
/// indexes 7 % slower, 77 instead of 75 %, and 3 % less growth of the indexes.
const STRIPES_BY_PLACE: i16 = 7;

/// Rows that a stripe has on a page, at least, where chance decides which: with fewer, every second row finds no room.
const ROWS_BY_HASH: f64 = 3.0;

/// A table below this size is done in seconds either way.
const SMALL_HEAP: i64 = 16 << 20;

/// Pages filled to this share have room for the new versions as they are.
const ROOMY: i32 = 50;

/// The window that is always allowed: the pages of 200,000 ordinary rows stay cached somewhere.
const WINDOW_MIN: f64 = 200_000.0;

/// Correlation of key and heap below which a window of keys is not a stretch of the heap.
const CORRELATED: f64 = 0.8;

/// Whether a heap of so many bytes is better gone through without stripes.
pub(super) fn is_small(heap_bytes: i64) -> bool {
    heap_bytes < SMALL_HEAP
}

impl Plan {
    /// Decides the way through so many rows of the table; whether `by_place` only where that is not decided yet.
    pub(super) fn choose_way(&self, of: i64, by_place: Option<bool>) -> Result<Way, Refusal> {
        let Order { kind, stripes } = self.spec.order;
        let is_asked = kind == Kind::Striped;
        if let (Kind::Physical, Some(refusal)) = (kind, self.physical_refusal()) {
            return Err(refusal);
        }
        let is_wanted =
            || kind == Kind::Physical || (kind == Kind::Auto && self.is_quicker_by_place());
        let is_physical = by_place.unwrap_or_else(is_wanted);
        let plain = |reason: String| Ok(Way { striping: None, is_physical, reason });
        let key = match is_physical {
            true if self.key.is_places() => {
                "by place, in rounds until no row is left, for it has no key".to_owned()
            }
            true => {
                format!("by place, then what was moved meanwhile by key ({})", self.key.plain())
            }
            false => format!("by key ({})", self.key.plain()),
        };
        if kind == Kind::Key {
            return plain(format!("{key}: the spec says so"));
        }
        if let Some((what, why)) = self.no_stripes(is_physical) {
            return match is_asked {
                true => Err(Refusal::new(
                    format!("the spec says `order = \"striped\"`: {what}{why}"),
                    "stripes would bring nothing",
                    "remove `order`, and the order is chosen by itself",
                )),
                false => plain(format!("{key}: {what}")),
            };
        }
        let rows = rows_a_page(&self.table, self.table_rows);
        let share = self.rows_to_do as f64 / of.max(1) as f64;
        let each = if is_physical || self.key.is_by_remainder() { 1.0 } else { ROWS_BY_HASH };
        let most = rows * share.min(1.0) / each;
        let widest = if is_physical { STRIPES_BY_PLACE } else { STRIPES[0] };
        let fitting = STRIPES.into_iter().find(|k| *k <= widest && f64::from(*k) <= most);
        let k = stripes.or(fitting).unwrap_or(2);
        if !is_asked {
            let heap = self.met().heap_bytes;
            if is_small(heap) {
                return plain(format!("{key}: {} are done in no time", bytes(heap.unsigned_abs())));
            }
            let fillfactor = self.met().fillfactor;
            if fillfactor <= ROOMY {
                return plain(format!("{key}: pages have room, fillfactor is {fillfactor}"));
            }
            if fitting.is_none() {
                return plain(format!("{key}: a page has too few rows to write for stripes"));
            }
        }
        if !is_asked && !is_physical && self.is_scattered() {
            return plain(format!(
                "{key}: its order is not that of the heap, so the passes of a window would each read the table from all over"
            ));
        }
        let row_bytes = self.table.heap_bytes as f64 / self.table_rows.max(1) as f64;
        let cached = self.server.shared_buffers as f64 / 4.0 / row_bytes.max(32.0);
        let window_max = cached.max(WINDOW_MIN);
        let reason = format!(
            "in {k} stripes {key}: each window is passed over {k} times, so that new row versions find room on their page"
        );
        Ok(Way { striping: Some(Striping { k, window_max }), is_physical, reason })
    }

    /// Whether neighbours by place can be written, and that is worth the look behind them.
    fn is_quicker_by_place(&self) -> bool {
        self.no_places().is_none() && self.is_slow_by_key()
    }

    /// Whether neighbours by key lie on pages far apart, in a table of some size: it is read much sooner as a whole than key by key.
    pub fn is_slow_by_key(&self) -> bool {
        !is_small(self.met().heap_bytes) && self.correlation() < CORRELATED
    }

    /// How far the order of the key is that of the heap, from 0 to 1.
    fn correlation(&self) -> f64 {
        let leading = self.met().column(self.key.columns[0].name.as_str());
        leading.map_or(1.0, |column| f64::from(column.correlation.abs()))
    }

    /// Whether neighbours by key lie on pages far apart, and those do not all stay cached.
    fn is_scattered(&self) -> bool {
        let met = self.met();
        let is_cached = met.heap_bytes < self.server.shared_buffers / 2;
        !is_cached && self.correlation() < CORRELATED
    }

    /// What keeps it from being striped or makes that not pay, and the reason where it has one of its own.
    fn no_stripes(&self, is_physical: bool) -> Option<(String, String)> {
        if let Some(Err(reason)) = &self.leaves {
            return Some((
                "its partitions are gone through as one".to_owned(),
                format!(", {reason}"),
            ));
        }
        if !is_physical && !self.key.is_spread() {
            let what = "the type of its last column has no hash function".to_owned();
            return Some((what, String::new()));
        }
        let blockers = self.hot_blockers.join(", ");
        let what = format!("{blockers} must be written for every row anyway");
        (!blockers.is_empty()).then_some((what, String::new()))
    }
}

/// Integers that tell rows apart by a remainder as evenly as a hash would, and better: neighbours fall into different stripes.
const INTEGERS: [&str; 3] = ["pg_catalog.int2", "pg_catalog.int4", "pg_catalog.int8"];

/// Keys that are looked at: dozens of pages.
const SAMPLE: i32 = 2_000;

/// Lets remainders decide the stripe where the key is one integer and the keys at the beginning of the table spread over all stripes.
pub(super) async fn spread(
    client: &Client,
    session: &Session,
    table: &Table,
    mut key: Key,
) -> Result<Key, PlanError> {
    let [column] = key.columns.as_mut_slice() else { return Ok(key) };
    if !INTEGERS.contains(&column.type_sql.as_str()) {
        return Ok(key);
    }
    let shares: Vec<String> = STRIPES
        .iter()
        .map(|k| {
            let fullest = format!(
                "SELECT count(*) * {k} FROM keys GROUP BY (backfill_key % {k}::int8 + {k}::int8) % {k}::int8 ORDER BY 1 DESC LIMIT 1"
            );
            format!("({fullest})")
        })
        .collect();
    let sql = format!(
        "WITH keys AS MATERIALIZED (SELECT {}::int8 AS backfill_key FROM {} AS backfill_sampled ORDER BY backfill_sampled.{0} LIMIT {SAMPLE})
         SELECT coalesce(greatest({}) < 2 * (SELECT count(*) FROM keys), false)",
        column.name,
        table.name,
        shares.join(", ")
    );
    let failed = |error| PlanError::Statement("look at the first keys", error);
    session.begin_read_only(client, Bounds::LOOKUP).await.map_err(failed)?;
    let rows = db::ask_as_is(client, &sql, &[]).await;
    client.batch_execute("ROLLBACK").await.map_err(failed)?;
    if rows.map_err(failed)?.first().is_some_and(|row| row.get(0)) {
        column.spread = Some(Spread::Remainder);
    }
    Ok(key)
}
