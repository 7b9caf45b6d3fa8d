//! What else stands around the table: server, triggers, foreign keys, publications, long transactions.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Row};

use crate::db;
use crate::sql::{Ident, QualifiedName};

/// The server behind the connection.
#[derive(Clone, Debug)]
pub struct Server {
    /// `server_version_num`.
    pub version_num: i32,
    /// The version as it calls itself.
    pub version: String,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Whether this role's transactions are read-only unless they say otherwise.
    pub read_only_by_default: bool,
    /// Whether it can compress values with lz4.
    pub has_lz4: bool,
    /// Whether it counts what happens to tables.
    pub counts: bool,
    /// Bytes of its buffer cache.
    pub shared_buffers: i64,
    /// The database's name.
    pub database: String,
    /// The role in use.
    pub role: String,
}

/// Reads the server's facts; works on a standby.
pub async fn server(client: &Client) -> Result<Server, Error> {
    let sql =
        "select current_setting('server_version_num')::int, current_setting('server_version'),
                      pg_catalog.pg_is_in_recovery(), current_database()::text, current_user::text,
                      current_setting('default_transaction_read_only')::boolean,
                      exists (select from pg_catalog.pg_settings
                               where name = 'default_toast_compression' and 'lz4' = any (enumvals)),
                      pg_catalog.pg_size_bytes(current_setting('shared_buffers')),
                      current_setting('track_counts')::boolean";
    let rows = db::ask(client, sql, &[]).await?;
    let row = &rows[0];
    Ok(Server {
        version_num: row.get(0),
        version: row.get(1),
        in_recovery: row.get(2),
        database: row.get(3),
        role: row.get(4),
        read_only_by_default: row.get(5),
        has_lz4: row.get(6),
        shared_buffers: row.get(7),
        counts: row.get(8),
    })
}

/// Publications that would carry the state tables to subscribers which do not have them.
pub async fn publications_of_state(
    client: &Client,
    schema: &Ident,
    version: i32,
) -> Result<Vec<String>, Error> {
    let by_schema = if version >= 150_000 {
        "union select p.pubname::text from pg_catalog.pg_publication_namespace pn
           join pg_catalog.pg_publication p on p.oid = pn.pnpubid
           join pg_catalog.pg_namespace n on n.oid = pn.pnnspid where n.nspname = $1"
    } else {
        ""
    };
    let sql = format!(
        "select pubname::text from pg_catalog.pg_publication where puballtables and $1::text is not null {by_schema}"
    );
    let rows = db::ask(client, &sql, &[(&schema.as_str(), Type::TEXT)]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Publications that carry the target's updates.
pub async fn publications_of_target(
    client: &Client,
    table: &QualifiedName,
) -> Result<Vec<String>, Error> {
    let sql = "select t.pubname::text from pg_catalog.pg_publication_tables t
                 join pg_catalog.pg_publication p on p.pubname = t.pubname
                where t.schemaname = $1 and t.tablename = $2 and p.pubupdate";
    let schema = table.schema.as_str();
    let name = table.name.as_str();
    let rows = db::ask(client, sql, &[(&schema, Type::TEXT), (&name, Type::TEXT)]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Triggers that an UPDATE of these columns fires, on the table or any part of it: name and function.
pub async fn triggers(
    client: &Client,
    oid: u32,
    written: &[&str],
) -> Result<Vec<(String, String)>, Error> {
    let sql = "select distinct t.tgname::text, t.tgfoid::regproc::text
                 from pg_catalog.pg_trigger t
                where t.tgrelid in (select $1 union all select relid from pg_catalog.pg_partition_tree($1::regclass))
                  and not t.tgisinternal and t.tgenabled <> 'D' and t.tgtype & 16 = 16
                  and (cardinality(t.tgattr::int2[]) = 0
                       or exists (select from pg_catalog.pg_attribute a
                                   where a.attrelid = t.tgrelid and a.attnum = any (t.tgattr::int2[]) and a.attname = any ($2)))
                order by 1, 2";
    let rows = db::ask(client, sql, &[(&oid, Type::OID), (&written, Type::TEXT_ARRAY)]).await?;
    Ok(rows.iter().map(|row: &Row| (row.get(0), row.get(1))).collect())
}

/// Foreign keys that these columns are part of, on either side.
pub async fn foreign_keys(
    client: &Client,
    oid: u32,
    written: &[i16],
) -> Result<Vec<String>, Error> {
    let sql = "select conname::text || ' on ' || conrelid::regclass::text
                 from pg_catalog.pg_constraint
                where contype = 'f'
                  and ((conrelid = $1 and conkey && $2) or (confrelid = $1 and confkey && $2))
                order by 1";
    let rows = db::ask(client, sql, &[(&oid, Type::OID), (&written, Type::INT2_ARRAY)]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Stored generated columns computed from these columns: attribute number and name.
pub async fn generated_from(
    client: &Client,
    oid: u32,
    written: &[i16],
) -> Result<Vec<(i16, String)>, Error> {
    // Up to 14 the dependency hangs on the column itself, from 15 on on its default.
    let sql = "select distinct a.attnum, a.attname::text
                 from pg_catalog.pg_attribute a
                 left join pg_catalog.pg_attrdef ad on ad.adrelid = a.attrelid and ad.adnum = a.attnum
                 join pg_catalog.pg_depend d
                   on (d.classid = 'pg_catalog.pg_class'::regclass and d.objid = a.attrelid and d.objsubid = a.attnum)
                   or (d.classid = 'pg_catalog.pg_attrdef'::regclass and d.objid = ad.oid)
                where a.attrelid = $1 and a.attgenerated = 's' and d.refobjid = $1
                  and d.refobjsubid = any ($2::int2[]::int4[]) and d.refobjsubid <> a.attnum";
    let rows = db::ask(client, sql, &[(&oid, Type::OID), (&written, Type::INT2_ARRAY)]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The oldest transaction of another session that is visible to this role: seconds, process and user.
pub async fn oldest_transaction(client: &Client) -> Result<Option<(f64, i32, String)>, Error> {
    let sql = "select extract(epoch from clock_timestamp() - xact_start)::float8, pid, coalesce(usename::text, '?')
                 from pg_catalog.pg_stat_activity
                where xact_start is not null and pid <> pg_catalog.pg_backend_pid() and backend_type = 'client backend'
                  and application_name not like 'backfill%'
                order by xact_start limit 1";
    let rows = db::ask(client, sql, &[]).await?;
    Ok(rows.first().map(|row| (row.get(0), row.get(1), row.get(2))))
}

/// Key columns whose collation's library has changed since the index was built, and in which way.
pub async fn collation_drift(
    client: &Client,
    oid: u32,
    key: &[i16],
    version: i32,
) -> Result<Vec<String>, Error> {
    let database = if version >= 150_000 {
        "union all select a.attname::text from pg_catalog.pg_attribute a, pg_catalog.pg_database db
          where a.attrelid = $1 and a.attnum = any ($2) and a.attcollation = 100 and db.datname = current_database()
            and db.datcollversion <> pg_catalog.pg_database_collation_actual_version(db.oid)"
    } else {
        ""
    };
    let sql = format!(
        "select a.attname::text from pg_catalog.pg_attribute a
           join pg_catalog.pg_collation c on c.oid = a.attcollation
          where a.attrelid = $1 and a.attnum = any ($2) and c.oid <> 100
            and c.collversion <> pg_catalog.pg_collation_actual_version(c.oid) {database}"
    );
    let rows = db::ask(client, &sql, &[(&oid, Type::OID), (&key, Type::INT2_ARRAY)]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
