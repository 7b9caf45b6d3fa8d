//! The before-images of a run: a table of its own with a row type of its own, so that every value keeps its exact type.
//!
//! One row holds the before-images of one chunk as an array of that type, compressed by the server; a wide chunk has several. A row of
//! the array has the key as `k1…`, the old values as `old_1…` and the new ones as `new_1…`. Where the server cannot tell old and new in one
//! statement, a chunk has an array with the old values and one with the new, to be joined by the key.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::{Param, Result, Store, StoreError, one};
use crate::sql::{Ident, QualifiedName};

/// Where the before-images of a run are, and the rows that a reverse run notes.
#[derive(Clone, Debug)]
pub struct Images {
    /// The run whose before-images these are.
    pub run_id: i64,
    /// The table.
    pub table: QualifiedName,
    /// The type of one before-image.
    pub row_type: QualifiedName,
}

/// A field of the row type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// `k1`, `old_1`, `new_1`, ….
    pub name: String,
    /// Its type as SQL, with length and precision.
    pub type_sql: String,
    /// Its collation, when it has one.
    pub collation: Option<String>,
}

/// A field as the catalog has it, to be compared with the column it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldType {
    /// `k1`, `old_1`, `new_1`, ….
    pub name: String,
    /// `pg_attribute.atttypid`.
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`.
    pub modifier: i32,
}

/// A row that a reverse run did not simply give back.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Conflict {
    /// Its key.
    pub key: Vec<String>,
    /// `changed` or `deleted` by somebody since, `altered` by a trigger on the way back, `overwritten` by force.
    pub kind: String,
    /// When it was found, ISO 8601.
    pub found_at: String,
}

impl Conflict {
    /// What happened to the row.
    pub fn in_words(&self) -> &'static str {
        match self.kind.as_str() {
            "changed" => "changed since; left as it is",
            "deleted" => "deleted since; not created again",
            "altered" => "given back, but a trigger altered it on the way",
            _ => "changed since; overwritten by force",
        }
    }
}

impl Images {
    /// The statements that create table and type; private to this role. `lz4` where the server was built with it.
    pub fn ddl(&self, fields: &[Field], comment: &str, lz4: bool) -> String {
        let (table, row_type) = (&self.table, &self.row_type);
        let field = |field: &Field| {
            let collation = field.collation.as_ref().map(|c| format!(" collate {c}"));
            format!(
                "{} {}{}",
                Ident::new(&field.name),
                field.type_sql,
                collation.unwrap_or_default()
            )
        };
        let fields = fields.iter().map(field).collect::<Vec<_>>().join(", ");
        let comment = comment.replace('\'', "''");
        let compression = if lz4 {
            format!("alter table {table} alter column images set compression lz4;\n")
        } else {
            String::new()
        };
        format!(
            "create type {row_type} as ({fields});\n\
             create table {table} (seq bigint not null, part integer not null, side text not null, \
             rows integer not null, old_nulls boolean[] not null, images {row_type}[] not null, primary key (seq, side, part));\n\
             {compression}revoke all on table {table} from public;\nrevoke usage on type {row_type} from public;\n\
             comment on table {table} is '{comment}';\n"
        )
    }
}

impl Store {
    /// The before-images of a run.
    pub fn images(&self, run_id: i64) -> Images {
        let name = |suffix| {
            QualifiedName::new(self.schema().as_str(), format!("before_image_{run_id}{suffix}"))
        };
        Images { run_id, table: name(""), row_type: name("_row") }
    }

    /// Before-images for a rehearsal: the same tables, gone with the transaction.
    pub fn rehearsed_images() -> Images {
        let name = |suffix| QualifiedName::new("pg_temp", format!("backfill_before_image{suffix}"));
        Images { run_id: 0, table: name(""), row_type: name("_row") }
    }

    /// The table of conflicts.
    pub fn conflict_table(&self) -> QualifiedName {
        QualifiedName::new(self.schema().as_str(), "conflict")
    }

    /// The types that the before-images of a run were kept in.
    pub async fn image_types(&self, client: &Client, run_id: i64) -> Result<Vec<FieldType>> {
        let row_type = self.images(run_id).row_type.to_string();
        let sql = "select a.attname::text, a.atttypid, a.atttypmod
                     from pg_catalog.pg_type t
                     join pg_catalog.pg_attribute a on a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
                    where t.oid = pg_catalog.to_regtype($1)
                    order by a.attnum";
        let params: [Param<'_>; 1] = [(&row_type, Type::TEXT)];
        let rows = self.rows(client, "look up the before-images", sql, &params).await?;
        let read =
            |row: &Row| FieldType { name: row.get(0), type_oid: row.get(1), modifier: row.get(2) };
        Ok(rows.iter().map(read).collect())
    }

    /// Bytes on disk of a run's before-images; none when there are none.
    pub async fn image_bytes(&self, client: &Client, run_id: i64) -> Result<Option<i64>> {
        let table = self.images(run_id).table.to_string();
        let sql = "select pg_catalog.pg_total_relation_size(pg_catalog.to_regclass($1))";
        let params: [Param<'_>; 1] = [(&table, Type::TEXT)];
        let rows = self.rows(client, "measure the before-images", sql, &params).await?;
        one(&rows).map(|row| row.get(0))
    }

    /// Until when a finished run's before-images are to be kept, ISO 8601, and whether that is past; none while it is not finished.
    pub async fn kept_until(
        &self,
        client: &Client,
        run_id: i64,
        retention_s: f64,
    ) -> Result<Option<(String, bool)>> {
        let params: [Param<'_>; 2] = [(&run_id, Type::INT8), (&retention_s, Type::FLOAT8)];
        let rows = self
            .rows(client, "read how long before-images are kept", &self.sql.kept_until, &params)
            .await?;
        Ok(rows.first().map(|row| (row.get(0), row.get(1))))
    }

    /// Finished forward runs whose before-images nobody needs for a run at work, oldest first: of a name when one is given, and finished
    /// at least so many seconds ago.
    pub async fn prunable(
        &self,
        client: &Client,
        name: Option<&str>,
        older_than_s: Option<f64>,
    ) -> Result<Vec<i64>> {
        let params: [Param<'_>; 2] = [(&name, Type::TEXT), (&older_than_s, Type::FLOAT8)];
        let rows =
            self.rows(client, "list before-images", &self.sql.list_prunable, &params).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Forward runs of a name that can be taken back, newest first.
    pub async fn reversible(&self, client: &Client, name: &str) -> Result<Vec<i64>> {
        let params: [Param<'_>; 1] = [(&name, Type::TEXT)];
        let rows =
            self.rows(client, "list runs to take back", &self.sql.list_reversible, &params).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Drops the before-images of a run and says so in its record, in one transaction.
    pub async fn prune(&self, client: &Client, run_id: i64) -> Result<()> {
        let images = self.images(run_id);
        let failed = |error| StoreError::Statement("drop the before-images", error);
        // Nobody but a reverse run reads them, so a lock that does not come at once means that one is at work.
        client.batch_execute("BEGIN; SET LOCAL lock_timeout = '2s'").await.map_err(failed)?;
        let done = async {
            let drop = format!(
                "drop table if exists {}; drop type if exists {}",
                images.table, images.row_type
            );
            client.batch_execute(&drop).await.map_err(failed)?;
            let params: [Param<'_>; 1] = [(&run_id, Type::INT8)];
            self.rows(client, "mark the run pruned", &self.sql.mark_pruned, &params).await
        };
        let done = done.await;
        let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = client.batch_execute(end).await.map_err(failed);
        done.and(ended)
    }

    /// Rows that a run left alone or that a trigger altered, and rows it overwrote by force.
    pub async fn count_conflicts(&self, client: &Client, run_id: i64) -> Result<(i64, i64)> {
        let params: [Param<'_>; 1] = [(&run_id, Type::INT8)];
        let rows = self.rows(client, "count conflicts", &self.sql.count_conflicts, &params).await?;
        one(&rows).map(|row| (row.get(0), row.get(1)))
    }

    /// The first conflicts of a run.
    pub async fn conflicts(
        &self,
        client: &Client,
        run_id: i64,
        limit: i64,
    ) -> Result<Vec<Conflict>> {
        let params: [Param<'_>; 2] = [(&run_id, Type::INT8), (&limit, Type::INT8)];
        let rows = self.rows(client, "list conflicts", &self.sql.list_conflicts, &params).await?;
        let read = |row: &Row| Conflict { key: row.get(0), kind: row.get(1), found_at: row.get(2) };
        Ok(rows.iter().map(read).collect())
    }
}
