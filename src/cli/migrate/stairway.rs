//! `migrate test`: every revision up, down and up again on a scratch database, with the schema and the rows compared.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use deadpool_postgres::Object;

use super::super::context::Context;
use super::super::failure::{Exit, Failure, statement};
use super::super::{print, print_json};
use super::scratch::Scratch;
use super::standing::read_tree;
use super::upgrade::{Flags, upgrade};
use super::{ChangeFlags, GatePolicy, downgrade};
use crate::db;
use crate::migrate::snapshot;

/// The schema and a checksum of each table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Look {
    schema: BTreeSet<String>,
    rows: BTreeMap<String, String>,
}

async fn look(ctx: &Context, client: &Object) -> Result<Look, Failure> {
    let schema =
        snapshot::take(client, ctx.store.schema()).await.map_err(statement("read the schema"))?;
    let tables = "select format('%I.%I', n.nspname, c.relname) from pg_catalog.pg_class c
                    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                   where c.relkind = 'r' and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', $1)";
    let state = ctx.store.schema().as_str();
    let names = db::ask_as_is(client, tables, &[(&state, tokio_postgres::types::Type::TEXT)])
        .await
        .map_err(statement("list the tables"))?;
    let mut rows = BTreeMap::new();
    for name in names.iter().map(|row| row.get::<_, String>(0)) {
        // By the names of the columns, because their order cannot come back.
        let sql = format!(
            "select coalesce(md5(string_agg(row, ',' order by row)), '') from (select to_jsonb(t)::text as row from {name} t) rows"
        );
        let sum = db::ask_as_is(client, &sql, &[]).await.map_err(statement("sum up a table"))?;
        rows.insert(name, sum[0].get(0));
    }
    Ok(Look { schema, rows })
}

/// What differs, in words.
fn difference(before: &Look, after: &Look) -> Vec<String> {
    let mut found = snapshot::difference(&before.schema, &after.schema);
    for (table, sum) in &before.rows {
        if after.rows.get(table).is_some_and(|now| now != sum) {
            found.push(format!("the rows of {table} are not what they were"));
        }
    }
    found
}

/// `backfill migrate test [--seed FILE]`.
pub(super) async fn stairway(
    ctx: &Context,
    seed: Option<&Path>,
    scratch_url: Option<&str>,
) -> Result<Exit, Failure> {
    let tree = read_tree(&ctx.directory)?;
    let mut seed = match seed {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::usage(format!("read {}: {error}", path.display())))?;
            Some(text)
        }
        None => None,
    };
    let scratch = Scratch::make(ctx, scratch_url, None).await?;
    let mut found = Vec::new();
    let walked = walk(&scratch.ctx, &tree, &mut seed, &mut found).await;
    scratch.remove().await;
    let tested = walked?;
    if let Some(unused) = seed {
        let head: String = unused.chars().take(60).collect();
        found.push(format!("the seed could be loaded behind no revision: {head}"));
    }
    if ctx.json {
        print_json(&serde_json::json!({ "tested": tested, "findings": found }));
    } else {
        found.iter().for_each(|finding| print(finding));
        if found.is_empty() {
            print(&format!(
                "{tested} revisions went up, down and up again: schema and rows came back"
            ));
        }
    }
    Ok(if found.is_empty() { Exit::Done } else { Exit::Found })
}

async fn walk(
    ctx: &Context,
    tree: &crate::migrate::tree::Tree,
    seed: &mut Option<String>,
    found: &mut Vec<String>,
) -> Result<usize, Failure> {
    let client = ctx.connect().await?;
    let change = ChangeFlags::default();
    // A backfill runs to its end here, whatever its size; times to wait are for production.
    let flags = Flags {
        change,
        gate: GatePolicy::Run,
        override_gate: None,
        out_of_order: true,
        ignores_soak: true,
    };
    let mut tested = 0;
    for revision in &tree.revisions {
        let before = look(ctx, &client).await?;
        done(upgrade(ctx, &revision.id, &flags).await?, &revision.id)?;
        tested += 1;
        let there = look(ctx, &client).await?;
        if revision.is_reversible() {
            done(downgrade::downgrade(ctx, "-1", &change).await?, &revision.id)?;
            for line in difference(&before, &look(ctx, &client).await?) {
                found.push(format!("{} does not come back down: {line}", revision.id));
            }
            done(upgrade(ctx, &revision.id, &flags).await?, &revision.id)?;
            for line in difference(&there, &look(ctx, &client).await?) {
                found.push(format!("{} is not the same the second time: {line}", revision.id));
            }
        }
        // As soon as its tables are there.
        if let Some(text) = seed.take()
            && client.batch_execute(&format!("BEGIN; {text}; COMMIT")).await.is_err()
        {
            client.batch_execute("ROLLBACK").await.map_err(statement("roll back"))?;
            *seed = Some(text);
        }
    }
    Ok(tested)
}

fn done(exit: Exit, id: &str) -> Result<(), Failure> {
    match exit {
        Exit::Done => Ok(()),
        other => Err(Failure::new(
            super::super::failure::Kind::Failed,
            format!("{id} ended with exit code {}", other.code()),
        )),
    }
}
