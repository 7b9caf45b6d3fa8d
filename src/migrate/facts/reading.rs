//! What is read from the catalogs.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use super::{Column, Constraint, Facts, Index, Relation};
use crate::db;
use crate::sql::Ident;

const RELATIONS: &str =
    "select c.oid, n.nspname || '.' || c.relname, c.relkind::text, c.relfilenode
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
   where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', $1)";
const COLUMNS: &str = "select a.attrelid, a.attnum, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid)
    from pg_catalog.pg_attribute a left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    join pg_catalog.pg_class c on c.oid = a.attrelid
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
   where c.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped
     and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', $1)";
const CONSTRAINTS: &str = "select k.oid, k.conrelid, k.conname::text, k.contype::text, k.convalidated, coalesce(k.conkey, '{}'), pg_get_constraintdef(k.oid),
           case when k.contype in ('p', 'u', 'x') then k.conindid end,
           k.contype = 'f' and exists (select from unnest(k.conkey, k.confkey) as pair (near, far)
               join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = pair.near
               join pg_catalog.pg_attribute b on b.attrelid = k.confrelid and b.attnum = pair.far
               where a.atttypid <> b.atttypid)
    from pg_catalog.pg_constraint k join pg_catalog.pg_namespace n on n.oid = k.connamespace
   where k.conrelid <> 0 and k.contype <> 't' and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', $1)";
const INDEXES: &str =
    "select i.indexrelid, i.indrelid, n.nspname || '.' || c.relname, i.indisunique, (i.indkey::int2[])[0:i.indnkeyatts - 1],
           regexp_replace(pg_get_indexdef(i.indexrelid), '^.* ON ', case when i.indisunique then 'unique ' else '' end), i.indpred is not null
    from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
   where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', $1)";
/// Row triggers before INSERT.
const GUARDS: &str = "select t.tgrelid, p.prosrc from pg_catalog.pg_trigger t join pg_catalog.pg_proc p on p.oid = t.tgfoid
    where not t.tgisinternal and t.tgtype & 7 = 7 and $1::text is not null";

impl Facts {
    /// Reads them; those of the state tables are left out.
    pub async fn read(client: &Client, state_schema: &Ident) -> Result<Facts, Error> {
        let schema = state_schema.as_str();
        let ask = async |sql: &str| db::ask_as_is(client, sql, &[(&schema, Type::TEXT)]).await;
        let mut facts = Facts::default();
        for row in ask(RELATIONS).await? {
            facts.relations.insert(
                row.get(0),
                Relation { name: row.get(1), kind: row.get(2), file: row.get(3) },
            );
        }
        for row in ask(COLUMNS).await? {
            let column = Column {
                name: row.get(2),
                kind: row.get(3),
                is_required: row.get(4),
                default: row.get(5),
            };
            facts.columns.insert((row.get(0), row.get(1)), column);
        }
        for row in ask(CONSTRAINTS).await? {
            let constraint = Constraint {
                table: row.get(1),
                name: row.get(2),
                kind: row.get(3),
                is_valid: row.get(4),
                columns: row.get(5),
                definition: row.get(6),
                index: row.get(7),
                is_mixed: row.get(8),
            };
            facts.constraints.insert(row.get(0), constraint);
        }
        for row in ask(INDEXES).await? {
            facts.indexes.insert(
                row.get(0),
                Index {
                    table: row.get(1),
                    name: row.get(2),
                    is_unique: row.get(3),
                    columns: row.get(4),
                    definition: row.get(5),
                    is_partial: row.get(6),
                },
            );
        }
        facts.guards = ask(GUARDS).await?.iter().map(|row| (row.get(0), row.get(1))).collect();
        Ok(facts)
    }
}
