//! Installing and upgrading the state tables.

use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::{Result, Store, StoreError};
use crate::db;

/// The versions, in order; a version's number is its place, from 1. A file that has been released is never edited.
const MIGRATIONS: [&str; 7] = [
    include_str!("migrations/0001_init.sql"),
    include_str!("migrations/0002_undo.sql"),
    include_str!("migrations/0003_pacing.sql"),
    include_str!("migrations/0004_revisions.sql"),
    include_str!("migrations/0005_storage.sql"),
    include_str!("migrations/0006_leaves.sql"),
    include_str!("migrations/0007_physical.sql"),
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
        let name = format!("{}.meta", self.schema);
        let sql = "select to_regclass($1)::text";
        let params = [(&name as &(dyn ToSql + Sync), Type::TEXT)];
        let rows = self.rows(client, "look for the state tables", sql, &params).await?;
        if rows.first().is_none_or(|row| row.get::<_, Option<String>>(0).is_none()) {
            return Ok(Installed::No);
        }
        let sql = format!("select version from {name}");
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
        let mut ddl = format!(
            "set search_path = pg_catalog, pg_temp;\ncreate schema if not exists {schema};\n{}",
            self.meta_ddl()
        );
        for migration in MIGRATIONS {
            ddl.push_str(&migration.replace("{schema}", &schema));
        }
        ddl.push_str(&format!(
            "update {schema}.meta set version = {VERSION};\nreset search_path;\n"
        ));
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
        let failed = |error| self.failed("install the state tables", error);
        let begin = db::begin_own("SET LOCAL lock_timeout = '10s'; ");
        client.batch_execute(&begin).await.map_err(failed)?;
        let done = self.within().install_locked(client).await;
        let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = client.batch_execute(end).await.map_err(failed);
        done.and(ended)
    }

    async fn install_locked(&self, client: &Client) -> Result<()> {
        let failed = |error| self.failed("install the state tables", error);
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
        let name = self.schema.to_string();
        let sql = "select to_regnamespace($1)::text";
        let rows =
            self.rows(client, "look for the state schema", sql, &[(&name, Type::TEXT)]).await?;
        if rows.first().is_some_and(|row| row.get::<_, Option<String>>(0).is_some()) {
            return Ok(());
        }
        client
            .batch_execute(&format!("create schema {name}"))
            .await
            .map_err(|error| self.failed("create the state schema", error))
    }
}
