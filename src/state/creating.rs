//! The beginning of a run: its row, its before-images' table, and the chunks of one that takes another back.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::records::{ceilings_to_json, key_to_json};
use super::{NewReverse, NewRun, Param, Result, Store, StoreError};
use crate::key::Leaves;
use crate::undo::UndoMode;

/// How long a new run waits for another that is being created, and for locks on what its before-images refer to: both take milliseconds.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '5s'; ";

impl Store {
    /// Creates a run, and with it the place of its before-images. None when there is a run of the name that the caller does not know of, or
    /// an unfinished one.
    pub async fn create_run(&self, client: &Client, new: &NewRun<'_>) -> Result<Option<i64>> {
        let how = ("create the run", LOCK_TIMEOUT);
        self.transact(client, how, async |store| store.create_run_in(client, new).await).await
    }

    async fn create_run_in(&self, client: &Client, new: &NewRun<'_>) -> Result<Option<i64>> {
        self.come_one_by_one(client).await?;
        let key = key_to_json(new.key);
        let session = serde_json::to_string(new.session).unwrap_or_default();
        let ceiling = new.ceiling.map(|bound| &bound.0);
        let columns = serde_json::to_string(new.undo.columns).unwrap_or_default();
        let mode = new.undo.mode.as_str();
        let oids: Option<Vec<u32>> =
            new.leaves.map(|leaves| leaves.0.iter().map(|leaf| leaf.oid).collect());
        let ceilings = new.leaves.map(ceilings_to_json);
        let walked = new.leaves.map_or(0, Leaves::walked) as i32;
        let params: [Param<'_>; 21] = [
            (&new.name, Type::TEXT),
            (&new.table_name, Type::TEXT),
            (&new.table_oid, Type::OID),
            (&key, Type::TEXT),
            (&ceiling, Type::TEXT_ARRAY),
            (&new.spec.digest, Type::TEXT),
            (&new.spec.text, Type::TEXT),
            (&new.spec.statement, Type::TEXT),
            (&new.spec.remaining, Type::TEXT),
            (&session, Type::TEXT),
            (&new.table_rows_estimate, Type::INT8),
            (&new.who, Type::TEXT),
            (&mode, Type::TEXT),
            (&columns, Type::TEXT),
            (&new.spec.verify_query, Type::TEXT),
            (&oids, Type::OID_ARRAY),
            (&ceilings, Type::TEXT),
            (&new.is_again, Type::BOOL),
            (&walked, Type::INT4),
            (&new.after.unwrap_or_default(), Type::INT8),
            (&new.walk_before, Type::INT8),
        ];
        let rows = self.rows(client, "create the run", &self.sql.create_run, &params).await?;
        let Some(run_id) = rows.first().map(|row| row.get(0)) else { return Ok(None) };
        if new.undo.mode == UndoMode::Capture {
            let comment = format!(
                "before-images of run {run_id} of {}; dropped by: backfill prune {}",
                new.name, new.name
            );
            let ddl = self.images(run_id).ddl(new.undo.fields, &comment, new.undo.lz4);
            let created = client.batch_execute(&ddl).await;
            created.map_err(|error| {
                StoreError::Statement("create the table of before-images", error)
            })?;
        }
        Ok(Some(run_id))
    }

    /// Creates the reverse run of a forward run. None when there is a run of the name that the caller does not know of, or an unfinished one.
    pub async fn create_reverse(
        &self,
        client: &Client,
        new: &NewReverse<'_>,
    ) -> Result<Option<i64>> {
        let policy = new.conflicts.as_str();
        let params: [Param<'_>; 7] = [
            (&new.forward, Type::INT8),
            (&new.source, Type::INT8),
            (&new.statement, Type::TEXT),
            (&new.who, Type::TEXT),
            (&policy, Type::TEXT),
            (&new.name, Type::TEXT),
            (&new.after, Type::INT8),
        ];
        let create = async |store: &Store| {
            store.come_one_by_one(client).await?;
            store.rows(client, "create the reverse run", &store.sql.create_reverse, &params).await
        };
        let rows = self.transact(client, ("create the reverse run", LOCK_TIMEOUT), create).await?;
        Ok(rows.first().map(|row| row.get(0)))
    }

    /// Lets one transaction at a time create a run. Where two insert at once, the index of unfinished runs lets the second wait for the
    /// first; and if that run has ended before the second is awake, it does not hold it back.
    async fn come_one_by_one(&self, client: &Client) -> Result<()> {
        let lock = client.batch_execute(&self.sql.lock_runs).await;
        lock.map_err(|error| StoreError::Statement("create a run after another", error))
    }
}
