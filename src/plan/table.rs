//! What the catalogs say about the target table.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use crate::db;
use crate::sql::QualifiedName;

/// The target table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its identity.
    pub oid: u32,
    /// Its name.
    pub name: QualifiedName,
    /// `pg_class.relkind`.
    pub kind: String,
    /// `pg_class.relpersistence`.
    pub persistence: String,
    /// Whether other tables inherit from it (not counting partitions).
    pub has_children: bool,
    /// Whether row-level security applies to this role.
    pub row_security: bool,
    /// `pg_class.relreplident`.
    pub replica_identity: String,
    /// Age of its oldest transaction id.
    pub frozen_age: i64,
    /// Whether this role may read it.
    pub may_select: bool,
    /// Heap bytes, over all partitions.
    pub heap_bytes: i64,
    /// Bytes of its indexes, over all partitions.
    pub index_bytes: i64,
    /// Bytes of values stored out of line, over all partitions.
    pub toast_bytes: i64,
    /// Fill factor.
    pub fillfactor: i32,
    /// Its columns.
    pub columns: Vec<Column>,
    /// Its indexes.
    pub indexes: Vec<Index>,
}

/// A column.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its number.
    pub attnum: i16,
    /// Its name.
    pub name: String,
    /// Its type as SQL, without length or precision.
    pub type_sql: String,
    /// The same for values that are assigned to it: of a domain, which may have a length, what it is based on.
    pub value_sql: String,
    /// Its type as people write it, with length and precision.
    pub type_name: String,
    /// `pg_attribute.atttypid`.
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`.
    pub modifier: i32,
    /// Whether it is generated, or an identity that is always generated.
    pub is_generated: bool,
    /// Whether its values can be long: of variable length, and stored out of line when they are.
    pub is_long: bool,
    /// Whether its type cannot be an element of an array: arrays cannot, they would become dimensions.
    pub is_no_element: bool,
    /// Whether equal values are the same to the byte, which 1.0 and 1.00 are not.
    pub is_exact: bool,
    /// The function that hashes its type with a seed, as SQL.
    pub hash: Option<String>,
    /// How far its order is that of the heap, from -1 to 1, as far as the planner knows; 1 where it does not.
    pub correlation: f32,
    /// Its collation as SQL, when it has one.
    pub collation: Option<String>,
    /// Whether it must not be NULL.
    pub is_not_null: bool,
    /// Whether this role may write it.
    pub may_update: bool,
    /// Whether it decides which partition a row lives in.
    pub is_partition_key: bool,
}

/// An index, as far as cutting by it goes.
#[derive(Clone, Debug)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// Whether it is the primary key.
    pub is_primary: bool,
    /// Its key columns; a None is an expression.
    pub columns: Vec<Option<String>>,
    /// Why chunks cannot be cut by it; empty when they can.
    pub faults: Vec<&'static str>,
    /// Whether it mentions a column: as key, in an expression or in its predicate. By attribute number.
    pub mentions: Vec<i16>,
    /// Whether an update of a mentioned column must touch it (all but BRIN on 16 and later).
    pub prevents_hot: bool,
}

/// Finds the table; None when there is none of that name.
pub async fn find(client: &Client, name: &str) -> Result<Option<Table>, Error> {
    let sql = "select c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
                      c.relkind = 'r' and exists (select from pg_catalog.pg_inherits where inhparent = c.oid),
                      pg_catalog.row_security_active(c.oid), c.relreplident::text,
                      case when c.relfrozenxid = '0'::xid then 0 else pg_catalog.age(c.relfrozenxid) end::bigint,
                      pg_catalog.has_table_privilege(c.oid, 'select'),
                      case when c.relkind = 'p'
                           then (select coalesce(sum(pg_catalog.pg_relation_size(relid)), 0)::bigint
                                   from pg_catalog.pg_partition_tree(c.oid) where isleaf)
                           when c.relkind = 'r' then pg_catalog.pg_relation_size(c.oid) else 0 end,
                      (select coalesce(sum(pg_catalog.pg_relation_size(l.reltoastrelid)), 0)::bigint
                         from pg_catalog.pg_class l
                        where l.reltoastrelid <> 0
                          and l.oid in (select c.oid union all select relid from pg_catalog.pg_partition_tree(c.oid))),
                      coalesce((select option_value::integer from pg_catalog.pg_options_to_table(c.reloptions)
                                 where option_name = 'fillfactor'), 100),
                      (select coalesce(sum(pg_catalog.pg_indexes_size(relid)), 0)::bigint
                         from (select c.oid::regclass as relid union select relid from pg_catalog.pg_partition_tree(c.oid)) tree)
                 from pg_catalog.pg_class c
                 join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                where c.oid = $1";
    let Some(oid) = db::find_relation(client, name).await? else { return Ok(None) };
    let rows = db::ask(client, sql, &[(&oid, Type::OID)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(Table {
        oid,
        name: QualifiedName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
        kind: row.get(3),
        persistence: row.get(4),
        has_children: row.get(5),
        row_security: row.get(6),
        replica_identity: row.get(7),
        frozen_age: row.get(8),
        may_select: row.get(9),
        heap_bytes: row.get(10),
        toast_bytes: row.get(11),
        fillfactor: row.get(12),
        index_bytes: row.get(13),
        columns: columns(client, oid).await?,
        indexes: indexes(client, oid).await?,
    }))
}

async fn columns(client: &Client, oid: u32) -> Result<Vec<Column>, Error> {
    let sql = "select a.attnum, a.attname::text,
                      pg_catalog.quote_ident(tn.nspname) || '.' || pg_catalog.quote_ident(t.typname),
                      pg_catalog.format_type(a.atttypid, a.atttypmod),
                      a.attgenerated <> '' or a.attidentity = 'a',
                      pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'update'),
                      coalesce(a.attnum = any (p.partattrs::int2[]), false),
                      a.attlen = -1 and a.attstorage in ('x', 'e'),
                      (select pg_catalog.quote_ident(cn.nspname) || '.' || pg_catalog.quote_ident(c.collname)
                         from pg_catalog.pg_collation c join pg_catalog.pg_namespace cn on cn.oid = c.collnamespace
                        where c.oid = a.attcollation),
                      a.attnotnull, a.atttypid, a.atttypmod, t.typcategory = 'A' or t.typarray = 0,
                      (e.typtype = 'e' or e.typnamespace = 'pg_catalog'::regnamespace and e.typname in
                         ('text', 'varchar', 'bool', 'int2', 'int4', 'int8', 'uuid', 'date', 'timestamp', 'timestamptz', 'bytea'))
                      and not exists (select from pg_catalog.pg_collation c where c.oid = a.attcollation and not c.collisdeterministic),
                      (select pg_catalog.quote_ident(fn.nspname) || '.' || pg_catalog.quote_ident(f.proname)
                         from pg_catalog.pg_opclass o
                         join pg_catalog.pg_am am on am.oid = o.opcmethod and am.amname = 'hash'
                         join pg_catalog.pg_amproc p on p.amprocfamily = o.opcfamily and p.amproclefttype = o.opcintype
                              and p.amprocrighttype = o.opcintype and p.amprocnum = 2
                         join pg_catalog.pg_proc f on f.oid = p.amproc
                         join pg_catalog.pg_namespace fn on fn.oid = f.pronamespace
                        -- Some share the function of another type that looks the same inside, and cannot call it by its name.
                        where o.opcdefault and f.proargtypes[0] = o.opcintype
                          and o.opcintype = case when t.typtype = 'd' then t.typbasetype
                                                 when t.typtype = 'e' then 'anyenum'::regtype
                                                 when t.oid = 'varchar'::regtype then 'text'::regtype
                                                 else t.oid end
                          and not exists (select from pg_catalog.pg_collation c
                                           where c.oid = a.attcollation and not c.collisdeterministic)),
                      coalesce((select s.correlation from pg_catalog.pg_stats s
                                  join pg_catalog.pg_class rc on rc.oid = a.attrelid
                                  join pg_catalog.pg_namespace rn on rn.oid = rc.relnamespace
                                 where s.schemaname = rn.nspname and s.tablename = rc.relname and s.attname = a.attname
                                   and not s.inherited), 1::real),
                      (with recursive based as (
                         select t.oid, t.typname, t.typnamespace, t.typtype, t.typbasetype
                         union all
                         select d.oid, d.typname, d.typnamespace, d.typtype, d.typbasetype
                           from based join pg_catalog.pg_type d on d.oid = based.typbasetype where based.typtype = 'd')
                       select pg_catalog.quote_ident(bn.nspname) || '.' || pg_catalog.quote_ident(based.typname)
                         from based join pg_catalog.pg_namespace bn on bn.oid = based.typnamespace where based.typtype <> 'd')
                 from pg_catalog.pg_attribute a
                 join pg_catalog.pg_type t on t.oid = a.atttypid
                 join pg_catalog.pg_namespace tn on tn.oid = t.typnamespace
                 join pg_catalog.pg_type e on e.oid = case when t.typcategory = 'A' and t.typtype = 'b' and t.typelem <> 0 then t.typelem else t.oid end
                 left join pg_catalog.pg_partitioned_table p on p.partrelid = a.attrelid
                where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
                order by a.attnum";
    let rows = db::ask(client, sql, &[(&oid, Type::OID)]).await?;
    let column = |row: &tokio_postgres::Row| Column {
        attnum: row.get(0),
        name: row.get(1),
        type_sql: row.get(2),
        type_name: row.get(3),
        is_generated: row.get(4),
        may_update: row.get(5),
        is_partition_key: row.get(6),
        is_long: row.get(7),
        collation: row.get(8),
        is_not_null: row.get(9),
        type_oid: row.get(10),
        modifier: row.get(11),
        is_no_element: row.get(12),
        is_exact: row.get(13),
        hash: row.get(14),
        correlation: row.get(15),
        value_sql: row.get(16),
    };
    Ok(rows.iter().map(column).collect())
}

async fn indexes(client: &Client, oid: u32) -> Result<Vec<Index>, Error> {
    let sql = "select ic.relname::text, i.indisprimary,
                      (select array_agg(a.attname::text order by k.ord)
                         from unnest(i.indkey::int2[]) with ordinality k (attnum, ord)
                         left join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                        where k.ord <= i.indnkeyatts),
                      am.amname = 'btree', i.indisunique, i.indisvalid and i.indisready, i.indimmediate,
                      i.indpred is null, i.indexprs is null,
                      (select coalesce(bool_and(a.attnotnull and not exists (select from pg_catalog.pg_constraint n where n.conrelid = a.attrelid and n.contype = 'n'
                                  and not n.convalidated and n.conkey @> array[a.attnum])), false)
                              and count(distinct k.opt & 1) = 1 and bool_and((k.opt & 1) = (k.opt >> 1 & 1))
                         from unnest(i.indkey::int2[], i.indoption::int2[]) with ordinality k (attnum, opt, ord)
                         join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                        where k.ord <= i.indnkeyatts),
                      (select coalesce(bool_and(a.attnotnull and not exists (select from pg_catalog.pg_constraint n where n.conrelid = a.attrelid and n.contype = 'n'
                                  and not n.convalidated and n.conkey @> array[a.attnum])), false)
                         from unnest(i.indkey::int2[]) with ordinality k (attnum, ord)
                         join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                        where k.ord <= i.indnkeyatts),
                      (select coalesce(bool_and(k.coll = a.attcollation and o.opcdefault), false)
                         from unnest(i.indkey::int2[], i.indcollation::oid[], i.indclass::oid[])
                              with ordinality k (attnum, coll, opclass, ord)
                         join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                         join pg_catalog.pg_opclass o on o.oid = k.opclass
                        where k.ord <= i.indnkeyatts),
                      (select array_agg(distinct m.attnum)
                         from (select unnest(i.indkey::int2[]) as attnum
                               union
                               select d.refobjsubid::int2 from pg_catalog.pg_depend d
                                where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = i.indexrelid
                                  and d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = i.indrelid) m
                        where m.attnum > 0),
                      not (am.amname = 'brin' and current_setting('server_version_num')::int >= 160000)
                 from pg_catalog.pg_index i
                 join pg_catalog.pg_class ic on ic.oid = i.indexrelid
                 join pg_catalog.pg_am am on am.oid = ic.relam
                where i.indrelid = $1
                order by i.indisprimary desc, ic.relname";
    let rows = db::ask(client, sql, &[(&oid, Type::OID)]).await?;
    Ok(rows.iter().map(read_index).collect())
}

fn read_index(row: &tokio_postgres::Row) -> Index {
    let flag = |i: usize| row.get::<_, bool>(i);
    let no_expressions = flag(8);
    let checks = [
        (flag(3), "it is not a btree"),
        (flag(4), "it is not unique"),
        (flag(5), "it is not valid"),
        (flag(6), "it is deferrable: two rows may share a key until COMMIT"),
        (flag(7), "it is partial: rows outside its predicate would be skipped"),
        (no_expressions, "it is on an expression"),
        (
            !no_expressions || flag(10),
            "a column of it may be NULL: rows with NULL would be skipped",
        ),
        (
            !no_expressions || !flag(10) || flag(9),
            "its columns are sorted in different directions, or NULLs where they are not by default",
        ),
        (
            !no_expressions || flag(11),
            "it sorts differently from its columns (collation or operator class)",
        ),
    ];
    Index {
        name: row.get(0),
        is_primary: row.get(1),
        columns: row.get(2),
        faults: checks.into_iter().filter(|(holds, _)| !holds).map(|(_, fault)| fault).collect(),
        mentions: row.get::<_, Option<Vec<i16>>>(12).unwrap_or_default(),
        prevents_hot: flag(13),
    }
}

impl Column {
    /// Its type as SQL, with length and precision where a cast rounds a value as an assignment does; a cast to a shorter text cuts it, where an
    /// assignment refuses it.
    pub fn held_sql(&self) -> &str {
        let is_cut = ["character", "bit"].iter().any(|word| self.type_name.starts_with(word));
        if is_cut { &self.type_sql } else { &self.type_name }
    }
}

impl Table {
    /// The column of a name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Indexes that make updates of these columns non-HOT.
    pub fn hot_blockers(&self, written: &[&str]) -> Vec<String> {
        let attnums: Vec<i16> =
            written.iter().filter_map(|name| self.column(name)).map(|c| c.attnum).collect();
        let mentions =
            |index: &&Index| index.mentions.iter().any(|attnum| attnums.contains(attnum));
        let blocking = self.indexes.iter().filter(|index| index.prevents_hot).filter(mentions);
        blocking.map(|index| index.name.clone()).collect()
    }

    /// What it is, in words, when it is not something to backfill.
    pub fn unsuitable(&self) -> Option<&'static str> {
        match (self.kind.as_str(), self.persistence.as_str()) {
            ("v", _) => Some("a view"),
            ("m", _) => Some("a materialized view"),
            ("f", _) => Some("a foreign table"),
            ("r" | "p", "t") => Some("a temporary table, which other sessions cannot see"),
            ("r" | "p", _) if self.name.schema.as_str() == "pg_catalog" => Some("a system catalog"),
            ("r", _) if self.has_children => {
                Some("a parent of inherited tables, whose rows no single unique index covers")
            }
            ("r" | "p", _) => None,
            _ => Some("no table"),
        }
    }
}
