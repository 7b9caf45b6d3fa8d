//! The partitions of a table, and what a statement on one of them alone would do otherwise than one on the table.

use std::collections::HashMap;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Row};

use crate::db;
use crate::key::Key;
use crate::sql::{Ident, QualifiedName};

/// A leaf as it is now.
#[derive(Clone, Debug)]
pub struct LeafNow {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its name.
    pub name: QualifiedName,
    /// Bytes of its heap.
    pub heap_bytes: i64,
}

/// Why a statement on a member of the tree is not the statement on the table.
#[derive(Clone, Debug)]
pub(super) struct Obstacle {
    /// In words, with what mends it where something does.
    pub what: String,
    /// Whether it stands in the way of a run that has begun too. A trigger that fires once a statement does not: that run never fired it.
    pub is_firm: bool,
}

/// A table's partitions at all levels.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    /// Those that hold rows, by name.
    pub leaves: Vec<LeafNow>,
    /// The first obstacle to going through them one after the other; those that are firm come first.
    pub obstacle: Option<Obstacle>,
    /// Columns by which rows are told apart that do not lead the key.
    roaming: Vec<String>,
}

impl Tree {
    /// The columns whose change would move a row to another leaf, but next to no way by key; none when leaves follow each other by key.
    pub(super) fn roaming(&self) -> Option<String> {
        (!self.roaming.is_empty()).then(|| self.roaming.join(", "))
    }

    /// Looks a partitioned table's tree up, for statements that write `columns`.
    pub(super) async fn find(
        client: &Client,
        table: u32,
        key: &Key,
        columns: &[&str],
    ) -> Result<Tree, Error> {
        let rows =
            db::ask(client, MEMBERS, &[(&table, Type::OID), (&columns, Type::TEXT_ARRAY)]).await?;
        let mut obstacles: Vec<Obstacle> =
            rows.iter().filter_map(|row| obstacle(row, columns)).collect();
        obstacles.sort_by_key(|obstacle| !obstacle.is_firm);
        let is_leaf = |row: &&Row| row.get(3);
        Ok(Tree {
            leaves: rows.iter().filter(is_leaf).map(read_leaf).collect(),
            obstacle: obstacles.into_iter().next(),
            roaming: roaming(&rows, table, key),
        })
    }
}

/// The table and all below it; none is a foreign table, because those cannot be below a unique index. Statement triggers fire for the
/// table that is named alone, and policies and rules are its own.
const MEMBERS: &str = "
    select c.oid, n.nspname::text, c.relname::text, t.isleaf, pg_catalog.pg_relation_size(c.oid),
           pg_catalog.has_schema_privilege(n.oid, 'usage'),
           not t.isleaf or pg_catalog.has_table_privilege(c.oid, 'select'),
           not t.isleaf or (select bool_and(pg_catalog.has_column_privilege(c.oid, w, 'update')) from unnest($2::text[]) w),
           pg_catalog.row_security_active(c.oid),
           exists (select from pg_catalog.pg_rewrite r where r.ev_class = c.oid),
           (select g.tgname::text from pg_catalog.pg_trigger g
             where g.tgrelid = c.oid and not g.tgisinternal and g.tgenabled <> 'D' and g.tgtype & 16 = 16 and g.tgtype & 1 = 0
             limit 1),
           current_user::text,
           (select a.attname::text from pg_catalog.pg_attribute a
             where a.attrelid = c.oid and a.attname = any ($2::text[]) and a.attgenerated <> '' limit 1),
           t.parentrelid::oid,
           (select array_agg(a.attname::text order by k.place)
              from pg_catalog.pg_partitioned_table p, unnest(p.partattrs::int2[]) with ordinality k (attnum, place)
              join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
             where p.partrelid = c.oid),
           -- By what the tables above the first one tell their partitions apart, from the top.
           (select array_agg(a.attname::text order by h.height desc, k.place)
              from pg_catalog.pg_partition_ancestors(c.oid) with ordinality h (relid, height)
              join pg_catalog.pg_partitioned_table p on p.partrelid = h.relid
              cross join lateral unnest(p.partattrs::int2[]) with ordinality k (attnum, place)
              join pg_catalog.pg_attribute a on a.attrelid = p.partrelid and a.attnum = k.attnum
             where c.oid = $1 and h.relid <> c.oid)
      from pg_catalog.pg_partition_tree($1::oid::regclass) t
      join pg_catalog.pg_class c on c.oid = t.relid
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     order by 2, 3";

fn read_leaf(row: &Row) -> LeafNow {
    LeafNow {
        oid: row.get(0),
        name: QualifiedName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
        heap_bytes: row.get(4),
    }
}

fn obstacle(row: &Row, written: &[&str]) -> Option<Obstacle> {
    let leaf = read_leaf(row);
    let (name, plain) = (&leaf.name, leaf.name.plain());
    let role = Ident::new(row.get::<_, String>(11));
    let firm = |what: String| Some(Obstacle { what, is_firm: true });
    let (may_look, may_select, may_update): (bool, bool, bool) =
        (row.get(5), row.get(6), row.get(7));
    if !may_look {
        let grant = format!("GRANT USAGE ON SCHEMA {} TO {role};", name.schema);
        return firm(format!("role {role} may not use the schema of partition {plain}: {grant}"));
    }
    if !may_select || !may_update {
        let columns: Vec<String> = written.iter().map(|c| Ident::new(*c).to_string()).collect();
        let grant = format!("GRANT SELECT, UPDATE ({}) ON {name} TO {role};", columns.join(", "));
        return firm(format!(
            "role {role} may not read and write partition {plain} itself: {grant}"
        ));
    }
    if row.get(8) {
        return firm(format!("row-level security of partition {plain} would hold"));
    }
    if row.get(9) {
        return firm(format!("{plain} has rules"));
    }
    if let Some(column) = row.get::<_, Option<String>>(12) {
        return firm(format!("column `{column}` is generated in partition {plain}"));
    }
    let trigger: Option<String> = row.get(10);
    let what =
        trigger.map(|trigger| format!("trigger {trigger} of {plain} fires once a statement"));
    what.map(|what| Obstacle { what, is_firm: false })
}

/// The partitioning columns of a level that do not continue the key behind those of the levels above.
fn roaming(rows: &[Row], table: u32, key: &Key) -> Vec<String> {
    let levels: HashMap<u32, (Option<u32>, Vec<String>)> = rows
        .iter()
        .filter_map(|row| Some((row.get(0), (row.get(13), row.get::<_, Option<_>>(14)?))))
        .collect();
    let above: Vec<String> =
        rows.iter().find_map(|row| row.get::<_, Option<_>>(15)).unwrap_or_default();
    let continues = |led: usize, column: &String| {
        key.columns.get(led).is_some_and(|next| next.name.as_str() == column)
    };
    let mut found = Vec::new();
    for member in levels.keys() {
        let mut path = Vec::new();
        let mut at = Some(*member);
        while let Some((parent, columns)) = at.and_then(|at| levels.get(&at)) {
            path.splice(0..0, columns);
            at = parent.filter(|_| at != Some(table));
        }
        let mut led: Vec<&String> = Vec::new();
        // What is fixed by being in the table at all may lead, and need not.
        led.extend(above.iter().enumerate().filter(|(i, c)| continues(*i, c)).map(|(_, c)| c));
        for column in path {
            if led.contains(&column) {
                continue;
            }
            if !continues(led.len(), column) && !found.contains(column) {
                found.push(column.clone());
            }
            led.push(column);
        }
    }
    found.sort_unstable();
    found
}
