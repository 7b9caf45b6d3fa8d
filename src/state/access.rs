//! What a role must be granted to keep its state here, and transactions of the store's own.

use tokio_postgres::{Client, Error};

use super::{Result, Store, StoreError};
use crate::db::{self, grants};

/// The tables that every run uses. Before-images are private to the role that ran.
const TABLES: [&str; 10] = [
    "meta",
    "run",
    "chunk",
    "quarantine",
    "conflict",
    "log",
    "revision",
    "revision_step",
    "revision_log",
    "gate",
];

impl Store {
    /// The statement that makes the schema for a role, or lets it make it in a database. Names are quoted.
    pub fn schema_grants(&self, database: &str, role: &str) -> String {
        let schema = &self.schema;
        format!(
            "CREATE SCHEMA {schema} AUTHORIZATION {role};   -- or: GRANT CREATE ON DATABASE {database} TO {role};"
        )
    }

    /// The statement that lets a role keep its tables in the schema.
    pub fn create_grants(&self, role: &str) -> String {
        format!("GRANT USAGE, CREATE ON SCHEMA {} TO {role};", self.schema)
    }

    /// The statement that lets a role use the tables that are there, or only look at them.
    pub fn table_grants(&self, role: &str, only_reads: bool) -> String {
        let schema = &self.schema;
        let verbs = if only_reads { "SELECT" } else { "SELECT, INSERT, UPDATE, DELETE" };
        let tables = TABLES.map(|table| format!("{schema}.{table}")).join(", ");
        format!("GRANT {verbs} ON {tables} TO {role};")
    }

    /// Runs `body` as a transaction of the store's own; COMMIT when it succeeds, ROLLBACK when not.
    pub(super) async fn transact<T>(
        &self,
        client: &Client,
        (what, settings): (&'static str, &str),
        body: impl AsyncFnOnce(&Store) -> Result<T>,
    ) -> Result<T> {
        let failed = |error| StoreError::Statement(what, error);
        client.batch_execute(&db::begin_own(settings)).await.map_err(failed)?;
        let done = body(&self.within()).await;
        let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = client.batch_execute(end).await.map_err(failed);
        match done {
            Ok(value) => ended.map(|()| value),
            Err(StoreError::Statement(what, error)) => {
                Err(self.explained(client, (what, error), false).await)
            }
            Err(error) => Err(error),
        }
    }

    /// A failed statement; where a privilege is missing, with the grant. No transaction is open.
    pub async fn explained(
        &self,
        client: &Client,
        (what, error): (&'static str, Error),
        only_reads: bool,
    ) -> StoreError {
        if db::error::sqlstate(&error) != Some("42501") {
            return StoreError::Statement(what, error);
        }
        let Some(role) = grants::role(client).await else {
            return StoreError::Statement(what, error);
        };
        let message = error.as_db_error().map_or("", |db| db.message());
        let mend = match grants::denied(&error) {
            Some(("database", name)) => {
                self.schema_grants(&crate::sql::Ident::new(name).to_string(), &role)
            }
            Some(("schema", name)) if name == self.schema.as_str() => match only_reads {
                true => format!("GRANT USAGE ON SCHEMA {} TO {role};", self.schema),
                false => self.create_grants(&role),
            },
            Some(("table", name)) if TABLES.contains(&name) => self.table_grants(&role, only_reads),
            _ if message.starts_with("must be owner") => {
                "do it as the role that ran the backfill, which owns what it made".to_owned()
            }
            Some((_, name)) => match grants::mend(client, &error, name).await {
                Some(grant) => grant,
                None => return StoreError::Statement(what, error),
            },
            None => return StoreError::Statement(what, error),
        };
        StoreError::Forbidden { what, mend, source: error }
    }
}

/// Whether a statement writes nothing and locks nothing.
pub(super) fn only_reads(sql: &str) -> bool {
    let code: String = sql.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
    let code = code.to_lowercase();
    !["insert into", "update", "delete from"].iter().any(|word| code.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::Ident;

    #[test]
    fn all_tables_are_granted() {
        let ddl = Store::new(Ident::new("s")).ddl();
        let mut made: Vec<&str> = ddl
            .split("create table \"s\".")
            .skip(1)
            .filter_map(|rest| rest.split_whitespace().next())
            .collect();
        let mut granted = TABLES.to_vec();
        made.sort_unstable();
        granted.sort_unstable();
        assert_eq!(made, granted);
    }

    #[test]
    fn what_locks_is_no_mere_look() {
        assert!(only_reads("-- to update\nselect 1 from {schema}.run"));
        for sql in
            ["select 1 from run for update", "with a as (insert into b) select", "delete from a"]
        {
            assert!(!only_reads(sql), "{sql}");
        }
    }
}
