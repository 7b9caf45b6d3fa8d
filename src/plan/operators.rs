//! Whether `<`, `<=`, `=`, `>=` and `>` on the key mean, where the run's statements look for them, what its index sorts by.
//!
//! A type of an extension has its operators in the extension's schema. A `search_path` without that one leads to those of another type that
//! its values can be read as: `citext` is then compared as `text`, in an order that is not the index's, and chunks skip rows.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::{Plan, PlanError, Refusal};
use crate::db::session::Bounds;
use crate::db::{self, Session};
use crate::sql::Ident;

/// The first operator of an index ($2) of a table ($1) that its sign does not lead to, or need not: column, type, schema, sign, whether it
/// is out of reach. One within reach is hidden by another that fits the column's type better. It is asked by the path that it asks about, so
/// that each of its own comparisons has to be one of equal types.
const MISLED: &str = "select a.attname::text, pg_catalog.format_type(a.atttypid, null), n.nspname::text, o.oprname::text,
                             not pg_catalog.pg_operator_is_visible(o.oid)
                        from pg_catalog.pg_index i
                        join pg_catalog.pg_class ic on ic.oid = i.indexrelid
                       cross join unnest(i.indkey::int2[], i.indclass::oid[]) with ordinality k (attnum, opclass, ord)
                        join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                        join pg_catalog.pg_type t on t.oid = a.atttypid
                        join pg_catalog.pg_opclass c on c.oid = k.opclass
                        join pg_catalog.pg_amop s on s.amopfamily = c.opcfamily and s.amoplefttype = c.opcintype
                             and s.amoprighttype = c.opcintype and s.amoppurpose = 's' and s.amopstrategy between 1 and 5
                        join pg_catalog.pg_operator o on o.oid = s.amopopr
                        join pg_catalog.pg_namespace n on n.oid = o.oprnamespace
                       where i.indrelid = $1 and ic.relname = $2 and k.ord <= i.indnkeyatts
                         and (o.oprname <> (array['<', '<=', '=', '>=', '>'])[s.amopstrategy]
                              or not pg_catalog.pg_operator_is_visible(o.oid)
                              -- A domain is no enum to an operator of enums, so that a cast leads elsewhere.
                              or t.typtype = 'd' and c.opcintype in ('anyenum'::regtype::oid, 'anyarray'::regtype::oid, 'anyrange'::regtype::oid)
                                 and exists (select from pg_catalog.pg_cast implicit
                                              where implicit.castsource = t.typbasetype and implicit.castcontext = 'i')
                              or exists (select from pg_catalog.pg_operator x
                                          where x.oprname = o.oprname and x.oid <> o.oid and x.oprleft = x.oprright
                                            and x.oprleft in (a.atttypid, t.typbasetype) and pg_catalog.pg_operator_is_visible(x.oid)))
                       order by k.ord, s.amopstrategy limit 1";

impl Plan {
    /// Refuses a session in which the key's signs are not the operators that its index sorts by.
    pub(crate) async fn check_operators(
        &self,
        client: &Client,
        session: &Session,
    ) -> Result<(), PlanError> {
        match refusal(client, session, (self.table.oid, &self.index), None).await? {
            Some(refusal) => Err(refusal.into()),
            None => Ok(()),
        }
    }
}

/// Why a session cannot compare keys as an index, given with its table, sorts them. A session that is not pinned yet is that of a role.
pub(super) async fn refusal(
    client: &Client,
    session: &Session,
    (table, index): (u32, &str),
    role: Option<&str>,
) -> Result<Option<Refusal>, PlanError> {
    let lookup = |error| PlanError::Statement("look up the key's operators", error);
    session.begin_read_only(client, Bounds::LOOKUP).await.map_err(lookup)?;
    let rows = async {
        if let Some(first) = hides_all(&db::schemas_in_path(client).await?) {
            return Ok(Err(first));
        }
        let params: [db::Param<'_>; 2] = [(&table, Type::OID), (&index, Type::TEXT)];
        db::ask_as_is(client, MISLED, &params).await.map(Ok)
    };
    let rows = rows.await;
    client.batch_execute("ROLLBACK").await.map_err(lookup)?;
    let rows = match rows.map_err(lookup)? {
        Ok(rows) => rows,
        Err(first) => {
            let path = &session.search_path;
            let what = format!("`search_path = {path}` leads to schema {first} before pg_catalog");
            let why = "an operator there may be taken for one of the server's own, and chunks would skip rows";
            let mend = "leave pg_catalog out of it: then it is searched first";
            return Ok(Some(Refusal::new(what, why, mend)));
        }
    };
    let Some(row) = rows.first() else { return Ok(None) };
    let text = |i: usize| row.get::<_, String>(i);
    let (column, type_name, sign) = (text(0), text(1), text(3));
    let schema = Ident::new(text(2)).to_string();
    let path = &session.search_path;
    let what = format!(
        "with `search_path = {path}`, `{sign}` on key column `{column}` ({type_name}) is not the operator that index {index} sorts by"
    );
    let is_empty = matches!(path.trim(), "" | "\"\"");
    let longer = if is_empty { schema.clone() } else { format!("{path}, {schema}") };
    let mend = match (row.get(4), role) {
        (true, Some(role)) => format!(
            "the operators of {type_name} are in {schema}: PGOPTIONS={} for this one; or for all that the role does, \
             ALTER ROLE {} SET search_path = {longer};",
            option(&longer),
            Ident::new(role),
        ),
        (true, None) => format!(
            "the run keeps the search_path that it began with, so move the operators into a schema of it (ALTER EXTENSION … SET SCHEMA …); \
             they are in {schema} now"
        ),
        (false, _) => "cut by another unique index: name its columns with `key = […]`".to_owned(),
    };
    Ok(Some(Refusal::new(what, "chunks would skip rows", mend)))
}

/// The schema that a path names before `pg_catalog`, if there is one. Temporary tables come before all, and have no operators.
pub fn hides_all(path: &[String]) -> Option<String> {
    let first = path.iter().find(|schema| !schema.starts_with("pg_temp"))?;
    (first != "pg_catalog").then(|| first.clone())
}

/// A search path as a value for `PGOPTIONS`, quoted for a shell. The server takes a blank as the end of an option unless a backslash
/// stands before it.
fn option(path: &str) -> String {
    let blanks = path.replace('\\', "\\\\").replace(", ", ",").replace(' ', "\\ ");
    format!("'-c search_path={}'", blanks.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_shell_and_server() {
        assert_eq!(option(r#""$user", public, "ext""#), r#"'-c search_path="$user",public,"ext"'"#);
        assert_eq!(option(r#"public, "my it's""#), r#"'-c search_path=public,"my\ it'\''s"'"#);
    }
}
