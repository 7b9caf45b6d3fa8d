//! The queries that find where chunks end: the greatest key, every n-th key from a bound on, the middle of a range. Pure.

use super::statement::{Builder, ByRange};
use crate::key::{Form, Key};

/// The middle of a range, by the entries of its parts.
#[derive(Clone, Debug)]
pub struct Middle {
    entries: ByRange,
    around: [String; 2],
}

impl Middle {
    /// The query for a range that has these parts. Parameters: the range. Columns: key, entries up to it, entries behind it.
    pub fn text(&self, parts: &[Form]) -> String {
        let entries: Vec<&str> = parts.iter().map(|part| self.entries.get(*part)).collect();
        let [before, behind] = &self.around;
        format!("{before}{}{behind}", entries.join("\n         UNION ALL "))
    }
}

impl Builder<'_> {
    /// The greatest key. Column: key.
    pub fn ceiling(&self) -> String {
        let key = self.key.array_sql(self.name());
        let order = self.key.order_sql(self.name(), true);
        format!("SELECT {key} FROM {} ORDER BY {order} LIMIT 1", self.target())
    }

    /// Every n-th key behind the last cut, each found from the one before by an offset inside the index: no entry is carried
    /// further than its page, which a window function over all of them would do at five times the cost. Only the ceiling's leading value is a
    /// condition of the walk: with all of it an index of several columns would be read on behind it, to the end of that value.
    pub(super) fn boundaries(&self) -> ByRange {
        if self.is_walk {
            return ByRange::none();
        }
        let name = self.name();
        let columns = self.key.columns_sql(name);
        let order = self.key.order_sql(name, false);
        let labels: Vec<String> = (1..=self.key.columns.len()).map(|i| format!("c{i}")).collect();
        let list = |prefix: &str| {
            labels.iter().map(|c| format!("{prefix}{c}")).collect::<Vec<_>>().join(", ")
        };
        let texts = labels.iter().map(|c| format!("{c}::text")).collect::<Vec<_>>().join(", ");
        let table = self.target();
        self.by_range(|form| {
            let form = form.whole();
            let (within, upto) = self.walked(form);
            let (ceiling, params) = self.ceiling_of(form);
            let (size, count) = (params + 1, params + 2);
            let (labels, from_last) = (list(""), list("backfill_boundary."));
            format!(
                "WITH RECURSIVE backfill_boundary (depth, {labels}) AS (\n  \
                 (SELECT 1, {columns} FROM {table} WHERE {within} ORDER BY {order} OFFSET ${size} - 1 LIMIT 1)\n  \
                 UNION ALL\n  \
                 SELECT backfill_boundary.depth + 1, next.* FROM backfill_boundary,\n         \
                 LATERAL (SELECT {columns} FROM {table}\n                   \
                 WHERE ({columns}) > ({from_last}) AND {name}.{leading} >= backfill_boundary.c1 AND {upto}\n                   \
                 ORDER BY {order} OFFSET ${size} - 1 LIMIT 1) AS next\n   \
                 WHERE backfill_boundary.depth < ${count} AND ({from_last}) < ({ceiling}))\n\
                 SELECT ARRAY[{texts}], ({labels}) = ({ceiling}) FROM backfill_boundary WHERE ({labels}) <= ({ceiling}) ORDER BY depth",
                leading = self.key.columns[0].name,
            )
        })
    }

    /// The last of the next entries, for the end of the table, where no whole chunk is left.
    pub(super) fn stretch(&self) -> ByRange {
        if self.is_walk {
            return ByRange::none();
        }
        let name = self.name();
        let columns = self.key.columns_sql(name);
        let order = self.key.order_sql(name, false);
        let key = self.key.array_sql(name);
        let table = self.target();
        self.by_range(|form| {
            let form = form.whole();
            let (within, _) = self.walked(form);
            let (ceiling, params) = self.ceiling_of(form);
            format!(
                "SELECT {key}, backfill_entries, ({columns}) = ({ceiling})\n  \
                 FROM (SELECT {columns}, row_number() OVER (ORDER BY {order}) AS backfill_entry, count(*) OVER () AS backfill_entries\n          \
                 FROM (SELECT {columns} FROM {table} WHERE {within} ORDER BY {order} LIMIT ${limit}) AS {name}\n         \
                 WHERE ({columns}) <= ({ceiling})) AS {name}\n \
                 WHERE backfill_entry = backfill_entries",
                limit = params + 1,
            )
        })
    }

    /// The condition of a walk over a range: its lower end, and the leading value of its upper one, which is also given by itself.
    fn walked(&self, form: Form) -> (String, String) {
        let leading = &self.key.columns[0];
        let at = self.key.range_params(form) - self.key.columns.len() + 1;
        let upto = format!("{}.{} <= ${at}::{}", self.name(), leading.name, leading.type_sql);
        match form.has_after {
            true => (format!("{} AND {upto}", self.key.behind_sql(self.name(), 1)), upto),
            false => (upto.clone(), upto),
        }
    }

    /// The ceiling as values, and how many parameters a range has: the ceiling is its upper end.
    fn ceiling_of(&self, form: Form) -> (String, usize) {
        let width = self.key.columns.len();
        let params = self.key.range_params(form);
        let value =
            |i: usize| format!("${}::{}", params - width + 1 + i, self.key.columns[i].type_sql);
        let values = (0..width).map(value).collect::<Vec<_>>().join(", ");
        (values, params)
    }

    pub(super) fn middle(&self) -> Middle {
        let name = self.name();
        let places = Key::places();
        let cut_by = if self.is_walk { &places } else { self.key };
        let columns = cut_by.columns_sql(name);
        let order = cut_by.order_sql(name, false);
        let key = cut_by.array_sql(name);
        let table = self.target();
        let before = format!(
            "SELECT {key}, backfill_entry, backfill_entries - backfill_entry\n  \
             FROM (SELECT {columns}, row_number() OVER (ORDER BY {order}) AS backfill_entry, count(*) OVER () AS backfill_entries\n          \
             FROM ("
        );
        let behind = format!(
            ") AS {name}) AS {name}\n WHERE backfill_entry = greatest(backfill_entries / 2, 1)"
        );
        let entries = self.by_range(|form| {
            let range = self.range_sql(form);
            format!("SELECT {columns} FROM {table} WHERE {range}")
        });
        Middle { entries, around: [before, behind] }
    }
}
