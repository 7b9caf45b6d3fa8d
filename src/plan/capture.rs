//! The chunk statements that keep before-images. Pure.
//!
//! A spec that fills one column needs one statement: the old value is NULL, because the statement demands it of the very row version that it
//! writes. So does any spec where the server can return the old values of what it wrote (18 and later). Everywhere else the rows are
//! first locked in key order and saved, and then written by a plain UPDATE over the same range: what is locked cannot change, so
//! `locked = saved = written` proves that both met the same rows. Where an expression may look beyond its row, counts prove nothing and the
//! keys themselves are compared.
//!
//! Locking first costs time, and mostly nobody was about to write. So a chunk is first tried in one statement that saves what its snapshot
//! sees and writes only row versions older than anything that was under way when the snapshot was taken. A row that somebody else
//! changes meanwhile has a newer version; the server finds it, looks at the condition again, and passes over it. The keys saved and written
//! then differ, and the chunk starts over with locks.
//!
//! New values come from RETURNING, never from the expression: a trigger may have changed them.

use super::physical::{WRAPPED, is_older};
use super::statement::{Builder, ByRange};
use crate::key::Form;
use crate::spec::Verb;
use crate::state::{Field, Images, Side};
use crate::undo::Conflicts;

/// Bytes of values, as stored, that one array of before-images may hold when values can be long. Bounds what the server builds in memory
/// beside the chunk itself; a few megabytes compress as well as many.
const PART_BYTES: u64 = 4 << 20;

/// Column `RETURNING old` came with.
const RETURNING_OLD_MIN: i32 = 180_000;

/// What a chunk's transaction runs instead of the plain UPDATE, and how its counts are to be read.
///
/// Every statement takes the range, the chunk's number and the number of the chunk whose before-images it reads, and yields one row.
#[derive(Clone, Debug)]
pub struct Keep {
    /// Locks the rows and saves what they hold. Columns: rows locked, rows saved.
    pub lock: Option<ByRange>,
    /// Saves and writes at once, on the bet that nobody changes the rows meanwhile; columns as [`Keep::write`]. When rows written and
    /// rows accounted for differ, which they do when their keys do, the bet is lost, and [`Keep::lock`] goes first.
    pub bet: Option<ByRange>,
    /// Writes. Columns: rows written, rows that must be accounted for, rows in conflict, bytes of before-images, a key in conflict.
    pub write: ByRange,
    /// Writes what is not in the chunk's leaf; columns as [`Keep::write`].
    pub elsewhere: Option<Elsewhere>,
    /// The middle of the rows to give back; columns as [`super::ChunkSql::middle`], which would count the rows of the table.
    pub middle: Option<ByRange>,
    /// What is done about a conflict.
    pub conflicts: Conflicts,
}

impl Keep {
    /// Saves and writes in one statement.
    fn saving(write: ByRange) -> Keep {
        Keep {
            lock: None,
            bet: None,
            write,
            elsewhere: None,
            middle: None,
            conflicts: Conflicts::Skip,
        }
    }
}

/// Where a leaf's rows may have gone.
#[derive(Clone, Debug)]
pub struct Elsewhere {
    /// For rows that are not in the leaf, which is a part of the table.
    pub beside: ByRange,
    /// For the rows of a leaf that is no part of the table any more; where none of them is found, none is in conflict.
    pub gone: ByRange,
}

/// Facts that decide the form.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// `server_version_num`.
    pub version: i32,
    /// Whether every row version has an age to look at: those seen through a partitioned table's parent need not.
    pub has_versions: bool,
    /// Whether values may be so long that an array of a chunk's would not fit in memory.
    pub is_wide: bool,
    /// Whether filled rows are kept by their new value: a row of the table for each, with the keys that hold it.
    pub by_value: bool,
}

/// Where before-images go and in which form.
pub struct Saving<'a> {
    /// Their table.
    pub images: &'a Images,
    /// Their fields, as [`Builder::image_fields`] gives them.
    pub fields: &'a [Field],
    /// Facts that decide the form.
    pub facts: Facts,
}

impl Builder<'_> {
    /// The fields of a before-image; `column` says of a column what its field must be.
    pub fn image_fields(&self, column: impl Fn(&str) -> Field) -> Vec<Field> {
        let field = |name: String, of: &str| Field { name, ..column(of) };
        let keys = self.key.columns.iter().enumerate();
        let mut fields: Vec<Field> =
            keys.map(|(i, column)| field(format!("k{}", i + 1), column.name.as_str())).collect();
        for side in ["old", "new"] {
            let targets = self.targets.iter().enumerate();
            fields.extend(
                targets.map(|(i, target)| field(format!("{side}_{}", i + 1), target.name.as_str())),
            );
        }
        fields
    }

    /// The statements that write a chunk and keep its before-images.
    pub fn capture(&self, saving: &Saving<'_>) -> Keep {
        let is_fill = matches!(self.spec.columns().as_slice(), [(_, Verb::Fill)]);
        let facts = saving.facts;
        if is_fill || facts.version >= RETURNING_OLD_MIN {
            let (old, side) = match is_fill {
                true if facts.by_value => (Old::Null, Side::ByValue),
                true => (Old::Null, Side::Filled),
                false => (Old::Returned, Side::Both),
            };
            let write = self.by_range(|form| self.write_and_save(saving, form, old, side));
            return Keep::saving(write);
        }
        let bet = || self.by_range(|form| self.bet(saving, form));
        let write = self.by_range(|form| self.write_and_save(saving, form, Old::Null, Side::New));
        Keep {
            // Values in parts would be in others on each side.
            bet: (facts.has_versions && !facts.is_wide).then(bet),
            lock: Some(self.by_range(|form| self.lock_and_save(saving, form))),
            ..Keep::saving(write)
        }
    }

    fn write_and_save(&self, saving: &Saving<'_>, form: Form, old: Old, side: Side) -> String {
        let name = &self.table.name;
        let (with, new_row, old) = match old {
            Old::Returned => (
                "WITH (OLD AS backfill_old, NEW AS backfill_new) ",
                "backfill_new".to_owned(),
                Some("backfill_old"),
            ),
            Old::Null => ("", name.to_string(), None),
        };
        let values = self.image_values(&new_row, old, Some(&new_row));
        let update = self.update(form);
        let save = self.save(saving, form, "backfill_written", side);
        let accounted = if side == Side::New && self.looks_beyond_the_row() {
            self.matched(saving, form)
        } else {
            "coalesce(sum(packed), 0)::int8".to_owned()
        };
        format!(
            "WITH backfill_written AS (\n{}\nRETURNING {with}{values}\n), backfill_saved AS (\n{save}\n)\n\
             SELECT coalesce(sum(rows), 0)::int8, {accounted}, 0::int8, coalesce(sum(bytes), 0)::int8, NULL::text[]\n  \
             FROM backfill_saved",
            update.as_str(),
        )
    }

    /// Fields of a before-image: the key from `row`, old and new values from the rows named, none where no row is.
    fn image_values(&self, row: &str, old: Option<&str>, new: Option<&str>) -> String {
        let mut values = self.numbered("k", |i| format!("{row}.{}", self.key.columns[i].name));
        for (side, from) in [("old", old), ("new", new)] {
            let Some(from) = from else { continue };
            let targets = self.targets.iter().enumerate();
            values.extend(
                targets.map(|(i, target)| format!("{from}.{} AS {side}_{}", target.name, i + 1)),
            );
        }
        values.join(", ")
    }

    /// Key and old values of the rows to write, and what else is asked for.
    fn rows_before(&self, form: Form, also: &str) -> String {
        let name = &self.table.name;
        format!(
            "SELECT {}{also}{}\n WHERE {}\n   AND ({})",
            self.image_values(&name.to_string(), Some(&name.to_string()), None),
            self.from_target().as_str(),
            self.range_sql(form),
            self.needed().as_str(),
        )
    }

    /// Everything with a transaction id before the snapshot's oldest was over when the snapshot was taken.
    ///
    /// Rows are looked up by their key once and then written where they were seen, in the order of their places, which is that of a scan
    /// by place too. A row that has moved meanwhile is younger than the snapshot wherever the server finds it.
    fn bet(&self, saving: &Saving<'_>, form: Form) -> String {
        let name = &self.table.name;
        let fields = |side: Side| saving.fields.iter().filter(move |f| side.holds(&f.name));
        let packed = |side: Side| {
            let array = |f: &Field| {
                format!("pg_catalog.array_agg({}) AS {}", saving.images.boxed(f, &f.name), f.name)
            };
            fields(side).map(array).collect::<Vec<_>>().join(", ")
        };
        let same = self.numbered_names("k");
        let same = same
            .iter()
            .map(|k| format!("backfill_before.{k} OPERATOR(pg_catalog.=) backfill_after.{k}"));
        let same = same.collect::<Vec<_>>().join(" AND ");
        let nulls =
            (1..=self.targets.len()).map(|i| format!("pg_catalog.count(old_{i}) < count(*)"));
        let columns = fields(Side::Both).map(|f| f.name.as_str()).collect::<Vec<_>>().join(", ");
        let values = fields(Side::Both).map(|f| match f.name.starts_with("new_") {
            true => format!("backfill_after.{}", f.name),
            false => format!("backfill_before.{}", f.name),
        });
        let seen = format!(
            "{}\n ORDER BY {name}.ctid",
            self.rows_before(form, &format!(", {name}.ctid AS backfill_place"))
        );
        let oldest = "pg_catalog.age(pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::pg_catalog.xid)";
        let there = format!(
            "{name}.ctid OPERATOR(pg_catalog.=) ANY ((SELECT places FROM backfill_before)::pg_catalog.tid[])\n   AND {}",
            is_older(name, oldest, &WRAPPED.to_string())
        );
        format!(
            "WITH backfill_before AS MATERIALIZED (\nSELECT count(*) AS rows, pg_catalog.array_agg(backfill_place) AS places, \
             ARRAY[{}] AS old_nulls, {}\n  FROM (\n{seen}\n) AS seen\n), backfill_written AS (\n{}\nRETURNING {}\n), \
             backfill_after AS MATERIALIZED (\nSELECT count(*) AS rows, {}\n  FROM backfill_written\n), backfill_saved AS (\n\
             INSERT INTO {} (seq, part, side, rows, old_nulls, {columns})\n\
             SELECT ${}, {}, '{}', backfill_before.rows, old_nulls, {}\n  FROM backfill_before, backfill_after\n WHERE {same}\n\
             RETURNING {} AS bytes\n)\n\
             SELECT backfill_after.rows, CASE WHEN backfill_before.rows = 0 OR {same} THEN backfill_before.rows ELSE -1 END, 0::int8,\n       \
             coalesce((SELECT bytes FROM backfill_saved), 0)::int8, NULL::text[]\n  FROM backfill_before, backfill_after",
            nulls.collect::<Vec<_>>().join(", "),
            packed(Side::Old),
            self.update_where(&there).as_str(),
            self.image_values(&name.to_string(), None, Some(&name.to_string())),
            packed(Side::New),
            saving.images.table,
            self.seq_param(form),
            base(form),
            Side::Both.stored(),
            values.collect::<Vec<_>>().join(", "),
            sizes(fields(Side::Both).map(|f| f.name.as_str())),
        )
    }

    /// Locks in key order, as every other careful writer does, so that two of them do not meet head-on.
    fn lock_and_save(&self, saving: &Saving<'_>, form: Form) -> String {
        let locked = format!(
            "(\n{}\n ORDER BY {}\n   FOR NO KEY UPDATE OF {}\n) AS backfill_locked",
            self.rows_before(form, ""),
            self.key.order_sql(&self.table.name, false),
            self.table.name
        );
        let save = self.save(saving, form, &locked, Side::Old);
        format!(
            "WITH backfill_saved AS (\n{save}\n)\n\
             SELECT coalesce(sum(rows), 0)::int8, coalesce(sum(packed), 0)::int8 FROM backfill_saved"
        )
    }

    /// Packs rows, of a CTE or a subquery, into the table of before-images: an array for each field. Not one array of composites,
    /// which costs three times as much to build.
    fn save(&self, saving: &Saving<'_>, form: Form, rows: &str, side: Side) -> String {
        let table = &saving.images.table;
        let seq = self.seq_param(form);
        let fields: Vec<&Field> = saving.fields.iter().filter(|f| side.holds(&f.name)).collect();
        let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        let list = names.join(", ");
        // Which columns had a NULL: a reverse run asks this before it writes anything.
        let nulls = (1..=self.targets.len()).map(|i| match side {
            Side::Filled | Side::ByValue => "true".to_owned(),
            _ => format!("pg_catalog.count(old_{i}) < count(*)"),
        });
        let nulls = match side {
            Side::New => "'{}'".to_owned(),
            _ => format!("ARRAY[{}]", nulls.collect::<Vec<_>>().join(", ")),
        };
        let arrays = |order: &str| {
            let array = |field: &&Field| {
                format!("pg_catalog.array_agg({}{order})", saving.images.boxed(field, &field.name))
            };
            fields.iter().map(array).collect::<Vec<_>>().join(", ")
        };
        let returning = format!(
            "RETURNING rows, pg_catalog.cardinality(k1) AS packed, {} AS bytes",
            sizes(names.iter().copied())
        );
        let (stored, base) = (side.stored(), base(form));
        let insert = format!("INSERT INTO {table} (seq, part, side, rows, old_nulls, {list})");
        if side == Side::ByValue {
            let keys = fields.iter().filter(|field| field.name.starts_with('k'));
            let keys = keys.map(|field| {
                format!("pg_catalog.array_agg({})", saving.images.boxed(field, &field.name))
            });
            let new = fields.iter().find(|field| field.name == "new_1");
            let new = new.map(|field| saving.images.boxed(field, "new_1")).unwrap_or_default();
            return format!(
                "{insert}\nSELECT ${seq}, {base} + (row_number() OVER ())::int4, '{stored}', count(*), {nulls}, {}, ARRAY[{new}]\n  \
                 FROM {rows}\n GROUP BY new_1\n{returning}",
                keys.collect::<Vec<_>>().join(", ")
            );
        }
        if !saving.facts.is_wide {
            return format!(
                "{insert}\nSELECT ${seq}, {base}, '{stored}', count(*), {nulls}, {}\n  FROM {rows}\nHAVING count(*) > 0\n{returning}",
                arrays("")
            );
        }
        let keys = self.numbered_names("k").join(", ");
        // An ordered aggregate is never hashed, so one part at a time is in memory.
        format!(
            "{insert}\nSELECT ${seq}, {base} + part, '{stored}', count(*), {nulls}, {}\n  \
             FROM (SELECT *, (sum({}) OVER (ROWS UNBOUNDED PRECEDING) / {PART_BYTES})::int4 AS part FROM {rows}) AS parts\n \
             GROUP BY part\n{returning}",
            arrays(&format!(" ORDER BY {keys}")),
            sizes(names.iter().copied().skip(self.key.columns.len())),
        )
    }

    /// Rows written whose keys were locked and saved before. By set operation, because the planner thinks an array short and would
    /// join by nested loops.
    fn matched(&self, saving: &Saving<'_>, form: Form) -> String {
        let keys = self.numbered_names("k").join(", ");
        let fields = saving.fields.iter().filter(|field| field.name.starts_with('k'));
        let saved = saving.images.unpacked(fields, Side::Old, self.seq_param(form), "saved");
        format!(
            "(SELECT count(*) FROM (\nSELECT {keys} FROM backfill_written\nINTERSECT\nSELECT {keys} FROM {saved}) AS both_sides)"
        )
    }

    /// An expression without call, subquery or join can only read its own row, and yields the same on it every time.
    fn looks_beyond_the_row(&self) -> bool {
        let rules = &self.spec.rules;
        let mut exprs = rules
            .iter()
            .flat_map(|rule| rule.when.iter().chain(rule.writes.iter().map(|w| &w.value)));
        self.spec.from.is_some() || exprs.any(|expr| expr.text.contains('('))
    }

    /// The number of the parameter that is the chunk's number; the source chunk's follows it.
    pub(super) fn seq_param(&self, form: Form) -> usize {
        self.range_params(form) + 1
    }

    pub(super) fn numbered_names(&self, prefix: &str) -> Vec<String> {
        (1..=self.key.columns.len()).map(|i| format!("{prefix}{i}")).collect()
    }

    fn numbered(&self, prefix: &str, value: impl Fn(usize) -> String) -> Vec<String> {
        (0..self.key.columns.len()).map(|i| format!("{} AS {prefix}{}", value(i), i + 1)).collect()
    }
}

/// Rows of before-images that one part of a chunk may have, at most: there are not so many keys in one.
const PART_MAX: usize = 10_000_000;

/// The number of the first row of before-images that a part of a chunk writes.
fn base(form: Form) -> usize {
    form.part.ordinal() * PART_MAX
}

/// The stored bytes of several values.
fn sizes<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let size = |name: &str| format!("coalesce(pg_catalog.pg_column_size({name}), 0)");
    names.map(size).collect::<Vec<_>>().join(" + ")
}

/// Where a statement has the old values from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Old {
    /// Not needed here: demanded to be NULL by the statement, or saved before.
    Null,
    /// The server returns them.
    Returned,
}
