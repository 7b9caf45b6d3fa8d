//! What a role must be granted to keep its state here.

use tokio_postgres::Error;

use super::{Store, StoreError};
use crate::db::error::sqlstate;

impl Store {
    /// The statement that makes the schema for the role, or lets it make it in a database.
    pub fn schema_grants(&self, database: &str) -> String {
        let Store { schema, role, .. } = self;
        format!(
            "CREATE SCHEMA {schema} AUTHORIZATION {role};   -- or: GRANT CREATE ON DATABASE {database} TO {role};"
        )
    }

    /// The statements that let the role use what is there.
    pub fn table_grants(&self) -> String {
        let Store { schema, role, .. } = self;
        format!(
            "GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role};"
        )
    }

    /// A failed statement; where a privilege is missing, with the grant.
    pub(super) fn failed(&self, what: &'static str, error: Error) -> StoreError {
        if sqlstate(&error) != Some("42501") {
            return StoreError::Statement(what, error);
        }
        let message = error.as_db_error().map_or("", |db| db.message());
        let mend = match message.strip_prefix("permission denied for database ") {
            Some(database) => {
                let name = crate::sql::Ident::new(database.trim_matches('"'));
                self.schema_grants(&name.to_string())
            }
            None if message.starts_with("must be owner") => {
                "do it as the role that ran the backfill, which owns what it made".to_owned()
            }
            None => self.table_grants(),
        };
        StoreError::Forbidden { what, mend, source: error }
    }
}
