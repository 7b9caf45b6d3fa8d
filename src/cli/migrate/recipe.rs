//! `migrate revision --pattern`: reads the table from the live database and writes a recipe's files.

use deadpool_postgres::Object;
use tokio_postgres::types::Type;

use super::super::context::Context;
use super::super::failure::{Exit, Failure, Kind, statement};
use super::super::print;
use super::write::{NewFile, tell, write};
use crate::db;
use crate::migrate::pattern::{Column, Pattern, Recipe, Shape, recipe};
use crate::migrate::split::words;

/// What each recipe takes.
const USAGE: &str = "add-not-null TABLE.COLUMN VALUE · rename-column TABLE.COLUMN NEW · change-type TABLE.COLUMN TYPE [USING] · \
                     drop-column TABLE.COLUMN · add-fk TABLE.COLUMN \"OTHER (COLUMN)\" · add-check TABLE CONDITION · \
                     add-unique TABLE COLUMN… · create-index TABLE COLUMN…";

/// `backfill migrate revision --pattern PATTERN ARGUMENT…`.
pub(super) async fn pattern(
    ctx: &Context,
    which: &str,
    arguments: &[String],
) -> Result<Exit, Failure> {
    let (table, pattern) = parse(which, arguments)?;
    let client = ctx.connect().await?;
    let shape = shape(&client, &table).await?;
    drop(client);
    let Recipe { revisions, spec } = recipe(&pattern, &shape).map_err(Failure::refused)?;
    let spec_path =
        spec.as_ref().map(|(name, _)| ctx.directory.join("backfills").join(format!("{name}.toml")));
    if let Some(path) = spec_path.as_ref().filter(|path| path.exists()) {
        return Err(Failure::refused(format!("{} is there already", path.display()))
            .hint("remove or rename it, then try again"));
    }
    let files: Vec<NewFile> = revisions
        .into_iter()
        .map(|revision| NewFile { title: revision.title, body: revision.body })
        .collect();
    let mut written = write(ctx, None, &files)?;
    if let (Some((_, text)), Some(path)) = (spec, spec_path) {
        let failed = |error: std::io::Error| {
            Failure::new(Kind::Failed, format!("write {}: {error}", path.display()))
        };
        std::fs::create_dir_all(ctx.directory.join("backfills")).map_err(failed)?;
        std::fs::write(&path, text).map_err(failed)?;
        written.push(path);
    }
    tell(ctx, &written);
    if !ctx.json {
        print("next: read them, then: backfill migrate plan");
    }
    Ok(Exit::Done)
}

/// The table, as written, and the recipe.
fn parse(which: &str, arguments: &[String]) -> Result<(String, Pattern), Failure> {
    let wrong = || {
        Failure::usage(format!("`{which}` with {} arguments is no pattern", arguments.len()))
            .hint(USAGE)
    };
    let (subject, rest) = arguments.split_first().ok_or_else(wrong)?;
    let columns: Vec<String> = rest
        .iter()
        .flat_map(|list| list.split(','))
        .map(|column| column.trim().to_owned())
        .collect();
    match (which, rest) {
        ("add-check", [condition]) => {
            return Ok((subject.clone(), Pattern::AddCheck { condition: condition.clone() }));
        }
        ("add-unique", [_, ..]) => return Ok((subject.clone(), Pattern::AddUnique { columns })),
        ("create-index", [_, ..]) => {
            return Ok((subject.clone(), Pattern::CreateIndex { columns }));
        }
        _ => {}
    }
    let parts = words(subject);
    let (Some(column), Some(dot)) = (parts.last(), parts.len().checked_sub(2)) else {
        return Err(wrong());
    };
    if parts[dot].text != "." || !column.is_name {
        return Err(wrong());
    }
    let table = subject[..parts[dot].span.start].to_owned();
    let column = column.text.clone();
    let pattern = match (which, rest) {
        ("add-not-null", [value]) => Pattern::AddNotNull { column, value: value.clone() },
        ("rename-column", [to]) => Pattern::RenameColumn { column, to: to.clone() },
        ("change-type", [kind]) => Pattern::ChangeType { column, kind: kind.clone(), using: None },
        ("change-type", [kind, using]) => {
            Pattern::ChangeType { column, kind: kind.clone(), using: Some(using.clone()) }
        }
        ("drop-column", []) => Pattern::DropColumn { column },
        ("add-fk", [target]) => Pattern::AddForeignKey { column, target: target.clone() },
        _ => return Err(wrong()),
    };
    Ok((table, pattern))
}

async fn shape(client: &Object, table: &str) -> Result<Shape, Failure> {
    let look = || statement("look up the table");
    let found = "select c.oid, n.nspname::text, c.relname::text from pg_catalog.pg_class c
                   join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                  where c.oid = $1 and c.relkind = 'r'";
    let oid = db::find_relation(client, table).await.map_err(look())?;
    let rows = db::ask(client, found, &[(&oid, Type::OID)]).await.map_err(look())?;
    let Some(row) = rows.first() else {
        return Err(Failure::usage(format!("there is no table {table} here")).hint(
            "a recipe is written for a table as it is; a partitioned one needs its own hand",
        ));
    };
    let oid: u32 = row.get(0);
    let mut shape = Shape { schema: row.get(1), table: row.get(2), ..Shape::default() };
    let columns = "select a.attname::text, format_type(a.atttypid, a.atttypmod) || coalesce((select ' COLLATE ' || quote_ident(n.nspname) || '.' || quote_ident(k.collname)
                              from pg_catalog.pg_collation k join pg_catalog.pg_namespace n on n.oid = k.collnamespace
                              join pg_catalog.pg_type t on t.oid = a.atttypid
                             where k.oid = a.attcollation and a.attcollation <> t.typcollation), ''), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
                          array(select k.conname::text from pg_catalog.pg_constraint k
                                 where k.conrelid = a.attrelid and k.contype in ('p', 'u', 'f', 'x', 'c') and a.attnum = any (k.conkey)
                                union all select 'foreign key ' || k.conname from pg_catalog.pg_constraint k
                                 where k.confrelid = a.attrelid and a.attnum = any (k.confkey)
                                union all select 'its sequence' where a.attidentity <> '' or pg_get_expr(d.adbin, d.adrelid) like 'nextval(%'
                                union all select 'its expression' where a.attgenerated <> '')
                     from pg_catalog.pg_attribute a
                     left join pg_catalog.pg_attrdef d on (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
                    where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped order by a.attnum";
    for row in db::ask(client, columns, &[(&oid, Type::OID)]).await.map_err(look())? {
        let (name, kind, is_required) = (row.get(0), row.get(1), row.get(2));
        shape.columns.push(Column {
            name,
            kind,
            is_required,
            default: row.get(3),
            holders: row.get(4),
        });
    }
    let indexes = "select pg_get_indexdef(i.indexrelid) from pg_catalog.pg_index i
                    where i.indrelid = $1 and i.indisvalid
                      and not exists (select from pg_catalog.pg_constraint k where k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x'))";
    let rows = db::ask(client, indexes, &[(&oid, Type::OID)]).await.map_err(look())?;
    shape.indexes = rows.iter().map(|row| row.get(0)).collect();
    Ok(shape)
}
