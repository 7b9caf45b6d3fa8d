//! What a run did to the table's storage, in a report.

use std::time::Duration;

use serde::Serialize;

use super::Report;
use crate::event::{bytes, duration};
use crate::state::Storage;

/// Growth of the indexes from which building them anew is worth saying.
const BLOATED: f64 = 1.3;

/// Indexes that are built anew in no time are not worth a word.
const INDEX_MIN: i64 = 16 << 20;

/// What a run did to the table's storage. Sizes are those of the whole table, whoever wrote to it meanwhile.
#[derive(Clone, Debug, Serialize)]
pub struct StorageReport {
    /// `key`, `stripes` or `place`.
    pub cut_by: String,
    /// Part of the rows written that needed no new index entry; null while nobody counted.
    pub hot_share: Option<f64>,
    /// Bytes of the heap when the run began.
    pub heap_bytes_before: Option<i64>,
    /// Bytes of the heap now.
    pub heap_bytes: Option<i64>,
    /// Bytes of the indexes when the run began.
    pub index_bytes_before: Option<i64>,
    /// Bytes of the indexes now.
    pub index_bytes: Option<i64>,
    /// Bytes of WAL that a row has cost at least, over the whole run: what lay between a chunk's claim and its mark and no chunk before it had
    /// counted. Of chunks that end in another order than they began, a part is missed.
    pub wal_bytes_per_row: Option<f64>,
    /// The table's name as SQL.
    #[serde(skip)]
    pub(super) table: Option<String>,
    /// Vacuums on the way.
    pub vacuums: i32,
    /// How long they took.
    pub vacuum_s: f64,
}

impl StorageReport {
    pub(super) fn new(storage: Storage, hot: Option<(i64, i64)>) -> StorageReport {
        let (before, now) = (storage.before.unzip(), storage.now.unzip());
        let share = |(hot, of): (i64, i64)| (of > 0).then(|| hot as f64 / of as f64);
        StorageReport {
            cut_by: storage.cut_by,
            hot_share: hot.and_then(share),
            heap_bytes_before: before.0,
            heap_bytes: now.0,
            index_bytes_before: before.1,
            index_bytes: now.1,
            wal_bytes_per_row: (storage.wal.1 > 0)
                .then(|| storage.wal.0 as f64 / storage.wal.1 as f64),
            table: storage.table,
            vacuums: storage.vacuums.0,
            vacuum_s: storage.vacuums.1 as f64 / 1000.0,
        }
    }

    /// How much the indexes grew, when they are worth building anew.
    fn is_bloated(&self) -> bool {
        let sizes = self.index_bytes_before.zip(self.index_bytes);
        sizes.is_some_and(|(before, now)| now > INDEX_MIN && now as f64 > before as f64 * BLOATED)
    }
}

impl Report {
    /// What the run did to the table's storage, a line each; nothing while it has written nothing.
    pub fn storage_text(&self) -> Vec<String> {
        let storage = &self.storage;
        let mut lines = Vec::new();
        if self.rows_done == 0 {
            return lines;
        }
        let size = |n: i64| bytes(n.max(0).unsigned_abs());
        let mut parts = Vec::new();
        let grown = [
            ("heap", storage.heap_bytes_before, storage.heap_bytes),
            ("indexes", storage.index_bytes_before, storage.index_bytes),
        ];
        for (what, before, now) in grown {
            if let (Some(before), Some(now)) = (before, now) {
                parts.push(format!("{what} {} → {}", size(before), size(now)));
            }
        }
        if let Some(share) = storage.hot_share {
            parts.push(format!("{:.0} % HOT", share * 100.0));
        }
        if let Some(wal) = storage.wal_bytes_per_row {
            parts.push(format!("at least {wal:.0} B of WAL a row"));
        }
        if storage.vacuums > 0 {
            let took = duration(Duration::from_secs_f64(storage.vacuum_s.clamp(0.0, 1e9)));
            let plural = if storage.vacuums == 1 { "" } else { "s" };
            parts.push(format!("{} vacuum{plural} in {took}", storage.vacuums));
        }
        lines.push(parts.join(", "));
        if storage.is_bloated() {
            lines.push(format!(
                "every row that was not HOT left an entry in each index, and no vacuum makes an index smaller: REINDEX TABLE CONCURRENTLY {};",
                storage.table.as_deref().unwrap_or(&self.table)
            ));
        }
        lines
    }
}
