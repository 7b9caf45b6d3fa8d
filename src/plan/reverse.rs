//! The plan of a reverse run: the pinned spec and the before-images against the table as it is now.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::capture::Keep;
use super::checks::{Refusal, choose_key, identity_refusal, publication_refusal, table_refusals};
use super::resolve::{check_columns, find_table};
use super::restore::{Restore, Rows};
use super::statement::{Builder, ChunkSql};
use super::table::{Column, Table};
use super::{Accepted, Plan, PlanError, Way, operators, surroundings, targets, usable_server};
use crate::db::{self, Session};
use crate::spec::Spec;
use crate::sql::Ident;
use crate::state::{Field, FieldType, Images, Notes, Run};
use crate::undo::{Conflicts, UndoMode};

/// What a reverse run needs to know of the run that it takes back.
pub struct Taken<'a> {
    /// The run to take back.
    pub run: &'a Run,
    /// Its before-images.
    pub images: &'a Images,
    /// The types they were kept in; empty when the run kept none.
    pub types: Vec<FieldType>,
}

impl Plan {
    /// Makes the plan of taking a run back, by before-images or by the rules that its spec gave. Refuses what would lose
    /// or falsify a value; changes nothing.
    pub async fn reverse(
        client: &Client,
        spec: &Spec,
        taken: &Taken<'_>,
        state_schema: &Ident,
        accepted: Accepted,
    ) -> Result<Plan, PlanError> {
        let lookup = |error| PlanError::Statement("look up the server", error);
        let server = usable_server(client).await?;
        let table = find_table(client, spec).await?;
        let gone = missing(&table, taken.run);
        if !gone.is_empty() {
            return Err(PlanError::Refused(gone));
        }
        let mut refusals = table_refusals(&table, &server, &taken.run.undo.columns);
        let published =
            surroundings::publications_of_target(client, &table.name).await.map_err(lookup)?;
        refusals.extend(identity_refusal(&table, &published));
        let carried = surroundings::publications_of_state(client, state_schema, server.version_num);
        let carried = carried.await.map_err(lookup)?;
        if !carried.is_empty() && !accepted.subscribers_prepared {
            refusals.push(publication_refusal(&carried));
        }
        let key = taken.run.key.clone();
        let session: Session = taken.run.session.clone();
        // Without its index every chunk would read the whole table.
        match choose_key(&table, spec) {
            Ok((_, index)) => {
                let index = (table.oid, index.name.as_str());
                let misled = operators::refusal(client, &session, index, None);
                refusals.extend(misled.await?);
            }
            Err(refusal) => refusals.push(refusal),
        }
        let by_rules = spec.way_back();
        let spec = by_rules.as_ref().unwrap_or(spec);
        let written = check_columns(spec, &table)?;
        let targets = targets(&table, &written);
        let builder = Builder::new(spec, &table.name, &key, &targets);
        if taken.run.undo.mode == UndoMode::Capture {
            match unreadable(client, taken, &server.role).await.map_err(lookup)? {
                Some(refusal) => refusals.push(refusal),
                None => {
                    refusals.extend(retyped(&table, taken, &builder));
                    refusals.extend(null_refusals(client, &table, taken).await?);
                }
            }
        }
        if !refusals.is_empty() {
            return Err(PlanError::Refused(refusals));
        }
        let mut plan = Plan {
            sql: builder.chunk_sql(),
            remaining: None,
            from_sql: builder.from_target().as_str().to_owned(),
            ceiling: taken.run.ceiling.clone(),
            index: String::new(),
            key: key.clone(),
            written,
            undo: taken.run.undo.mode,
            spec: spec.clone(),
            targets: targets.clone(),
            has_few_values: false,
            limits_itself: true,
            joins_in_bulk: None,
            walk_before: None,
            has_triggers: false,
            hot_blockers: Vec::new(),
            published,
            warnings: Vec::new(),
            leaves: None,
            tree: None,
            physical: None,
            way: Way::by_key("as the run that it takes back".to_owned()),
            table_rows: taken.run.table_rows_estimate,
            rows_to_do: 0,
            server,
            session,
            table: table.clone(),
        };
        plan.tree = plan.find_tree(client).await?;
        plan.set_leaves_of(taken.run, taken.run.undo.mode == UndoMode::Capture)?;
        plan.set_walk_of(taken.run)?;
        if taken.run.undo.mode != UndoMode::Capture {
            plan.find_join(client).await?;
        }
        Ok(plan)
    }

    /// Turns the statements to the way back of `reverse_run`.
    pub fn give_back(
        &mut self,
        images: &Images,
        notes: &Notes,
        reverse_run: i64,
        policy: Conflicts,
    ) {
        if self.undo == UndoMode::Capture {
            let fields = self.image_fields();
            let in_table = Restore {
                images,
                fields: &fields,
                notes,
                run_id: reverse_run,
                policy,
                place: Rows::InTable,
                may_repeat: false,
            };
            let place = if self.leaf_obstacle().is_some() { Rows::Anywhere } else { Rows::InLeaf };
            let by_leaf = self.builder().of_leaves().restore(&Restore { place, ..in_table });
            let keep = self.builder().restore(&in_table);
            self.sql.give_back(keep, Rows::InTable);
            if let Some(Ok(leaves)) = &mut self.leaves {
                leaves.sql.give_back(by_leaf, place);
            }
            // What is done by place moves; it is found by its key wherever it is.
            if let Some(mut physical) = self.physical.take() {
                let anywhere = Restore { place: Rows::Anywhere, may_repeat: true, ..in_table };
                let [walk, sweep] = [self.builder().of_places(None), self.builder().of_leaves()];
                physical.walk.sql.give_back(walk.restore(&anywhere), Rows::Anywhere);
                physical.sweep.give_back(sweep.restore(&anywhere), Rows::Anywhere);
                self.physical = Some(physical);
            }
        }
    }
}

impl ChunkSql {
    /// Gives rows back instead of writing. The before-images say what to write; the join source is not read any more and may be gone.
    fn give_back(&mut self, keep: Keep, place: Rows) {
        (self.keep, self.ambiguous) = (Some(keep), None);
        // A chunk's rows are joined with as many before-images, of which the planner knows no number; a look anywhere is one by index for
        // each row.
        self.joins_in_bulk = (place != Rows::Anywhere).then_some(0);
    }
}

/// Table or columns that are not there any more.
fn missing(table: &Table, run: &Run) -> Vec<Refusal> {
    let name = table.name.plain();
    if table.oid != run.table_oid {
        let what = format!("{name} is not the table that run {} wrote", run.run_id);
        if name != run.table_name {
            let why =
                format!("that was {}, and the search_path leads elsewhere now", run.table_name);
            return vec![Refusal::new(what, why, "name the table with its schema in the spec")];
        }
        let why = "it was dropped and created anew since";
        return vec![Refusal::new(what, why, "there is nothing to give back")];
    }
    let gone = run.undo.columns.iter().filter(|name| table.column(name).is_none());
    let refusal = |column: &String| {
        let what = format!("column `{column}` of {name} is gone");
        let mend = "add it again with its old type";
        Refusal::new(what, "there is no place to give its values back to", mend)
    };
    gone.map(refusal).collect()
}

/// Before-images that are not there, or that this role may not read.
async fn unreadable(
    client: &Client,
    taken: &Taken<'_>,
    role: &str,
) -> Result<Option<Refusal>, tokio_postgres::Error> {
    let table = &taken.images.table;
    let sql = "select pg_catalog.has_table_privilege(pg_catalog.to_regclass($1), 'select')";
    let rows = db::ask(client, sql, &[(&table.to_string(), Type::TEXT)]).await?;
    Ok(match rows.first().and_then(|row| row.get::<_, Option<bool>>(0)) {
        Some(true) => None,
        Some(false) => {
            let role = Ident::new(role);
            let what = format!("role {role} may not read the before-images, {}", table.plain());
            let mend =
                format!("reverse as the role that ran it, or: GRANT SELECT ON {table} TO {role};");
            Some(Refusal::new(what, "they are private to the role that ran the backfill", mend))
        }
        None => {
            let what = format!("the before-images, {}, are gone", table.plain());
            let why = "somebody dropped the table without `backfill prune`";
            Some(Refusal::new(what, why, "restore the table from a backup, with its type"))
        }
    })
}

/// Columns whose type is not the one that their before-images were kept in.
fn retyped(table: &Table, taken: &Taken<'_>, builder: &Builder<'_>) -> Vec<Refusal> {
    let mut fields = builder.image_fields(|_| Field::default()).into_iter();
    let names = taken.run.key.columns.iter().map(|c| c.name.as_str());
    let columns = taken.run.undo.columns.iter().map(String::as_str);
    let mut refusals: Vec<Refusal> = Vec::new();
    for source in names.chain(columns.clone()).chain(columns) {
        let field = fields.next().map(|field| field.name).unwrap_or_default();
        let kept = taken.types.iter().find(|kept| kept.name == field);
        let now = table.column(source);
        let same = |(kept, now): (&FieldType, &Column)| {
            (kept.type_oid, kept.modifier) == (now.type_oid, now.modifier)
        };
        if kept.zip(now).is_some_and(same) {
            continue;
        }
        let what = format!("column `{source}` has another type than its before-images");
        let now = now.map_or("gone", |column| column.type_name.as_str());
        let why = format!("it is {now} now, so the old values cannot be given back exactly");
        let refusal = Refusal::new(what, why, "change the column's type back first");
        if !refusals.contains(&refusal) {
            refusals.push(refusal);
        }
    }
    refusals
}

/// Constraints added since that forbid an old value: NOT NULL, or a CHECK that NULL does not pass. Others are met row by row, and
/// rows that do not pass are set aside.
async fn null_refusals(
    client: &Client,
    table: &Table,
    taken: &Taken<'_>,
) -> Result<Vec<Refusal>, PlanError> {
    let lookup = |error| PlanError::Statement("look up constraints", error);
    let mut refusals = Vec::new();
    for (i, name) in taken.run.undo.columns.iter().enumerate() {
        let Some(column) = table.column(name) else { continue };
        let mut mends = Vec::new();
        let alter = format!("ALTER TABLE {}", table.name);
        if column.is_not_null {
            mends.push(format!("{alter} ALTER COLUMN {} DROP NOT NULL;", Ident::new(name)));
        }
        for constraint in checks_against_null(client, table, column).await.map_err(lookup)? {
            mends.push(format!("{alter} DROP CONSTRAINT {};", Ident::new(constraint)));
        }
        if mends.is_empty() || !had_null(client, taken, i).await.map_err(lookup)? {
            continue;
        }
        let what = format!("column `{name}` must not be NULL now, and was NULL before the run");
        let mend = format!("{}  -- then: backfill reverse {}", mends.join(" "), taken.run.name);
        refusals.push(Refusal::new(what, "its old values would be refused", mend));
    }
    Ok(refusals)
}

/// Whether any before-image holds NULL for a column, from what was noted beside each array.
async fn had_null(
    client: &Client,
    taken: &Taken<'_>,
    column: usize,
) -> Result<bool, tokio_postgres::Error> {
    let sql = format!("select exists (select from {} where old_nulls[$1])", taken.images.table);
    let place = column as i32 + 1;
    let rows = db::ask(client, &sql, &[(&place, Type::INT4)]).await?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// CHECK constraints on this column alone that NULL does not pass. By the session's path, as they are written: they may call what relies on it.
async fn checks_against_null(
    client: &Client,
    table: &Table,
    column: &Column,
) -> Result<Vec<String>, tokio_postgres::Error> {
    let sql = "select conname::text, pg_catalog.pg_get_expr(conbin, conrelid)
                 from pg_catalog.pg_constraint
                where conrelid = $1 and contype = 'c' and conkey operator(pg_catalog.=) array[$2]";
    let params: [db::Param<'_>; 2] = [(&table.oid, Type::OID), (&column.attnum, Type::INT2)];
    let found = db::ask_as_is(client, sql, &params).await?;
    let mut against = Vec::new();
    for row in found {
        let (name, condition): (String, String) = (row.get(0), row.get(1));
        let sql = format!(
            "select ({condition}) is false from (select null::{} as {}) as {}",
            column.type_sql,
            Ident::new(&column.name),
            table.name.name
        );
        // A condition that cannot be asked this way is left to the rows themselves.
        let asked = db::ask_as_is(client, &sql, &[]).await;
        if asked.is_ok_and(|rows| rows.first().is_some_and(|row| row.get(0))) {
            against.push(name);
        }
    }
    Ok(against)
}
