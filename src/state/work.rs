//! The statements of a run at work: cutting, claiming, settling, and what the chunks add up to.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::{
    Chunk, Claim, Cover, Done, Mark, Param, Quarantined, Result, RunState, Store, StoreError, Sums,
    Tuned, json, one,
};
use crate::budget::Budget;
use crate::key::{Bound, KeyRange, Place, Stripe};
use crate::sql::QualifiedName;

/// What a runner reads of its own run between chunks.
#[derive(Debug)]
pub struct Control {
    /// Where the run stands.
    pub state: RunState,
    /// Its epoch; another than ours means that we were taken over.
    pub epoch: i32,
    /// Raised by every request.
    pub version: i32,
    /// What an operator tuned.
    pub tuned: Tuned,
    /// Where the server's WAL stands, in bytes.
    pub wal_at: i64,
}

/// What paces a run at this moment, for other sessions to see.
#[derive(Debug)]
pub struct Paced<'a> {
    /// `proceed`, `slow` or `hold`.
    pub verdict: &'a str,
    /// The reason in words.
    pub reason: &'a str,
    /// The constraint.
    pub by: Option<&'a str>,
    /// The window in force and until when, in words.
    pub window: Option<(&'a str, Option<&'a str>)>,
    /// Seconds under each constraint.
    pub spent: &'a std::collections::BTreeMap<String, f64>,
    /// Bytes of WAL that a row costs now.
    pub wal_per_row: f64,
    /// Bytes of WAL, and the rows they were for, since the last time.
    pub wal: (i64, i64),
}

/// The number of a chunk of a run, as a runner of an epoch addresses it.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    /// The run.
    pub run_id: i64,
    /// The runner's epoch.
    pub epoch: i32,
    /// The chunk.
    pub seq: i64,
}

impl Address {
    pub(super) fn params(&self) -> [Param<'_>; 3] {
        [(&self.run_id, Type::INT8), (&self.seq, Type::INT8), (&self.epoch, Type::INT4)]
    }
}

impl Store {
    /// Chunks not done, in order, behind `seq`.
    pub async fn pending(
        &self,
        client: &Client,
        run_id: i64,
        seq: i64,
        limit: i64,
    ) -> Result<Vec<Chunk>> {
        let params: [Param<'_>; 3] =
            [(&run_id, Type::INT8), (&seq, Type::INT8), (&limit, Type::INT8)];
        let rows =
            self.rows(client, "list pending chunks", &self.sql.list_pending, &params).await?;
        Ok(rows.iter().map(Chunk::read).collect())
    }

    /// Claims a chunk: waits for whoever holds it, then sees the truth.
    pub async fn claim(&self, client: &Client, at: Address) -> Result<Claim> {
        let lock = self.chunk_lock(at.run_id);
        let [run, seq, epoch] = at.params();
        let params: [Param<'_>; 5] =
            [run, seq, epoch, (&lock.class, Type::INT4), (&lock.object, Type::INT4)];
        let rows = self.rows(client, "claim a chunk", &self.sql.claim_chunk, &params).await?;
        let row = rows.first().ok_or(StoreError::EpochOver)?;
        let state: String = row.get(4);
        let range = KeyRange {
            after: row.get::<_, Option<Vec<String>>>(2).map(Bound),
            upto: Bound(row.get(3)),
            stripe: super::chunk::stripe(row.get(8), row.get(9))
                .map(|stripe| Stripe { is_dense: row.get(10), ..stripe }),
            only: row.get(15),
        };
        let leaf: Option<i32> = row.get(12);
        let (place, range) = match leaf.and_then(|number| usize::try_from(number).ok()) {
            None => (Place::Table, range),
            Some(number) => {
                let place = match row.get::<_, Option<Vec<String>>>(13).as_deref() {
                    Some([schema, name]) => Place::Leaf(number, QualifiedName::new(schema, name)),
                    _ => Place::Gone(number),
                };
                (place, range.within_leaf())
            }
        };
        Ok(Claim {
            done_rows: (row.get::<_, &str>(0) == "done").then(|| row.get(1)),
            range,
            place,
            run_state: RunState::parse(&state)
                .ok_or(StoreError::Unreadable(format!("state `{state}`")))?,
            control_version: row.get(5),
            source_seq: row.get(6),
            wal_at: row.get(7),
            hot_at: row.get(11),
        })
    }

    /// Marks a claimed chunk done. Part of the chunk's transaction.
    pub async fn settle(&self, client: &Client, at: Address, done: Done<'_>) -> Result<Mark> {
        let [run, seq, epoch] = at.params();
        let name = match done.place {
            Place::Leaf(_, name) => Some(name),
            Place::Table | Place::Gone(_) => None,
        };
        let schema = name.map(|name| name.schema.as_str());
        let name = name.map(|name| name.name.as_str());
        let params: [Param<'_>; 9] = [
            run,
            seq,
            epoch,
            (&done.rows, Type::INT8),
            (&done.took_ms, Type::INT4),
            (&done.hot_at, Type::INT8),
            (&schema, Type::TEXT),
            (&name, Type::TEXT),
            (&done.is_passed_over, Type::BOOL),
        ];
        let rows = self.rows(client, "mark a chunk done", &self.sql.settle_chunk, &params).await?;
        let row = rows.first().ok_or(StoreError::EpochOver)?;
        Ok(Mark { wal_at: row.get(1), hot: row.get(2), is_there: row.get(3) })
    }

    /// Sets the only row of a claimed chunk aside. Part of the transaction that marks the chunk done.
    pub async fn quarantine(
        &self,
        client: &Client,
        at: Address,
        key: &Bound,
        code: &str,
        why: &str,
    ) -> Result<()> {
        let params: [Param<'_>; 5] = [
            (&at.run_id, Type::INT8),
            (&at.seq, Type::INT8),
            (&key.0, Type::TEXT_ARRAY),
            (&code, Type::TEXT),
            (&why, Type::TEXT),
        ];
        self.rows(client, "set a row aside", &self.sql.quarantine_row, &params).await.map(drop)
    }

    /// Forgets that a chunk's row was set aside. Part of the chunk's transaction.
    pub async fn release(&self, client: &Client, at: Address) -> Result<()> {
        let [run, seq, _] = at.params();
        let sql = &self.sql.release_quarantine;
        self.rows(client, "release a row set aside", sql, &[run, seq]).await.map(drop)
    }

    /// How many rows of a run are set aside.
    pub async fn count_quarantined(&self, client: &Client, run_id: i64) -> Result<i64> {
        let params: [Param<'_>; 1] = [(&run_id, Type::INT8)];
        let rows =
            self.rows(client, "count rows set aside", &self.sql.count_quarantined, &params).await?;
        one(&rows).map(|row| row.get(0))
    }

    /// The first rows of a run that are set aside.
    pub async fn quarantined(
        &self,
        client: &Client,
        run_id: i64,
        limit: i64,
    ) -> Result<Vec<Quarantined>> {
        let params: [Param<'_>; 2] = [(&run_id, Type::INT8), (&limit, Type::INT8)];
        let rows =
            self.rows(client, "list rows set aside", &self.sql.list_quarantined, &params).await?;
        let read = |row: &Row| Quarantined {
            key: row.get(0),
            sqlstate: row.get(1),
            message: row.get(2),
            set_aside_at: row.get(3),
        };
        Ok(rows.iter().map(read).collect())
    }

    /// Gives a chunk up.
    pub async fn fail_chunk(
        &self,
        client: &Client,
        at: Address,
        code: Option<&str>,
        why: &str,
    ) -> Result<()> {
        let [run, seq, epoch] = at.params();
        let params: [Param<'_>; 5] = [run, seq, epoch, (&code, Type::TEXT), (&why, Type::TEXT)];
        let rows = self.rows(client, "give a chunk up", &self.sql.fail_chunk, &params).await?;
        rows.first().map(drop).ok_or(StoreError::EpochOver)
    }

    /// Makes failed chunks pending again, and with `quarantined` those whose row was set aside: how many.
    pub async fn reopen(&self, client: &Client, run_id: i64, quarantined: bool) -> Result<i64> {
        let params: [Param<'_>; 2] = [(&run_id, Type::INT8), (&quarantined, Type::BOOL)];
        let rows = self.rows(client, "reopen chunks", &self.sql.reopen_chunks, &params).await?;
        one(&rows).map(|row| row.get(0))
    }

    /// The given-up chunks: number, code and message.
    pub async fn failed_chunks(
        &self,
        client: &Client,
        run_id: i64,
        limit: i64,
    ) -> Result<Vec<(i64, String, String)>> {
        let params: [Param<'_>; 2] = [(&run_id, Type::INT8), (&limit, Type::INT8)];
        let rows =
            self.rows(client, "list chunks given up", &self.sql.failed_chunks, &params).await?;
        let text = |row: &Row, i| row.get::<_, Option<String>>(i).unwrap_or_default();
        Ok(rows.iter().map(|row| (row.get(0), text(row, 1), text(row, 2))).collect())
    }

    /// Where the run stands and what was asked of it.
    pub async fn control(&self, client: &Client, run_id: i64) -> Result<Control> {
        let params: [Param<'_>; 1] = [(&run_id, Type::INT8)];
        let rows = self.rows(client, "read requests", &self.sql.read_control, &params).await?;
        let row = one(&rows)?;
        let state: String = row.get(0);
        Ok(Control {
            state: RunState::parse(&state)
                .ok_or(StoreError::Unreadable(format!("state `{state}`")))?,
            epoch: row.get(1),
            version: row.get(2),
            tuned: json(row.get(3))?,
            wal_at: row.get(4),
        })
    }

    /// Shows other sessions what the runner works with.
    pub async fn publish_limits(
        &self,
        client: &Client,
        run_id: i64,
        workers: u32,
        rate: Budget,
        chunk_time_ms: i32,
    ) -> Result<()> {
        let workers = workers as i32;
        let params: [Param<'_>; 5] = [
            (&run_id, Type::INT8),
            (&workers, Type::INT4),
            (&rate.rows_per_s, Type::FLOAT8),
            (&chunk_time_ms, Type::INT4),
            (&rate.wal_per_s, Type::FLOAT8),
        ];
        self.rows(client, "publish the limits", &self.sql.publish_limits, &params).await.map(drop)
    }

    /// Shows other sessions what paces the run.
    pub async fn publish_throttle(
        &self,
        client: &Client,
        run_id: i64,
        paced: &Paced<'_>,
    ) -> Result<()> {
        let spent = serde_json::to_string(paced.spent).unwrap_or_default();
        let window = paced.window.map(|(name, _)| name);
        let until = paced.window.and_then(|(_, until)| until);
        let params: [Param<'_>; 10] = [
            (&run_id, Type::INT8),
            (&paced.verdict, Type::TEXT),
            (&paced.reason, Type::TEXT),
            (&paced.by, Type::TEXT),
            (&window, Type::TEXT),
            (&until, Type::TEXT),
            (&spent, Type::TEXT),
            (&paced.wal_per_row, Type::FLOAT8),
            (&paced.wal.0, Type::INT8),
            (&paced.wal.1, Type::INT8),
        ];
        self.rows(client, "publish the throttle", &self.sql.publish_throttle, &params)
            .await
            .map(drop)
    }

    /// What the chunks of a run add up to.
    pub async fn sums(&self, client: &Client, run_id: i64) -> Result<Sums> {
        let rows = self
            .rows(client, "add up the chunks", &self.sql.progress, &[(&run_id, Type::INT8)])
            .await?;
        let row = one(&rows)?;
        Ok(Sums {
            chunks_done: row.get(0),
            chunks_failed: row.get(1),
            chunks_pending: row.get(2),
            rows_done: row.get(3),
            keys_done: row.get(4),
            keys_cut: row.get(5),
            last_settled_at: row.get(6),
            keys_here: row.get(7),
            hot: row.get::<_, Option<i64>>(8).zip(row.get(9)),
        })
    }

    /// Keys and rows settled in each of the last twelve slices of five seconds, oldest first.
    pub async fn recent(&self, client: &Client, run_id: i64) -> Result<Vec<(i64, i64)>> {
        let rows = self
            .rows(client, "read recent rates", &self.sql.recent_rates, &[(&run_id, Type::INT8)])
            .await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Keys, rows and seconds of the chunks done, in up to twenty stretches, oldest first.
    pub async fn stretches(&self, client: &Client, run_id: i64) -> Result<Vec<(f64, f64, f64)>> {
        let params: [Param<'_>; 1] = [(&run_id, Type::INT8)];
        let rows = self.rows(client, "read what chunks cost", &self.sql.stretches, &params).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
    }

    /// The chunk map as evidence.
    pub async fn cover(&self, client: &Client, run_id: i64) -> Result<Cover> {
        let rows = self
            .rows(client, "check the chunk map", &self.sql.chunk_cover, &[(&run_id, Type::INT8)])
            .await?;
        let row = one(&rows)?;
        Ok(Cover {
            chunks: row.get(0),
            open: row.get(1),
            loose: row.get(2),
            reaches_ceiling: row.get::<_, Option<bool>>(3).unwrap_or(false),
        })
    }
}
