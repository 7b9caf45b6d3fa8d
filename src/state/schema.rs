//! Installing and upgrading the state tables.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::{Result, Store, StoreError};
use crate::db;

/// The versions, in order; a version's number is its place, from 1. A file that has been released is never edited.
const MIGRATIONS: [&str; 8] = [
    include_str!("migrations/0001_init.sql"),
    include_str!("migrations/0002_undo.sql"),
    include_str!("migrations/0003_pacing.sql"),
    include_str!("migrations/0004_revisions.sql"),
    include_str!("migrations/0005_storage.sql"),
    include_str!("migrations/0006_leaves.sql"),
    include_str!("migrations/0007_physical.sql"),
    include_str!("migrations/0008_ordered.sql"),
];

/// The version of the tables that this program works with.
pub const VERSION: i32 = MIGRATIONS.len() as i32;

/// Whether and how the tables are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    /// No tables.
    No,
    /// Tables of an older version; the next run upgrades them.
    Older(i32),
    /// Tables of this version.
    Yes,
}

impl Store {
    /// What is installed. A newer version than this program's is an error: an older binary must not touch it.
    pub async fn installed(&self, client: &Client) -> Result<Installed> {
        // By reading the catalog: what a name leads to is remembered from before another runner's installation, even behind its lock.
        let sql = "select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                    where n.nspname = $1 and c.relname = 'meta'";
        let params: [db::Param<'_>; 1] = [(&self.schema.as_str(), Type::TEXT)];
        let rows = self.rows(client, "look for the state tables", sql, &params).await?;
        if rows.is_empty() {
            return Ok(Installed::No);
        }
        let sql = format!("select version from {}.meta", self.schema);
        let rows = self.rows(client, "read the state tables' version", &sql, &[]).await?;
        match rows.first().map(|row| row.get(0)) {
            Some(found) if found > VERSION => Err(StoreError::Newer { found, known: VERSION }),
            Some(VERSION) => Ok(Installed::Yes),
            Some(found) => Ok(Installed::Older(found)),
            None => Err(StoreError::Unreadable("no version".to_owned())),
        }
    }

    /// The statements that create the tables from nothing, for a subscriber or a DBA to run.
    pub fn ddl(&self) -> String {
        let schema = self.schema.to_string();
        // What comes behind it in a script of another tool keeps its own.
        let keep = "select pg_catalog.set_config('backfill.search_path', pg_catalog.current_setting('search_path'), false);";
        let back = "select pg_catalog.set_config('search_path', pg_catalog.current_setting('backfill.search_path'), false);";
        let mut ddl = format!(
            "{keep}\nset search_path = pg_catalog, pg_temp;\ncreate schema if not exists {schema};\n{}",
            self.meta_ddl()
        );
        for migration in MIGRATIONS {
            ddl.push_str(&migration.replace("{schema}", &schema));
        }
        ddl.push_str(&format!("update {schema}.meta set version = {VERSION};\n{back}\n"));
        ddl
    }

    fn meta_ddl(&self) -> String {
        let schema = &self.schema;
        format!(
            "create table {schema}.meta (singleton boolean primary key default true check (singleton), \
             version integer not null);\ninsert into {schema}.meta (version) values (0);\n"
        )
    }

    /// Creates or upgrades the tables, one runner at a time: the transaction-level lock makes a second one wait and then
    /// find the work done.
    pub async fn install(&self, client: &Client) -> Result<()> {
        if self.installed(client).await? == Installed::Yes {
            return Ok(());
        }
        let how = ("install the state tables", "SET LOCAL lock_timeout = '10s'; ");
        self.transact(client, how, async |store| store.install_locked(client).await).await
    }

    async fn install_locked(&self, client: &Client) -> Result<()> {
        let failed = |error| StoreError::Statement("install the state tables", error);
        let class = self.lock_class(b'm');
        let lock = "select pg_catalog.pg_advisory_xact_lock($1, 0)";
        db::ask_within(client, lock, &[(&class, Type::INT4)]).await.map_err(failed)?;
        let schema = self.schema.to_string();
        let mut version = match self.installed(client).await? {
            Installed::Yes => return Ok(()),
            Installed::Older(version) => version,
            Installed::No => {
                self.create_schema(client).await?;
                client.batch_execute(&self.meta_ddl()).await.map_err(failed)?;
                0
            }
        };
        for migration in &MIGRATIONS[version as usize..] {
            client.batch_execute(&migration.replace("{schema}", &schema)).await.map_err(failed)?;
            version += 1;
        }
        let sql = format!("update {schema}.meta set version = $1");
        db::ask_within(client, &sql, &[(&version, Type::INT4)]).await.map_err(failed)?;
        Ok(())
    }

    /// Creates the schema unless a DBA has: `CREATE SCHEMA IF NOT EXISTS` asks for the privilege even when it is there.
    async fn create_schema(&self, client: &Client) -> Result<()> {
        let name = &self.schema;
        let sql = "select from pg_catalog.pg_namespace n where n.nspname = $1";
        let params: [db::Param<'_>; 1] = [(&name.as_str(), Type::TEXT)];
        if !self.rows(client, "look for the state schema", sql, &params).await?.is_empty() {
            return Ok(());
        }
        client
            .batch_execute(&format!("create schema {name}"))
            .await
            .map_err(|error| StoreError::Statement("create the state schema", error))
    }
}
