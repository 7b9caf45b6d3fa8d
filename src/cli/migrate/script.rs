//! `--sql`: prints what `upgrade` or `downgrade` would run, for somebody else to run with psql.

use super::super::context::Context;
use super::super::failure::{Exit, Failure};
use super::super::print;
use super::standing::Standing;
use super::upgrade::{choose, record_of};
use super::{ChangeFlags, downgrade};
use crate::migrate::file::{Grouping, Statement};
use crate::migrate::unit::{Kind, units};
use crate::state::RevisionState;

/// What `upgrade TARGET` would run.
pub(super) async fn upgrade(
    ctx: &Context,
    target: &str,
    out_of_order: bool,
    change: &ChangeFlags,
) -> Result<Exit, Failure> {
    let client = ctx.connect().await?;
    let standing = Standing::read(ctx, &client).await?;
    let pending = choose(&standing, target, out_of_order)?;
    standing.check()?;
    print(
        "-- For psql with ON_ERROR_STOP on. The state tables must be there: backfill doctor --ddl",
    );
    for revision in pending {
        print(&format!("\n-- {} {} ({})", revision.id, revision.title, revision.path));
        for demand in &revision.requires {
            print(&format!("{};", ctx.store.require_sql(&demand.name, demand.level.as_str())));
            if !demand.soak.is_zero() {
                print(&format!(
                    "-- and its run must have been over {}",
                    demand.show().split_once(" for ").map_or("", |(_, soak)| soak)
                ));
            }
        }
        if let Some((name, _)) = &revision.backfill {
            print(&format!("-- starts a backfill: backfill run {name}"));
        }
        let end =
            format!("{};", ctx.store.record_sql(&record_of(revision, RevisionState::Applied)));
        script(&revision.up, revision.grouping, &end, change);
        for query in &revision.verify {
            print(&format!(
                "DO $verify$ BEGIN IF ({}) IS NOT TRUE THEN RAISE 'a verify query does not yield true'; END IF; END $verify$;",
                query.text
            ));
        }
    }
    Ok(Exit::Done)
}

/// What `downgrade TARGET` would run.
pub(super) async fn downgrade(
    ctx: &Context,
    target: &str,
    change: &ChangeFlags,
) -> Result<Exit, Failure> {
    let client = ctx.connect().await?;
    let standing = Standing::read(ctx, &client).await?;
    print("-- For psql with ON_ERROR_STOP on.");
    for record in downgrade::choose(&standing, target)? {
        print(&format!("\n-- {} {}", record.id, record.title));
        if let Some(why) = &record.irreversible {
            return Err(Failure::refused(format!(
                "{} {} cannot be taken back: {why}",
                record.id, record.title
            ))
            .hint(format!(
                "go back to it at most: backfill migrate downgrade {} --sql",
                record.id
            )));
        }
        if let Some(name) = &record.backfill {
            print(&format!("-- takes a backfill back: backfill reverse {name}"));
        }
        let way = downgrade::way_back(&standing, record)?;
        let end = format!("{};", ctx.store.forget_sql(&record.id));
        script(&way.statements, way.grouping, &end, change);
    }
    Ok(Exit::Done)
}

/// Statements in the transactions that they would run in; the record of the revision goes with the last one.
fn script(statements: &[Statement], grouping: Grouping, end: &str, change: &ChangeFlags) {
    let units = units(statements, grouping);
    print("RESET ROLE; RESET ALL;");
    let mut is_recorded = false;
    for (i, unit) in units.iter().enumerate() {
        let text = |statement: &Statement| print(&format!("{};", statement.text));
        if let Kind::Outside(_) = unit.kind {
            print("SET lock_timeout = 0;");
            statements[unit.range.clone()].iter().for_each(text);
            continue;
        }
        print("BEGIN;");
        if unit.kind == Kind::Quick {
            let timeout = change.statement_timeout.as_millis();
            print(&format!(
                "SET LOCAL lock_timeout = '1s';\nSET LOCAL statement_timeout = {timeout};"
            ));
        }
        statements[unit.range.clone()].iter().for_each(text);
        if i + 1 == units.len() {
            print(end);
            is_recorded = true;
        }
        print("COMMIT;");
    }
    if !is_recorded {
        print(end);
    }
}
