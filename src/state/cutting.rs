//! The statements that make chunks.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::{
    Address, Chunk, Cut, CutTo, Param, Result, Store, StoreError, SweepLeft, WalkLeft, json, one,
};
use crate::key::Bound;

impl Store {
    /// Where cutting has come to.
    pub async fn read_cut(&self, client: &Client, run_id: i64, epoch: i32) -> Result<CutTo> {
        let params: [Param<'_>; 2] = [(&run_id, Type::INT8), (&epoch, Type::INT4)];
        let rows = self
            .rows(client, "read where cutting has come to", &self.sql.read_cut, &params)
            .await?;
        let row = rows.first().ok_or(StoreError::EpochOver)?;
        Ok(CutTo {
            upto: row.get::<_, Option<Vec<String>>>(0).map(Bound),
            is_whole: row.get(1),
            is_rewritten: row.get(2),
        })
    }

    /// Gives a run that is walked in rounds so many leaves behind where cutting has come to, and lets it look again whether rows are left.
    pub async fn add_rounds(
        &self,
        client: &Client,
        (run_id, epoch): (i64, i32),
        leaves: usize,
    ) -> Result<()> {
        let leaves = leaves as i32;
        let params: [Param<'_>; 3] =
            [(&run_id, Type::INT8), (&epoch, Type::INT4), (&leaves, Type::INT4)];
        let rows = self.rows(client, "begin further rounds", &self.sql.add_rounds, &params).await?;
        rows.first().map(drop).ok_or(StoreError::EpochOver)
    }

    /// Writes down that nothing is left to cut.
    pub async fn end_cut(&self, client: &Client, (run_id, epoch): (i64, i32)) -> Result<()> {
        let params: [Param<'_>; 2] = [(&run_id, Type::INT8), (&epoch, Type::INT4)];
        let rows = self.rows(client, "end the cutting", &self.sql.end_cut, &params).await?;
        rows.first().map(drop).ok_or(StoreError::EpochOver)
    }

    /// What the walk of a run in physical order has left to do; of one `in_rounds`, which cannot leave it to a sweep, what it has set aside.
    pub async fn walk_left(
        &self,
        client: &Client,
        run_id: i64,
        in_rounds: bool,
    ) -> Result<WalkLeft> {
        let params: [Param<'_>; 2] = [(&run_id, Type::INT8), (&in_rounds, Type::BOOL)];
        let rows = self
            .rows(client, "look at what the walk has left", &self.sql.walk_left, &params)
            .await?;
        let row = one(&rows)?;
        let keys: Vec<Vec<String>> = json(row.get(1))?;
        Ok(WalkLeft { open: row.get(0), keys: keys.into_iter().map(Bound).collect() })
    }

    /// What the sweep of a run in physical order has left to do, so many chunks at most.
    pub async fn sweep_left(&self, client: &Client, run_id: i64, limit: i64) -> Result<SweepLeft> {
        let params: [Param<'_>; 2] = [(&run_id, Type::INT8), (&limit, Type::INT8)];
        let what = "look at what the sweep has left";
        let rows = self.rows(client, what, &self.sql.sweep_left, &params).await?;
        let (failed, pending): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.get(6));
        let pending = pending.into_iter().map(Chunk::read).collect();
        Ok(SweepLeft { pending, has_failed: !failed.is_empty() })
    }

    /// Leaves keys of a walked chunk to the sweep. Part of the transaction that marks the chunk done.
    pub async fn leave_to_sweep(&self, client: &Client, at: Address, keys: &[Bound]) -> Result<()> {
        let keys: Vec<&Vec<String>> = keys.iter().map(|key| &key.0).collect();
        let keys = serde_json::to_string(&keys).unwrap_or_default();
        let [run, seq, epoch] = at.params();
        let params: [Param<'_>; 4] = [run, seq, epoch, (&keys, Type::TEXT)];
        let sql = &self.sql.leave_to_sweep;
        let rows = self.rows(client, "leave a row to the sweep", sql, &params).await?;
        rows.first().map(drop).ok_or(StoreError::EpochOver)
    }

    /// Appends slices behind `after`, which must be where cutting has come to, in as many stripes; `fully_cut` when the last ends at the
    /// ceiling.
    pub async fn cut_chunks(
        &self,
        client: &Client,
        (run_id, epoch): (i64, i32),
        after: Option<&Bound>,
        (cuts, stripes): (&[Cut], i16),
        fully_cut: bool,
    ) -> Result<Vec<Chunk>> {
        let list: Vec<(&[String], i32, Option<&str>)> =
            cuts.iter().map(|cut| (&cut.upto.0[..], cut.keys, cut.only.as_deref())).collect();
        let list = serde_json::to_string(&list).unwrap_or_default();
        let size = cuts.first().map_or(0, |cut| cut.keys / i32::from(stripes));
        let params: [Param<'_>; 7] = [
            (&run_id, Type::INT8),
            (&after.map(|bound| &bound.0), Type::TEXT_ARRAY),
            (&list, Type::TEXT),
            (&fully_cut, Type::BOOL),
            (&size, Type::INT4),
            (&stripes, Type::INT2),
            (&epoch, Type::INT4),
        ];
        let rows = self.rows(client, "cut chunks", &self.sql.cut_chunks, &params).await?;
        if rows.is_empty() {
            self.read_cut(client, run_id, epoch).await?;
            return Err(StoreError::CutMeanwhile);
        }
        let mut chunks: Vec<Chunk> = rows.iter().map(Chunk::read).collect();
        chunks.sort_by_key(|chunk| chunk.seq);
        Ok(chunks)
    }

    /// Splits a pending chunk at `middle`, which becomes its inclusive end: the new upper chunk, which ends where the chunk did unless
    /// `upto` says otherwise.
    pub async fn split(
        &self,
        client: &Client,
        at: Address,
        (middle, upto): (&Bound, Option<&Bound>),
        keys: (i32, i32),
    ) -> Result<Chunk> {
        let [run, seq, epoch] = at.params();
        let upto = upto.map(|bound| &bound.0);
        let params: [Param<'_>; 7] = [
            run,
            seq,
            epoch,
            (&middle.0, Type::TEXT_ARRAY),
            (&keys.0, Type::INT4),
            (&keys.1, Type::INT4),
            (&upto, Type::TEXT_ARRAY),
        ];
        let rows = self.rows(client, "split a chunk", &self.sql.split_chunk, &params).await?;
        rows.first().map(Chunk::read).ok_or(StoreError::EpochOver)
    }
}
