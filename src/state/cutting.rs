//! The statements that make chunks.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::{Address, Chunk, Cut, Param, Result, Store, StoreError};
use crate::key::Bound;

impl Store {
    /// Where cutting has come to: the end of the last chunk and whether the ceiling is reached.
    pub async fn read_cut(
        &self,
        client: &Client,
        run_id: i64,
        epoch: i32,
    ) -> Result<(Option<Bound>, bool)> {
        let params: [Param<'_>; 2] = [(&run_id, Type::INT8), (&epoch, Type::INT4)];
        let rows = self
            .rows(client, "read where cutting has come to", &self.sql.read_cut, &params)
            .await?;
        let row = rows.first().ok_or(StoreError::EpochOver)?;
        Ok((row.get::<_, Option<Vec<String>>>(0).map(Bound), row.get(1)))
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
        let list: Vec<(&[String], i32)> =
            cuts.iter().map(|cut| (&cut.upto.0[..], cut.keys)).collect();
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

    /// Splits a pending chunk at `middle`, which becomes its inclusive end: the new upper chunk.
    pub async fn split(
        &self,
        client: &Client,
        at: Address,
        middle: &Bound,
        keys: (i32, i32),
    ) -> Result<Chunk> {
        let [run, seq, epoch] = at.params();
        let params: [Param<'_>; 6] = [
            run,
            seq,
            epoch,
            (&middle.0, Type::TEXT_ARRAY),
            (&keys.0, Type::INT4),
            (&keys.1, Type::INT4),
        ];
        let rows = self.rows(client, "split a chunk", &self.sql.split_chunk, &params).await?;
        rows.first().map(Chunk::read).ok_or(StoreError::EpochOver)
    }
}
