//! The chunk statement of a reverse run: gives rows back what their before-images hold. Pure.
//!
//! A row is given back only if its columns still hold, to the byte, what the backfill wrote. `*=` compares the stored images, so it also
//! serves types without an equality operator, and tells 1.0 from 1.00. No lock is needed first: should the application change a row while
//! the statement waits for it, the server looks at the condition again on the row's new version.

use super::capture::Keep;
use super::statement::{Builder, ByRange};
use crate::key::{Form, Key, KeyColumn};
use crate::sql::{Ident, QualifiedName};
use crate::state::{Field, Images, Side};
use crate::undo::Conflicts;

/// Where a reverse run reads and notes.
pub struct Restore<'a> {
    /// The before-images.
    pub images: &'a Images,
    /// Their fields.
    pub fields: &'a [Field],
    /// Where conflicts are noted.
    pub conflicts: &'a QualifiedName,
    /// The reverse run.
    pub run_id: i64,
    /// What is done about them.
    pub policy: Conflicts,
}

// The target has a name of its own here, so that a table of the application may be called as it likes.
const TARGET: &str = "backfill_target";
const IMAGE: &str = "backfill_image";
const HELD: &str = "backfill_held";
const RESTORED: &str = "backfill_restored";
const NOTED: &str = "backfill_noted";

impl Builder<'_> {
    /// The statement that gives a chunk back.
    pub fn restore(&self, restore: &Restore<'_>) -> Keep {
        let write = ByRange::new(|form| match restore.policy {
            Conflicts::Force => self.restore_all(restore, form),
            _ => self.restore_unchanged(restore, form),
        });
        Keep { lock: None, bet: None, write, conflicts: restore.policy, joins_in_bulk: true }
    }

    fn restore_unchanged(&self, restore: &Restore<'_>, form: Form) -> String {
        let gone = format!(
            "NOT EXISTS (SELECT FROM {} AS {TARGET} WHERE {})",
            self.table,
            self.on_target(IMAGE)
        );
        let unchanged = format!("\n   AND {}", self.holds(IMAGE, "new"));
        let update = self.give_back(IMAGE, &unchanged, form);
        // Mostly every row is given back, and then there is no need to look for those that are not.
        let is_short =
            format!("(SELECT count(*) FROM {RESTORED}) < (SELECT count(*) FROM {IMAGE})");
        let noted = format!(
            "SELECT {}, CASE WHEN {gone} THEN 'deleted' ELSE 'changed' END AS kind FROM {IMAGE}\n         \
             WHERE {is_short} AND NOT EXISTS (SELECT FROM {RESTORED} WHERE {})\n         UNION ALL\n        \
             SELECT {}, 'altered' FROM {RESTORED} WHERE NOT is_exact",
            self.keys_of(IMAGE),
            self.same_key(RESTORED, IMAGE),
            self.keys_of(RESTORED),
        );
        self.assemble(restore, form, "", &update, &noted)
    }

    /// The rows are locked first, so that what is noted as overwritten is what was.
    fn restore_all(&self, restore: &Restore<'_>, form: Form) -> String {
        let name = Ident::new(TARGET);
        let held = format!(
            ", {HELD} AS MATERIALIZED (\nSELECT {IMAGE}.*, {} AS is_same\n  FROM {IMAGE} JOIN {} AS {TARGET} ON {}\n WHERE {}\n \
             ORDER BY {}\n   FOR NO KEY UPDATE OF {TARGET}\n)",
            self.holds(IMAGE, "new"),
            self.table,
            self.on_target(IMAGE),
            self.key.range_sql(&name, form.whole(), 1),
            self.key.order_sql(&name, false),
        );
        let update = self.give_back(HELD, "", form);
        let noted = format!(
            "SELECT {}, 'deleted' AS kind FROM {IMAGE} WHERE NOT EXISTS (SELECT FROM {HELD} WHERE {})\n         UNION ALL\n        \
             SELECT {}, 'overwritten' FROM {HELD} WHERE NOT is_same\n         UNION ALL\n        \
             SELECT {}, 'altered' FROM {RESTORED} WHERE NOT is_exact",
            self.keys_of(IMAGE),
            self.same_key(HELD, IMAGE),
            self.keys_of(HELD),
            self.keys_of(RESTORED),
        );
        self.assemble(restore, form, &held, &update, &noted)
    }

    /// The UPDATE from the before-images in CTE `source`.
    fn give_back(&self, source: &str, condition: &str, form: Form) -> String {
        let targets = self.targets.iter().enumerate();
        let set: Vec<String> = targets
            .map(|(i, target)| format!("{} = {source}.old_{}", target.name, i + 1))
            .collect();
        format!(
            "UPDATE {} AS {TARGET}\n   SET {}\n  FROM {source}\n WHERE {}\n   AND {}{condition}\nRETURNING {}, {} AS is_exact",
            self.table,
            set.join(",\n       "),
            self.on_target(source),
            self.key.range_sql(&Ident::new(TARGET), form.whole(), 1),
            self.keys_of(source),
            self.holds(source, "old"),
        )
    }

    fn assemble(
        &self,
        restore: &Restore<'_>,
        form: Form,
        held: &str,
        update: &str,
        noted: &str,
    ) -> String {
        let image = self.image(restore, form);
        let key: Vec<String> =
            self.numbered_names("k").iter().map(|k| format!("{k}::text")).collect();
        let seq = self.seq_param(form);
        let left_alone = "kind IN ('changed', 'deleted')";
        format!(
            "WITH {image}{held}, {RESTORED} AS (\n{update}\n), {NOTED} AS (\n\
             INSERT INTO {} (run_id, seq, key, kind)\n\
             SELECT {}, ${seq}, ARRAY[{}], kind\n  FROM (\n        {noted}) AS found\nRETURNING key, kind\n)\n\
             SELECT (SELECT count(*) FROM {RESTORED}), (SELECT count(*) FROM {IMAGE}),\n       \
             (SELECT count(*) FROM {NOTED} WHERE {left_alone}), 0::int8,\n       \
             (SELECT key FROM {NOTED} WHERE {left_alone} LIMIT 1)",
            restore.conflicts,
            restore.run_id,
            key.join(", "),
        )
    }

    /// The before-images of the source chunk, as far as they lie in the range: a halved chunk gives back its half. They are of its stripe
    /// alone.
    fn image(&self, restore: &Restore<'_>, form: Form) -> String {
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
            format!("{rows}\n WHERE {}", key.range_sql(&Ident::new(alias), form.whole(), 1))
        };
        let keys = self.numbered_names("k").join(", ");
        format!(
            "{IMAGE} AS MATERIALIZED (\nSELECT * FROM {}\n UNION ALL\nSELECT * FROM {}\n UNION ALL\n\
             SELECT * FROM (SELECT * FROM {}) AS o\n  JOIN (SELECT * FROM {}) AS n USING ({keys})\n ORDER BY {keys}\n)",
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

    /// The target's row of a before-image.
    fn on_target(&self, source: &str) -> String {
        let name = Ident::new(TARGET);
        let columns = self.key.columns.iter().zip(self.numbered_names("k"));
        let equal = columns.map(|(column, k)| format!("{name}.{} = {source}.{k}", column.name));
        equal.collect::<Vec<_>>().join(" AND ")
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
