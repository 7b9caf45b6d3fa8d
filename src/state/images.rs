//! The before-images of a run: a table of its own, in which every value keeps its exact type.
//!
//! One row holds the before-images of one chunk, an array for each field, compressed by the server; a wide chunk has several. The fields are
//! the key, `k1…`, the old values, `old_1…`, and the new ones, `new_1…`. Where the server cannot tell old and new in one statement, a
//! chunk has a row with the old values and one with the new, to be joined by the key. What cannot be an element of an array, such as an
//! array, is put into a composite type of one field first.

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
}

/// A field of a before-image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Field {
    /// `k1`, `old_1`, `new_1`, ….
    pub name: String,
    /// Its type as SQL, with length and precision.
    pub type_sql: String,
    /// Its collation, when it has one.
    pub collation: Option<String>,
    /// Whether the type cannot be an element of an array.
    pub is_boxed: bool,
}

/// What of the before-images one row of the table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// New values; the old ones are all NULL.
    Filled,
    /// One new value, in an array of one, and the keys of all rows that hold it; the old ones are all NULL.
    ByValue,
    /// Old and new values.
    Both,
    /// Old values.
    Old,
    /// New values.
    New,
}

impl Side {
    /// The word in the table.
    pub fn stored(self) -> &'static str {
        match self {
            Side::Filled | Side::Both => "both",
            Side::ByValue => "by value",
            Side::Old => "old",
            Side::New => "new",
        }
    }

    /// Whether a field is given.
    pub fn holds(self, field: &str) -> bool {
        match self {
            Side::Both => true,
            Side::Filled | Side::New | Side::ByValue => !field.starts_with("old_"),
            Side::Old => !field.starts_with("new_"),
        }
    }
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

/// Where a reverse run notes what it did not simply give back.
#[derive(Clone, Debug)]
pub struct Notes {
    /// The table of conflicts.
    pub conflicts: QualifiedName,
    /// The table of rows set aside.
    pub set_aside: QualifiedName,
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

/// A forward run whose rows stand.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The run.
    pub run_id: i64,
    /// Rows that it wrote.
    pub rows: i64,
    /// Whether what takes them back is there.
    pub is_reversible: bool,
    /// The reverse run that left some of them.
    pub left_by: Option<i64>,
    /// Rows that it left: in conflict, or set aside.
    pub rows_left: i64,
    /// Partitions that it passed over and that are still there.
    pub leaves_left: i64,
    /// Whether it wrote this very table, and not one that had its name.
    pub is_same_table: bool,
}

impl Images {
    /// The statements that create table and types; private to this role. `lz4` where the server was built with it.
    pub fn ddl(&self, fields: &[Field], comment: &str, lz4: bool) -> String {
        let table = &self.table;
        let mut types = String::new();
        let mut columns = String::new();
        let mut compression = String::new();
        for field in fields {
            let name = Ident::new(&field.name);
            let collation =
                field.collation.as_ref().map(|c| format!(" collate {c}")).unwrap_or_default();
            if field.is_boxed {
                let held = self.box_type(field);
                types.push_str(&format!(
                    "create type {held} as (v {}{collation});\nrevoke usage on type {held} from public;\n",
                    field.type_sql
                ));
                columns.push_str(&format!(", {name} {held}[]"));
            } else {
                columns.push_str(&format!(", {name} {}[]{collation}", field.type_sql));
            }
            // Without lz4 keys stay as they are: what stands in for it takes more time than it saves space on them.
            if lz4 {
                compression.push_str(&format!(
                    "alter table {table} alter column {name} set compression lz4;\n"
                ));
            } else if field.name.starts_with('k') {
                compression.push_str(&format!(
                    "alter table {table} alter column {name} set storage external;\n"
                ));
            }
        }
        let comment = comment.replace('\'', "''");
        format!(
            "{types}create table {table} (seq bigint not null, part integer not null, side text not null, \
             rows integer not null, old_nulls boolean[] not null{columns}, primary key (seq, side, part));\n\
             {compression}revoke all on table {table} from public;\ncomment on table {table} is '{comment}';\n"
        )
    }

    /// An SQL value as it is put into the array of its field.
    pub fn boxed(&self, field: &Field, value: &str) -> String {
        match field.is_boxed {
            true => format!("ROW({value})::{}", self.box_type(field)),
            false => value.to_owned(),
        }
    }

    /// A subquery with a row for each before-image of one side of a chunk, whose number is parameter `seq`.
    pub fn unpacked<'f>(
        &self,
        fields: impl Iterator<Item = &'f Field>,
        side: Side,
        seq: usize,
        alias: &str,
    ) -> String {
        let (mut inner, mut outer) = (Vec::new(), Vec::new());
        for field in fields {
            let name = &field.name;
            // Beside the keys that are unpacked, a value that is not is repeated for each.
            inner.push(match side == Side::ByValue && name.starts_with("new_") {
                true => format!("chunk.{name}[1] AS {name}"),
                false => format!("pg_catalog.unnest(chunk.{name}) AS {name}"),
            });
            outer.push(match field.is_boxed {
                true => format!("(packed.{name}).v AS {name}"),
                false => format!("packed.{name}"),
            });
        }
        format!(
            "(SELECT {} FROM (SELECT {} FROM {} AS chunk WHERE chunk.seq = ${seq} AND chunk.side = '{}') AS packed) AS {alias}",
            outer.join(", "),
            inner.join(", "),
            self.table,
            side.stored(),
        )
    }

    fn box_type(&self, field: &Field) -> QualifiedName {
        let name = format!("{}_{}", self.table.name.as_str(), field.name);
        QualifiedName::new(self.table.schema.as_str(), name)
    }
}

impl Store {
    /// The before-images of a run.
    pub fn images(&self, run_id: i64) -> Images {
        let name = format!("before_image_{run_id}");
        Images { run_id, table: QualifiedName::new(self.schema().as_str(), name) }
    }

    /// Before-images for a rehearsal: the same tables, gone with the transaction.
    pub fn rehearsed_images() -> Images {
        Images { run_id: 0, table: QualifiedName::new("pg_temp", "backfill_before_image") }
    }

    /// The tables of a reverse run's notes.
    pub fn notes(&self) -> Notes {
        let table = |name| QualifiedName::new(self.schema().as_str(), name);
        Notes { conflicts: table("conflict"), set_aside: table("quarantine") }
    }

    /// The types that the before-images of a run were kept in.
    pub async fn image_types(&self, client: &Client, run_id: i64) -> Result<Vec<FieldType>> {
        let table = self.images(run_id).table;
        let prefix = format!("{}_", table.name.as_str());
        let table = table.to_string();
        // The element type of each array, or what is in its box.
        let sql = "select a.attname::text, coalesce(v.atttypid, t.typelem), coalesce(v.atttypmod, a.atttypmod)
                     from pg_catalog.pg_attribute a
                     join pg_catalog.pg_type t on t.oid = a.atttypid
                     join pg_catalog.pg_type e on e.oid = t.typelem
                     left join pg_catalog.pg_attribute v
                       on v.attrelid = e.typrelid and v.attnum = 1 and e.typname = $2 || a.attname
                    where a.attrelid = pg_catalog.to_regclass($1) and a.attname ~ '^(k|old_|new_)[0-9]+$'
                    order by a.attnum";
        let params: [Param<'_>; 2] = [(&table, Type::TEXT), (&prefix, Type::TEXT)];
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

    /// Forward runs of a name on a table whose rows stand: they were not taken back, or not all of them; newest first.
    pub async fn standing(
        &self,
        client: &Client,
        name: &str,
        (table, table_name): (u32, &str),
    ) -> Result<Vec<Standing>> {
        let params: [Param<'_>; 3] =
            [(&name, Type::TEXT), (&table, Type::OID), (&table_name, Type::TEXT)];
        let sql = &self.sql.list_standing;
        let rows = self.rows(client, "list runs whose rows stand", sql, &params).await?;
        let read = |row: &Row| Standing {
            run_id: row.get(0),
            rows: row.get(1),
            is_reversible: row.get(2),
            left_by: row.get(3),
            rows_left: row.get(4),
            leaves_left: row.get(5),
            is_same_table: row.get(6),
        };
        Ok(rows.iter().map(read).collect())
    }

    /// Drops the before-images of a run and says so in its record, in one transaction.
    pub async fn prune(&self, client: &Client, run_id: i64) -> Result<()> {
        let images = self.images(run_id);
        let what = "drop the before-images";
        let failed = |error| StoreError::Statement(what, error);
        // Nobody but a reverse run reads them, so a lock that does not come at once means that one is at work.
        let how = (what, "SET LOCAL lock_timeout = '2s'; ");
        let body = async |store: &Store| {
            let boxes = store.boxes(client, &images).await?;
            client
                .batch_execute(&format!("drop table if exists {}", images.table))
                .await
                .map_err(failed)?;
            for held in boxes {
                client.batch_execute(&format!("drop type {held}")).await.map_err(failed)?;
            }
            let params: [Param<'_>; 1] = [(&run_id, Type::INT8)];
            store.rows(client, "mark the run pruned", &store.sql.mark_pruned, &params).await
        };
        self.transact(client, how, body).await.map(drop)
    }

    /// The types made for the before-images.
    async fn boxes(&self, client: &Client, images: &Images) -> Result<Vec<QualifiedName>> {
        let sql = "select t.typname::text from pg_catalog.pg_type t
                    where t.typnamespace = pg_catalog.to_regnamespace($1) and t.typtype = 'c'
                      and t.typname ~ ('^' || $2 || '_(k|old_|new_)[0-9]+$')";
        let schema = self.schema().to_string();
        let name = images.table.name.as_str();
        let params: [Param<'_>; 2] = [(&schema, Type::TEXT), (&name, Type::TEXT)];
        let rows = self.rows(client, "look up the before-images' types", sql, &params).await?;
        let named = |row: &Row| QualifiedName::new(self.schema().as_str(), row.get::<_, String>(0));
        Ok(rows.iter().map(named).collect())
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
