//! Going through a table in physical order: it is walked by place in its heap, and then swept by key.
//!
//! Where the key's order is not that of the heap, a chunk of neighbours by key touches a page for each of its rows, and every page is read,
//! logged and written as often as it has rows. A chunk of neighbours by place touches few pages. But places are no identity: a row that the
//! application writes moves, maybe from where the walk still has to come to where it has been. So it is no more than the quick way to most
//! rows. What makes the run exact is the sweep, which goes by key: a key stays where it is. When the walk is done, one look at the whole
//! table finds the rows that are left to do, and the sweep's chunks list their keys. Where these are too many, or the look does not come to
//! an end, the sweep looks at every key.
//!
//! A row may then be looked at twice, so this is for statements that do nothing the second time (see [`super::limiting`]). The application may
//! still undo meanwhile what was written, so that the row is written again, and two before-images of it are kept. Where one column is
//! filled, both say NULL, and it does not matter which of them is given back first. Otherwise the later one must be. So the walk passes over
//! every row version that is not older than the run, its own among them: it writes no row twice, and what the sweep writes is later than
//! what the walk wrote. A reverse run gives back all of the sweep first.
//!
//! A table without a key cannot be swept. It is walked in rounds instead: after each of them one look at the whole table tells whether rows are
//! left, and the run is done when there are none. Nothing tells its rows apart, so nothing could be given back either.

use super::checks::Refusal;
use super::leaves::Trial;
use super::rehearse::ROWS;
use super::statement::{Builder, ByRange, ChunkSql};
use super::surroundings::Server;
use super::table::Table;
use super::{Accepted, Plan};
use crate::key::{Bound, Form, Key, KeyRange, LEAF, Leaf, Leaves, Part, Place, Striped};
use crate::spec::{Kind, Spec};
use crate::sql::Ident;
use crate::state::Run;
use crate::undo::UndoMode;

/// Version that can look for a range of places.
const RANGES_OF_PLACES_MIN: i32 = 140_000;

/// Bytes of a page, but for servers built otherwise: those walk less or more than the heap, and sweep the rest.
pub(super) const PAGE: i64 = 8192;

/// How a run goes through the table in physical order.
#[derive(Clone, Debug)]
pub struct Physical {
    /// The walk, and the sweep behind it.
    pub leaves: Leaves,
    /// The walk.
    pub walk: Walk,
    /// The statements of the sweep.
    pub sweep: ChunkSql,
}

/// What a walk by place sends. [`LEAF`] stands for the table's name.
#[derive(Clone, Debug)]
pub struct Walk {
    /// The statements of its chunks.
    pub sql: ChunkSql,
    /// Rows on a page of the heap, as the planner sees them.
    pub rows_a_page: f64,
    /// The keys of rows left to do, in order. Parameters: the ceiling, how many rows of the look at most. Columns: key, rows of the look.
    pub left: String,
    /// The same where keys are known to be left, which are a third parameter, as a JSON array; none for a spec with a join, which would
    /// become the product of both sides.
    pub left_known: Option<String>,
    /// The key of the row at a place, which is the parameter.
    pub key_at: String,
    /// Whether the table is walked in rounds, because it has no key to be swept by.
    pub in_rounds: bool,
}

/// The forms of a range of places.
pub(super) fn walked_forms() -> Vec<Form> {
    let is_of_places = |form: &Form| form.part != Part::Only && form.stripe != Striped::Listed;
    Form::all(1).into_iter().filter(is_of_places).collect()
}

/// The place before a page of the heap.
pub fn place(page: i64) -> Bound {
    Bound(vec![format!("({page},0)")])
}

/// The place behind all that there can be.
pub(super) fn end() -> Bound {
    place(u32::MAX.into())
}

/// Rounds of one runner through a table without a key, at most. Each leaves the rows that moved while it was under way and got out of its way, which is a
/// small part of what the one before it left. Behind the last one there is only a look.
const ROUNDS: usize = 10;

/// Leaves of a run in rounds: those, and one where nothing more begins.
pub const LEAVES_IN_ROUNDS: usize = ROUNDS + 1;

/// Places instead of a key, for a table without one, if the spec asks for that; else the refusal, and how to ask.
pub(super) fn without_key(
    spec: &Spec,
    table: &Table,
    server: &Server,
    refusal: Refusal,
) -> Result<Key, Refusal> {
    let is_possible =
        spec.key.is_none() && table.kind == "r" && server.version_num >= RANGES_OF_PLACES_MIN;
    if !is_possible {
        return Err(refusal);
    }
    if spec.order.kind == Kind::Physical && spec.undo.mode == UndoMode::None {
        return Ok(Key::places());
    }
    let how = "or go by place and without a way back, if the statement leaves alone what it has written: `order = \"physical\"`, and `[undo]` with `mode = \"none\"`";
    Err(Refusal { mend: format!("{}; {how}", refusal.mend), ..refusal })
}

impl Plan {
    /// Why the rows cannot be gone through by place; none when they can.
    pub(super) fn no_places(&self) -> Option<&'static str> {
        match () {
            () if self.table.kind != "r" => Some("the table is partitioned"),
            () if self.server.version_num < RANGES_OF_PLACES_MIN => {
                Some("servers older than 14 cannot look for ranges of places")
            }
            () if !self.limits_itself && self.only_fills() => {
                Some("it fills several columns, and one of them may depend on another")
            }
            () if !self.limits_itself => Some(
                "a row that it has set may, for all the server can tell, be one that its `when` picks, and would be set twice",
            ),
            () if self.has_triggers => {
                Some("a trigger may undo what is filled, and the row would be met again")
            }
            () if self.undo == UndoMode::Statement => {
                Some("its undo rules are for ranges of the key")
            }
            () => None,
        }
    }

    /// That rows are gone through key by key although they lie all over the heap, and why.
    pub(super) fn scattered_warning(&self) -> Option<String> {
        let is_chosen = self.spec.order.kind != Kind::Key && self.is_slow_by_key();
        let why = self.no_places().filter(|_| is_chosen)?;
        Some(format!(
            "the order of the key is not that of the heap, so nearly every row is on a page of its own; by place it cannot be gone through: {why}"
        ))
    }

    /// Whether it is worth asking if a run could go by place: it is asked for or chosen, or a run that goes so may have begun.
    pub(super) fn may_go_by_place(&self, accepted: Accepted) -> bool {
        let is_chosen = self.spec.order.kind == Kind::Auto && self.is_slow_by_key();
        is_chosen || accepted.goes_on || self.spec.order.kind == Kind::Physical
    }

    /// Whether it matters in which order two before-images of a row are given back.
    pub(super) fn needs_order(&self) -> bool {
        !self.only_fills() || self.written.len() > 1
    }

    /// The two ways through the table; none when it is empty.
    pub(super) fn walk_and_sweep(&self) -> Option<Physical> {
        let pages = (self.table.heap_bytes + PAGE - 1) / PAGE;
        let leaf = |ceiling: Bound, is_walked| Leaf {
            oid: self.table.oid,
            ceiling: Some(ceiling),
            is_walked,
        };
        let ceiling = self.ceiling.clone()?;
        if self.key.is_places() {
            return Some(self.physical(Leaves(vec![leaf(end(), true); LEAVES_IN_ROUNDS])));
        }
        Some(self.physical(Leaves(vec![leaf(place(pages), true), leaf(ceiling, false)])))
    }

    /// Goes on as a run in physical order began; refuses when the spec has become one whose rows must not be met twice.
    pub(super) fn set_walk_of(&mut self, run: &Run) -> Result<(), Refusal> {
        let leaves = run.leaves.as_ref().filter(|_| run.is_walked());
        let in_rounds = self.key.is_places();
        let is_unordered = self.needs_order() && !in_rounds && run.walk_before.is_none();
        let other = is_unordered.then_some("it began as one that fills a single column");
        if let (Some(_), Some(why)) = (leaves, self.no_places().or(other)) {
            return Err(Refusal::new(
                format!("run {} goes by place in the heap: {why}", run.run_id),
                "the run would not be exact",
                format!("restore the spec; or give the run up: `backfill cancel {}`", run.name),
            ));
        }
        self.walk_before = run.walk_before;
        self.physical = leaves.map(|leaves| self.physical(leaves.clone()));
        self.way.is_physical = self.physical.is_some();
        Ok(())
    }

    fn physical(&self, leaves: Leaves) -> Physical {
        let rows_a_page = rows_a_page(&self.table, self.table_rows).max(1.0);
        let sweep = self.builder().of_leaves();
        let walk = self.builder().of_places(self.walk_before);
        let walk = Walk {
            sql: walk.chunk_sql(),
            rows_a_page,
            left: sweep.left(false),
            left_known: match self.key.is_places() {
                true => Some(sweep.left_elsewhere()),
                false => self.spec.from.is_none().then(|| sweep.left(true)),
            },
            key_at: walk.key_at(),
            in_rounds: self.key.is_places(),
        };
        Physical { leaves, walk, sweep: sweep.chunk_sql() }
    }

    /// Chunks of the walk and of the sweep to be tried before a run.
    pub(super) fn physical_trials(&self) -> Option<Vec<Trial<'_>>> {
        let physical = self.physical.as_ref()?;
        let at = |number: usize| Place::Leaf(number, self.table.name.clone());
        let ceiling = |number: usize| physical.leaves.get(number)?.ceiling.as_ref();
        let pages = (ROWS as f64 / physical.walk.rows_a_page).ceil();
        let keys = (pages * physical.walk.rows_a_page).min(self.table_rows as f64) as i64;
        let first = KeyRange::new(None, place(pages as i64));
        let trial = |number, sql, first| Trial {
            sql,
            place: at(number),
            ceiling: ceiling(number),
            heap_bytes: self.table.heap_bytes,
            first,
        };
        let walk = trial(1, &physical.walk.sql, Some((first, keys)));
        let sweep = (!physical.walk.in_rounds).then(|| trial(2, &physical.sweep, None));
        Some([walk].into_iter().chain(sweep).collect())
    }

    /// Refuses an order that the spec asks for and that is not possible.
    pub(super) fn physical_refusal(&self) -> Option<Refusal> {
        let why = self.no_places()?;
        let mend = match self.key.is_places() {
            true => "give the table a primary key; without one there is no other way through it",
            false => "remove `order`, and the order is chosen by itself",
        };
        let what = format!("the spec says `order = \"physical\"`: {why}");
        Some(Refusal::new(what, "the run would not be exact", mend))
    }
}

impl<'a> Builder<'a> {
    /// The same for ranges of places, of row versions `older_than` a transaction if that is given.
    pub(super) fn of_places(self, older_than: Option<i64>) -> Builder<'a> {
        Builder { leaf: Some(LEAF.to_owned()), is_walk: true, older_than, ..self }
    }

    /// A range without row versions of a transaction or of later ones. Two billion transactions later nothing is older: the sweep then does
    /// what the walk does not.
    pub(super) fn older_sql(&self, range: &str, xid: i64) -> String {
        let since = format!(
            "pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8 OPERATOR(pg_catalog.-) {xid}::pg_catalog.int8"
        );
        let greatest = i32::MAX;
        let than = format!("LEAST({since}, {greatest}::pg_catalog.int8)::pg_catalog.int4");
        let wrapped = format!(
            "CASE WHEN {since} OPERATOR(pg_catalog.<) {greatest}::pg_catalog.int8 THEN {WRAPPED} ELSE {} END",
            i64::from(i32::MIN)
        );
        format!("{range} AND {}", is_older(self.name(), &than, &wrapped))
    }

    /// The keys left to do. Put in order apart from being found, or the planner would read the table in that order, by its index. Keys that
    /// are `known` to be left are kept from being looked at by a CASE, for some raise when they are.
    fn left(&self, is_known: bool) -> String {
        let name = self.name();
        let (width, key) = (self.key.columns.len(), self.key.array_sql(name));
        let columns = self.key.columns_sql(name);
        let (limit, known) = (width + 1, width + 2);
        let value = |i: usize| format!("(backfill_key OPERATOR(pg_catalog.->>) {i})");
        let array: Vec<String> = (0..width).map(value).collect();
        let needed = self.needed();
        let condition = match is_known {
            true => format!(
                "CASE WHEN {key} OPERATOR(pg_catalog.=) ANY (SELECT ARRAY[{}] FROM \
                 pg_catalog.jsonb_array_elements(${known}::pg_catalog.text::pg_catalog.jsonb) AS backfill_listed (backfill_key)) \
                 THEN true ELSE ({}) END",
                array.join(", "),
                needed.as_str(),
            ),
            false => format!("({})", needed.as_str()),
        };
        format!(
            "WITH backfill_left AS MATERIALIZED (\nSELECT {columns}{}\n WHERE {}\n   AND {condition}\n LIMIT ${limit}\n)\n\
             SELECT {key}, (SELECT count(*) FROM backfill_left) FROM backfill_left AS {name} GROUP BY {columns} ORDER BY {columns}",
            self.from_target().as_str(),
            self.key.range_sql(name, Form::FIRST, 1),
        )
    }

    /// The same but for places that are known, which are not even looked at: what raises there was set aside.
    fn left_elsewhere(&self) -> String {
        let (name, target) = (self.name(), self.target());
        let key = self.key.array_sql(name);
        let from = self.spec.from.as_ref().map(|from| format!(",\n       {}\n", from.text));
        format!(
            "WITH backfill_left AS MATERIALIZED (\nSELECT {columns}\n  FROM (SELECT {columns}, {name}.* FROM {target}\n         WHERE {range} \
             AND {key} OPERATOR(pg_catalog.<>) ALL (SELECT ARRAY[backfill_key OPERATOR(pg_catalog.->>) 0] FROM \
             pg_catalog.jsonb_array_elements($3::pg_catalog.text::pg_catalog.jsonb) AS backfill_listed (backfill_key)) OFFSET 0) AS {name}{from}\n \
             WHERE ({needed})\n LIMIT $2\n)\n\
             SELECT {key}, (SELECT count(*) FROM backfill_left) FROM backfill_left AS {name} GROUP BY {columns} ORDER BY {columns}",
            columns = self.key.columns_sql(name),
            range = self.key.range_sql(name, Form::FIRST, 1),
            from = from.unwrap_or_default(),
            needed = self.needed().as_str(),
        )
    }

    fn key_at(&self) -> String {
        let (key, name) = (self.key.array_sql(self.name()), self.name());
        let target = self.target();
        format!("SELECT {key} FROM {target} WHERE {name}.ctid = $1::pg_catalog.tid")
    }
}

/// Ages under this are of rows that were frozen so long ago that the number of their transaction has come round; those between it and zero
/// may be of transactions that began after the one that asks, of which there are not a quarter of a billion before it ends.
pub(super) const WRAPPED: i32 = -(1 << 28);

/// Whether a row version of `table` is older than an age, or under the age `wrapped`. `age` counts back from a number that stands still within
/// a transaction, so the greater age is the older one; but a frozen row keeps the number it had, and two billion transactions later its age
/// is negative.
pub(super) fn is_older(table: &Ident, than: &str, wrapped: &str) -> String {
    let age = format!("pg_catalog.age({table}.xmin)");
    format!(
        "({age} OPERATOR(pg_catalog.>) (SELECT {than}) OR {age} OPERATOR(pg_catalog.<) (SELECT {wrapped}))"
    )
}

/// Rows on a page of the heap.
pub(super) fn rows_a_page(table: &Table, rows: i64) -> f64 {
    rows as f64 / (table.heap_bytes as f64 / PAGE as f64).max(1.0)
}

impl ByRange {
    /// None at all: what they would be for goes by another way.
    pub(super) fn none() -> ByRange {
        ByRange::of(Vec::new(), |_| String::new())
    }
}
