//! What a run does to the table's storage.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::{Param, Result, Store, one};

/// What a run did to the table's storage.
#[derive(Clone, Debug)]
pub struct Storage {
    /// `key` or `stripes`.
    pub cut_by: String,
    /// Bytes of the heap and of the indexes when the run began; none before its first runner.
    pub before: Option<(i64, i64)>,
    /// Bytes of them now; none when the table is gone.
    pub now: Option<(i64, i64)>,
    /// Vacuums on the way, and how long they took, in milliseconds.
    pub vacuums: (i32, i64),
    /// Bytes of WAL written while chunks were at work, and the rows of those chunks.
    pub wal: (i64, i64),
    /// The table's name as SQL; none when it is gone.
    pub table: Option<String>,
}

impl Store {
    /// Writes down, once for a run, how it is cut and how large the table is.
    pub async fn note_storage(
        &self,
        client: &Client,
        run_id: i64,
        cut_by: &str,
        (heap_bytes, index_bytes): (i64, i64),
    ) -> Result<()> {
        let params: [Param<'_>; 4] = [
            (&run_id, Type::INT8),
            (&cut_by, Type::TEXT),
            (&heap_bytes, Type::INT8),
            (&index_bytes, Type::INT8),
        ];
        self.rows(client, "note the table's size", &self.sql.note_storage, &params).await.map(drop)
    }

    /// Counts a vacuum.
    pub async fn count_vacuum(&self, client: &Client, run_id: i64, took_ms: i64) -> Result<()> {
        let params: [Param<'_>; 2] = [(&run_id, Type::INT8), (&took_ms, Type::INT8)];
        self.rows(client, "count a vacuum", &self.sql.count_vacuum, &params).await.map(drop)
    }

    /// What a run did to the table's storage so far.
    pub async fn storage(&self, client: &Client, run_id: i64) -> Result<Storage> {
        let params: [Param<'_>; 1] = [(&run_id, Type::INT8)];
        let rows =
            self.rows(client, "look at the table's size", &self.sql.storage, &params).await?;
        let row = one(&rows)?;
        let pair = |a: usize, b: usize| row.get::<_, Option<i64>>(a).zip(row.get(b));
        Ok(Storage {
            cut_by: row.get(0),
            before: pair(1, 2),
            now: pair(3, 4),
            vacuums: (row.get(5), row.get(6)),
            wal: (row.get(7), row.get(8)),
            table: row.get(9),
        })
    }
}
