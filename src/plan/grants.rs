//! The grant that the server's refusal asks for.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use crate::db;
use crate::db::error::sqlstate;
use crate::diagnostic::Diagnostic;

/// Adds to a problem the grants that would mend it, where its error is about a privilege. No transaction is open.
pub(super) async fn with_grants(client: &Client, problem: Diagnostic, error: &Error) -> Diagnostic {
    match mend(client, error).await {
        Some(grants) => problem.help(grants),
        None => problem,
    }
}

/// The grants, as far as the catalogs know the thing that the role may not use. The message alone names it, and only by its last name; one
/// in another language than English names it to people alone.
async fn mend(client: &Client, error: &Error) -> Option<String> {
    if sqlstate(error) != Some("42501") {
        return None;
    }
    let denied = error.as_db_error()?.message().strip_prefix("permission denied for ")?.to_owned();
    let (kind, name) = denied.rsplit_once(' ')?;
    let sql = match kind {
        "schema" => {
            "select format('GRANT USAGE ON SCHEMA %I TO %I;', n.nspname, current_user) from pg_catalog.pg_namespace n
              where n.nspname = $1 and not has_schema_privilege(n.oid, 'usage')"
        }
        "table" | "view" | "materialized view" | "foreign table" => {
            "select format('GRANT SELECT ON %s TO %I;', c.oid::regclass, current_user) from pg_catalog.pg_class c
              where c.relname = $1 and c.relkind in ('r', 'p', 'v', 'm', 'f') and not has_table_privilege(c.oid, 'select')"
        }
        "sequence" => {
            "select format('GRANT USAGE ON SEQUENCE %s TO %I;', c.oid::regclass, current_user) from pg_catalog.pg_class c
              where c.relname = $1 and c.relkind = 'S' and not has_sequence_privilege(c.oid, 'usage')"
        }
        "function" | "procedure" | "aggregate" => {
            "select format('GRANT EXECUTE ON FUNCTION %s TO %I;', p.oid::regprocedure, current_user) from pg_catalog.pg_proc p
              where p.proname = $1 and not has_function_privilege(p.oid, 'execute')"
        }
        "type" => {
            "select format('GRANT USAGE ON TYPE %s TO %I;', t.oid::regtype, current_user) from pg_catalog.pg_type t
              where t.typname = $1 and not has_type_privilege(t.oid, 'usage')"
        }
        _ => return None,
    };
    let rows = db::ask(client, sql, &[(&name, Type::TEXT)]).await.ok()?;
    let grants: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    (!grants.is_empty()).then(|| grants.join(" "))
}
