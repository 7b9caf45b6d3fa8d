//! Rows that a unique index to come would fail on.

use deadpool_postgres::Object;
use serde_json::{Value, json};
use tokio_postgres::error::SqlState;

use super::lint::{Live, live};
use crate::db;
use crate::migrate::facts::Change;
use crate::migrate::trace::Observed;
use crate::sql::{Ident, QualifiedName};

/// How long a plan looks for rows that a new unique index would fail on, in milliseconds: what the table's own readers would not notice.
const TWINS_MS: u32 = 5000;

/// Whether two rows of a live table are alike in the columns that are to be unique, as far as a bounded look can tell.
pub(super) async fn look_for_twins(client: &Object, seen: &Observed) -> Vec<Value> {
    let mut found = Vec::new();
    for change in &seen.changes {
        let (table, columns) = match change {
            Change::IndexAdded { table, is_unique: true, is_whole: true, columns, .. } => {
                (table, columns)
            }
            Change::ConstraintAdded { table, kind, is_fast: false, columns, .. }
                if kind == "u" || kind == "p" =>
            {
                (table, columns)
            }
            _ => continue,
        };
        let Ok(Live { oid: 1.., .. }) = live(client, table).await else { continue };
        let list = columns.iter().map(|column| Ident::new(column).to_string()).collect::<Vec<_>>();
        let same: Vec<String> = list.iter().map(|column| format!("{column} IS NOT NULL")).collect();
        let Some((schema, name)) = table.split_once('.') else { continue };
        let name = QualifiedName::new(schema, name);
        let values: Vec<String> = list.iter().map(|column| format!("{column}::text")).collect();
        let list = list.join(", ");
        let sql = format!(
            "SELECT pg_catalog.concat_ws(', ', {}) FROM {name} WHERE {} GROUP BY {list} HAVING count(*) > 1 LIMIT 1",
            values.join(", "),
            same.join(" AND ")
        );
        let before = format!("BEGIN READ ONLY; SET LOCAL statement_timeout = {TWINS_MS}");
        let looked = match client.batch_execute(&before).await {
            Ok(()) => db::ask_as_is(client, &sql, &[]).await,
            Err(error) => Err(error),
        };
        let said = match looked {
            Ok(rows) => rows.first().map_or_else(
                || "no two rows are alike as of now".to_owned(),
                |row| {
                    format!(
                        "it will fail: several rows have ({}) = ({})",
                        columns.join(", "),
                        row.get::<_, String>(0)
                    )
                },
            ),
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => {
                format!("five seconds were too few to tell whether rows are alike; ask with: {sql}")
            }
            Err(_) => {
                "cannot be told yet whether rows are alike: the columns are not there".to_owned()
            }
        };
        let _ = client.batch_execute("ROLLBACK").await;
        found.push(json!({ "table": table, "columns": columns, "evidence": said }));
    }
    found
}
