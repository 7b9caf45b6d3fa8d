//! The chunk statement of a reverse run: gives rows back what their before-images hold. Pure.
//!
//! A row is given back only if its columns still hold, to the byte, what the backfill wrote. `*=` compares the stored images, so it also
//! serves types without an equality operator, and tells 1.0 from 1.00. No lock is needed first: should the application change a row while
//! the statement waits for it, the server looks at the condition again on the row's new version.
//!
//! A run that went leaf by leaf gives back on the leaf, within the chunk's range. What is not met there, because partitions were split or
//! merged since, is looked for by its key through the parent.

use super::capture::{Elsewhere, Keep};
use super::statement::Builder;
use crate::key::{Form, Key, KeyColumn};
use crate::mutation::Guard;
use crate::sql::Ident;
use crate::state::{Field, Images, Notes, Side};
use crate::undo::Conflicts;

/// Where a reverse run reads and notes.
pub struct Restore<'a> {
    /// The before-images.
    pub images: &'a Images,
    /// Their fields.
    pub fields: &'a [Field],
    /// Where conflicts and rows set aside are noted.
    pub notes: &'a Notes,
    /// The reverse run.
    pub run_id: i64,
    /// What is done about them.
    pub policy: Conflicts,
    /// Where the rows are.
    pub place: Rows,
    /// Whether a row may have several before-images: what another of them has given back is no conflict.
    pub may_repeat: bool,
}

/// Where the rows of a run that is taken back are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// In the table, in the range of the chunk.
    InTable,
    /// In the leaf of the chunk, as far as that is still a part of the table.
    InLeaf,
    /// Anywhere in the table: its leaves cannot be written by their own names.
    Anywhere,
}

/// What a statement looks at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// The table, within the range.
    Table,
    /// The leaf, within the range; what is not there is not spoken of.
    Leaf,
    /// The table, for what is not in the leaf.
    Beside,
    /// The table, for what was in a leaf that is no part of it any more; not spoken of when nothing is there.
    Gone,
    /// The table.
    All,
}

impl Reach {
    fn is_in_range(self) -> bool {
        matches!(self, Reach::Table | Reach::Leaf)
    }
}

// The target has a name of its own here, so that a table of the application may be called as it likes.
const TARGET: &str = "backfill_target";
const IMAGE: &str = "backfill_image";
const HELD: &str = "backfill_held";
const RESTORED: &str = "backfill_restored";
const NOTED: &str = "backfill_noted";
const FOUND: &str = "backfill_found";
const SAVED: &str = "backfill_saved";

impl Builder<'_> {
    /// The statement that gives a chunk back.
    pub fn restore(&self, restore: &Restore<'_>) -> Keep {
        let by_form = |reach: Reach| {
            self.by_range(|form| match restore.policy {
                Conflicts::Force => self.restore_all(restore, form, reach),
                _ => self.restore_unchanged(restore, form, reach),
            })
        };
        let reach = match restore.place {
            Rows::InTable => Reach::Table,
            Rows::InLeaf => Reach::Leaf,
            Rows::Anywhere => Reach::All,
        };
        let is_in_leaf = restore.place == Rows::InLeaf;
        Keep {
            lock: None,
            bet: None,
            write: by_form(reach),
            elsewhere: is_in_leaf
                .then(|| Elsewhere { beside: by_form(Reach::Beside), gone: by_form(Reach::Gone) }),
            middle: Some(self.by_range(|form| self.middle_image(restore, form))),
            conflicts: restore.policy,
        }
    }

    fn restore_unchanged(&self, restore: &Restore<'_>, form: Form, reach: Reach) -> String {
        let unchanged = match Guard::Comparison.is_out() {
            true => String::new(),
            false => format!("\n   AND {}", self.holds(IMAGE, "new")),
        };
        let update = self.give_back(IMAGE, &unchanged, form, reach);
        // Mostly every row is given back, and then there is no need to look for those that are not.
        let is_short =
            format!("(SELECT count(*) FROM {RESTORED}) < (SELECT count(*) FROM {IMAGE})");
        let is_there = self.is_there(&self.seen(reach), IMAGE, "");
        let gone = if reach == Reach::Leaf { "NULL" } else { "'deleted'" };
        let given_back = match restore.may_repeat {
            true => {
                let holds_old = format!(" AND {}", self.holds(IMAGE, "old"));
                format!("WHEN {} THEN NULL ", self.is_there(&self.seen(reach), IMAGE, &holds_old))
            }
            false => String::new(),
        };
        let noted = format!(
            "SELECT {}, CASE {given_back}WHEN {is_there} THEN 'changed' ELSE {gone} END AS kind FROM {IMAGE}\n         \
             WHERE {is_short} AND NOT EXISTS (SELECT FROM {RESTORED} WHERE {})\n         UNION ALL\n        \
             SELECT {}, 'altered' FROM {RESTORED} WHERE NOT is_exact",
            self.keys_of(IMAGE),
            self.same_key(RESTORED, IMAGE),
            self.keys_of(RESTORED),
        );
        self.assemble(restore, (form, reach), "", &update, &noted)
    }

    /// The rows are locked first, so that what is noted as overwritten is what was.
    fn restore_all(&self, restore: &Restore<'_>, form: Form, reach: Reach) -> String {
        let name = Ident::new(TARGET);
        let held = format!(
            ", {HELD} AS MATERIALIZED (\nSELECT {IMAGE}.*, {} AS is_same\n  FROM {IMAGE} JOIN {} AS {TARGET} ON {}\n{}\
             ORDER BY {}\n   FOR NO KEY UPDATE OF {TARGET}\n)",
            match restore.may_repeat {
                true => format!("({} OR {})", self.holds(IMAGE, "new"), self.holds(IMAGE, "old")),
                false => self.holds(IMAGE, "new"),
            },
            self.seen(reach),
            self.on_target(IMAGE),
            self.within(" WHERE ", form, reach),
            self.key.order_sql(&name, false),
        );
        let update = self.give_back(HELD, "", form, reach);
        let gone = if reach == Reach::Leaf { "NULL" } else { "'deleted'" };
        let noted = format!(
            "SELECT {}, {gone} AS kind FROM {IMAGE} WHERE NOT EXISTS (SELECT FROM {HELD} WHERE {})\n         UNION ALL\n        \
             SELECT {}, 'overwritten' FROM {HELD} WHERE NOT is_same\n         UNION ALL\n        \
             SELECT {}, 'altered' FROM {RESTORED} WHERE NOT is_exact",
            self.keys_of(IMAGE),
            self.same_key(HELD, IMAGE),
            self.keys_of(HELD),
            self.keys_of(RESTORED),
        );
        self.assemble(restore, (form, reach), &held, &update, &noted)
    }

    /// The UPDATE from the before-images in CTE `source`.
    fn give_back(&self, source: &str, condition: &str, form: Form, reach: Reach) -> String {
        let targets = self.targets.iter().enumerate();
        let set: Vec<String> = targets
            .map(|(i, target)| format!("{} = {source}.old_{}", target.name, i + 1))
            .collect();
        format!(
            "UPDATE {} AS {TARGET}\n   SET {}\n  FROM {source}\n WHERE {}\n{}{condition}\nRETURNING {}, {} AS is_exact",
            self.seen(reach),
            set.join(",\n       "),
            self.on_target(source),
            self.within("   AND ", form, reach),
            self.keys_of(source),
            self.holds(source, "old"),
        )
    }

    /// The table that a statement looks at.
    fn seen(&self, reach: Reach) -> String {
        let leaf = self.leaf.clone().filter(|_| reach == Reach::Leaf);
        leaf.unwrap_or_else(|| self.table.to_string())
    }

    fn assemble(
        &self,
        restore: &Restore<'_>,
        (form, reach): (Form, Reach),
        held: &str,
        update: &str,
        noted: &str,
    ) -> String {
        let image = self.image(restore, form, reach);
        let key: Vec<String> =
            self.numbered_names("k").iter().map(|k| format!("{k}::text")).collect();
        let seq = self.seq_param(form);
        let left_alone = "kind IN ('changed', 'deleted')";
        let given_back = match restore.may_repeat {
            true => format!(" - (SELECT count(*) FROM {FOUND} WHERE kind IS NULL)"),
            false => String::new(),
        };
        // Of a leaf that was dropped with all its rows there is one thing to say, and that is not said of each row.
        let is_said = match reach {
            Reach::Gone => format!(
                "\n WHERE EXISTS (SELECT FROM {RESTORED}) OR EXISTS (SELECT FROM {FOUND} WHERE kind <> 'deleted')"
            ),
            _ => "\n WHERE kind IS NOT NULL".to_owned(),
        };
        format!(
            "WITH {image}{held}, {RESTORED} AS (\n{update}\n), {FOUND} AS MATERIALIZED (\n        {noted}), {NOTED} AS (\n\
             INSERT INTO {} (run_id, seq, key, kind)\n\
             SELECT {}, ${seq}, ARRAY[{}], kind\n  FROM {FOUND}{is_said}\nRETURNING key, kind\n)\n\
             SELECT (SELECT count(*) FROM {RESTORED}), (SELECT count(*) FROM {IMAGE}){given_back},\n       \
             (SELECT count(*) FROM {NOTED} WHERE {left_alone}), 0::int8,\n       \
             (SELECT key FROM {NOTED} WHERE {left_alone} LIMIT 1)",
            restore.notes.conflicts,
            restore.run_id,
            key.join(", "),
        )
    }

    /// Halves what is left to give back: a chunk's rows are those of its before-images.
    fn middle_image(&self, restore: &Restore<'_>, form: Form) -> String {
        let keys = self.numbered_names("k");
        let texts: Vec<String> = keys.iter().map(|k| format!("{k}::text")).collect();
        let order = keys.join(", ");
        let last = keys.iter().map(|k| format!("{k} DESC")).collect::<Vec<_>>().join(", ");
        format!(
            "WITH {image}\nSELECT ARRAY[{key}], backfill_entry, backfill_entries - backfill_entry,\n       \
             (SELECT ARRAY[{key}] FROM {IMAGE} ORDER BY {last} LIMIT 1)\n  \
             FROM (SELECT {order}, row_number() OVER (ORDER BY {order}) AS backfill_entry, count(*) OVER () AS backfill_entries\n          \
             FROM {IMAGE}) AS numbered\n \
             WHERE backfill_entry = greatest(backfill_entries / 2, 1)",
            image = self.image(restore, form, Reach::Table),
            key = texts.join(", "),
        )
    }

    /// The before-images of the source chunk, as far as they lie in the range: a halved chunk gives back its half. They are of its stripe
    /// alone.
    fn image(&self, restore: &Restore<'_>, form: Form, reach: Reach) -> String {
        let columns = self.key.columns.iter().zip(self.numbered_names("k"));
        let key = Key {
            columns: columns
                .map(|(column, k)| KeyColumn { name: Ident::new(k), ..column.clone() })
                .collect(),
        };
        let seq = self.seq_param(form) + 1;
        let unpacked = |side: Side, alias: &str| {
            let is_read = |field: &&Field| side == Side::ByValue || side.holds(&field.name);
            let fields = restore.fields.iter().filter(is_read);
            let rows = restore.images.unpacked(fields, side, seq, alias);
            let range = match self.is_walk {
                // What was done by place is all of the chunk's before-images; only halves of it have ends, and those are keys. But of a
                // row whose later before-image could not be given back, the earlier one must not be.
                true => format!(
                    "NOT EXISTS (SELECT FROM {} AS backfill_aside WHERE backfill_aside.run_id OPERATOR(pg_catalog.=) {}::int8 \
                     AND backfill_aside.key OPERATOR(pg_catalog.=) {})",
                    restore.notes.set_aside,
                    restore.run_id,
                    key.array_sql(&Ident::new(alias)),
                ),
                false => key.range_sql(&Ident::new(alias), form.unstriped(), 1),
            };
            format!("{rows}\n WHERE {range}")
        };
        let keys = self.numbered_names("k").join(", ");
        let not_in_leaf = match (reach, &self.leaf) {
            (Reach::Beside, Some(leaf)) => {
                format!("\n WHERE {} IS NULL", self.is_there(leaf, SAVED, ""))
            }
            _ => String::new(),
        };
        format!(
            "{SAVED} AS (\nSELECT * FROM {}\n UNION ALL\nSELECT * FROM {}\n UNION ALL\n\
             SELECT * FROM (SELECT * FROM {}) AS o\n  JOIN (SELECT * FROM {}) AS n USING ({keys})\n), \
             {IMAGE} AS MATERIALIZED (\nSELECT * FROM {SAVED}{not_in_leaf} ORDER BY {keys}\n)",
            unpacked(Side::Both, "both_sides"),
            unpacked(Side::ByValue, "by_value"),
            unpacked(Side::Old, "old_side"),
            unpacked(Side::New, "new_side"),
        )
    }

    /// Whether the row holds the `old` or `new` values of a before-image, to the byte.
    fn holds(&self, source: &str, side: &str) -> String {
        let name = Ident::new(TARGET);
        let columns: Vec<String> =
            self.targets.iter().map(|t| format!("{name}.{}", t.name)).collect();
        let values: Vec<String> =
            (1..=self.targets.len()).map(|i| format!("{source}.{side}_{i}")).collect();
        format!(
            "ROW({})::record OPERATOR(pg_catalog.*=) ROW({})::record",
            columns.join(", "),
            values.join(", ")
        )
    }

    /// Whether a table has the row of a before-image, and a further condition holds of it: by its key's index, which EXISTS would leave to the planner.
    fn is_there(&self, table: &str, source: &str, condition: &str) -> String {
        format!(
            "(SELECT true FROM {table} AS {TARGET} WHERE {}{condition} LIMIT 1)",
            self.on_target(source)
        )
    }

    /// The target's row of a before-image.
    fn on_target(&self, source: &str) -> String {
        let name = Ident::new(TARGET);
        let columns = self.key.columns.iter().zip(self.numbered_names("k"));
        let equal = columns.map(|(column, k)| format!("{name}.{} = {source}.{k}", column.name));
        equal.collect::<Vec<_>>().join(" AND ")
    }

    /// The chunk's range as a condition, where the statement keeps to it.
    fn within(&self, word: &str, form: Form, reach: Reach) -> String {
        match reach.is_in_range() {
            true => {
                format!("{word}{}\n", self.key.range_sql(&Ident::new(TARGET), form.unstriped(), 1))
            }
            false => String::new(),
        }
    }

    fn same_key(&self, a: &str, b: &str) -> String {
        let equal = self.numbered_names("k").into_iter().map(|k| format!("{a}.{k} = {b}.{k}"));
        equal.collect::<Vec<_>>().join(" AND ")
    }

    fn keys_of(&self, source: &str) -> String {
        self.numbered_names("k")
            .iter()
            .map(|k| format!("{source}.{k}"))
            .collect::<Vec<_>>()
            .join(", ")
    }
}
