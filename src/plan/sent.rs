//! The statements that a run really sends: with what a run under way has settled, and with what keeps before-images.

use super::capture::{self, Keep};
use super::order::Way;
use super::physical::Walk;
use super::statement::{Builder, ChunkSql};
use super::table::{self, Table};
use super::{Plan, PlanError};
use crate::key::{Form, LEAF};

use crate::state::{Field, Images, Run};
use crate::undo::UndoMode;

impl Plan {
    /// The fields of a before-image.
    pub fn image_fields(&self) -> Vec<Field> {
        image_fields(&self.builder(), &self.table)
    }

    /// Goes on with the key of a run and through its leaves. The key's hash decides which rows are a stripe, whatever the catalogs say by
    /// now; a run of an older version has none, and gets plain slices.
    ///
    /// Refuses what has come up against statements on its leaves.
    ///
    /// Of the rows of the table, `passed` have been cut already: what is left to do lies in the others.
    pub fn going_on_with(mut self, run: &Run, passed: i64) -> Result<Plan, PlanError> {
        let is_its_key = run.key == self.key;
        if !is_its_key {
            self.key = run.key.clone();
            self.sql = self.builder().chunk_sql();
        }
        self.set_leaves_of(run, false)?;
        let rows = (self.table_rows - passed).max(self.rows_to_do);
        self.way = self
            .choose_way(rows, Some(run.is_walked()))
            .unwrap_or_else(|refusal| Way::by_key(refusal.what));
        if !is_its_key && !self.key.is_spread() {
            self.way = Way::by_key("as the run began".to_owned());
        }
        self.set_walk_of(run)?;
        Ok(self)
    }

    /// With the statements that keep before-images in `images`, where the spec wants them kept.
    pub fn keeping(mut self, images: &Images) -> Plan {
        self.sql.keep = self.capture(images, &self.builder(), self.table.kind == "r");
        if let Some(Ok(mut by_leaf)) = self.leaves.take() {
            by_leaf.sql.keep = self.capture(images, &self.builder().of_leaves(), true);
            self.leaves = Some(Ok(by_leaf));
        }
        if let Some(mut physical) = self.physical.take() {
            physical.walk.sql.keep =
                self.capture(images, &self.builder().of_places(self.walk_before), true);
            physical.sweep.keep = self.capture(images, &self.builder().of_leaves(), true);
            self.physical = Some(physical);
        }
        self
    }

    /// The statements that a run sends, and those of its walk by place.
    pub fn into_chunk_sql(self) -> (ChunkSql, Option<Walk>) {
        match (self.physical, self.leaves) {
            (Some(physical), _) => (physical.sweep, Some(physical.walk)),
            (None, Some(Ok(by_leaf))) => (by_leaf.sql, None),
            (None, _) => (self.sql, None),
        }
    }

    /// The UPDATE of most chunks, for people.
    pub fn update_statement(&self) -> String {
        match &self.physical {
            Some(physical) => {
                let update = physical.walk.sql.update.get(Form::WHOLE);
                update.replace(LEAF, &self.table.name.to_string())
            }
            None => self.sql.update.get(Form::WHOLE).to_owned(),
        }
    }

    /// What each chunk runs, for people: the statement that writes.
    pub fn chunk_statement(&self) -> &str {
        self.sql
            .keep
            .as_ref()
            .map_or(self.sql.update.get(Form::WHOLE), |keep| keep.write.get(Form::WHOLE))
    }

    /// The statements that keep before-images in `images`, of rows whose versions may be looked at or not; none when the spec wants none
    /// kept.
    fn capture(&self, images: &Images, builder: &Builder<'_>, has_versions: bool) -> Option<Keep> {
        let names = self.key.columns.iter().map(|column| column.name.as_str());
        let mut columns = names.chain(self.written.iter().map(String::as_str));
        let is_wide = self.table.toast_bytes > 0
            && columns.any(|name| self.table.column(name).is_some_and(|column| column.is_long));
        let is_exact = |name: &String| self.table.column(name).is_some_and(|c| c.is_exact);
        let has_few_values =
            self.has_few_values && !self.has_triggers && self.written.iter().all(is_exact);
        let facts = capture::Facts {
            version: self.server.version_num,
            has_versions,
            is_wide,
            // lz4 packs repeated values at next to no cost; what stands in for it is slower than sorting them out.
            by_value: has_few_values && !self.server.has_lz4 && !is_wide,
        };
        let fields = self.image_fields();
        let saving = capture::Saving { images, fields: &fields, facts };
        (self.undo == UndoMode::Capture).then(|| builder.capture(&saving))
    }
}

/// The fields of a before-image of a table's rows.
fn image_fields(builder: &Builder<'_>, table: &Table) -> Vec<Field> {
    builder.image_fields(|column| {
        let field = |column: &table::Column| Field {
            name: String::new(),
            type_sql: column.type_name.clone(),
            collation: column.collation.clone(),
            is_boxed: column.is_no_element,
        };
        table.column(column).map(field).unwrap_or_default()
    })
}
