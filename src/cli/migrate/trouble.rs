//! What went wrong with a schema step, at its line: what is applied, what is not, and what to do next.

use super::super::failure::{Failure, Kind};
use super::session::Session;
use crate::db::error::{position, sqlstate};
use crate::db::message;
use crate::diagnostic::{Diagnostic, Report};
use crate::engine::Stop;
use crate::migrate::apply::{ApplyError, Work};
use crate::migrate::file::Statement;
use crate::state::{Direction, StoreError};

/// Where statements stand.
pub(super) struct Place<'a> {
    /// The revision.
    pub id: &'a str,
    /// Its file.
    pub path: &'a str,
    /// The file's text.
    pub source: &'a str,
    /// What was run.
    pub work: &'a Work<'a>,
    /// The command that goes on from here.
    pub again: &'a str,
}

/// The command was asked to end.
pub(super) fn stopped(id: &str, again: &str) -> Failure {
    Failure::new(Kind::Stopped, format!("stopped before {id}")).hint(format!("go on with: {again}"))
}

/// An error as a failure with its place.
pub(super) fn failure(place: &Place<'_>, error: &ApplyError, session: &Session) -> Failure {
    let again = place.again;
    let statement = |i: usize| place.work.statements.get(i);
    match error {
        ApplyError::Statement(_, server)
            if sqlstate(server) == Some("57014") && *session.stop.borrow() == Stop::Cancel =>
        {
            stopped(place.id, again)
        }
        ApplyError::Statement(i, server) => {
            let failure = at(place, statement(*i), server);
            if server.as_db_error().is_none() {
                return failure
                    .hint(format!("the connection is gone; what is done is recorded, the same command goes on: {again}"));
            }
            failure.hint(progress(place, *i)).hint(timeout_hint(server, again))
        }
        ApplyError::VerifyQuery(i, server) => at(place, place.work.verify.get(*i), server)
            .hint(progress(place, usize::MAX))
            .hint(format!("mend the query, then: {again}")),
        ApplyError::Verify(i) => pointing(
            place,
            place.work.verify.get(*i),
            "this verify query does not yield true",
            "not true",
        )
        .hint(progress(place, usize::MAX))
        .hint(format!("mend what it looks at, or the query, then: {again}")),
        ApplyError::Locked(i, blockers) => {
            let head = statement(*i).map(Statement::head).unwrap_or_default();
            let mut failure =
                Failure::new(Kind::TryAgain, format!("a lock for `{head}` was not to be had"));
            failure.causes = blockers.iter().map(|blocker| blocker.show()).collect();
            failure.hint(progress(place, *i)).hint(format!(
                "try again when they are done: {again}; or wait longer: --lock-budget 1h"
            ))
        }
        ApplyError::Changed(i) => {
            let message = "this statement is applied and has been changed since";
            let mut failure = pointing(place, statement(*i), message, "changed, or moved");
            failure.kind = Kind::Refused;
            failure.hint(format!("restore it; or say what is so: backfill migrate resolve {} --applied|--reverted --reason \"…\"", place.id))
        }
        ApplyError::Unknown(i) => {
            let message = "it was interrupted here, and nobody can tell whether this was done";
            let mut failure = pointing(place, statement(*i), message, "done or not?");
            failure.kind = Kind::Refused;
            failure.hint(format!(
                "look, then say so: backfill migrate resolve {} --step {} --done|--undone --reason \"…\"",
                place.id,
                i + 1
            ))
        }
        ApplyError::NotAlone(i) => {
            let message = "the lock of schema steps was lost with its connection; another runner may be at work";
            Failure::new(Kind::TryAgain, message)
                .hint(progress(place, *i))
                .hint(format!("go on with: {again}"))
        }
        ApplyError::Stopped(i) => stopped(place.id, again).hint(progress(place, *i)),
        ApplyError::Invalid(i, _) => {
            pointing(place, statement(*i), "the index stays invalid", "built, but invalid")
                .hint(again)
        }
        ApplyError::Store(StoreError::Forbidden { mend, .. }) => {
            Failure::from_error(Kind::Failed, error)
                .hint(mend.clone())
                .hint(format!("then: {again}"))
        }
        ApplyError::Around(..) | ApplyError::Store(_) => Failure::from_error(Kind::Failed, error)
            .hint(format!("what is done is recorded, the same command goes on: {again}")),
    }
}

fn timeout_hint(server: &tokio_postgres::Error, again: &str) -> String {
    match sqlstate(server) {
        Some("57014") => format!(
            "it held a strong lock for too long; if that may be: {again} --statement-timeout 10m"
        ),
        _ => format!("mend the file, or the data, then: {again}"),
    }
}

/// What of the revision is applied and what is not.
fn progress(place: &Place<'_>, failed: usize) -> String {
    let all = place.work.statements.len();
    let units = crate::migrate::unit::units(place.work.statements, place.work.grouping);
    let is_failed = |unit: &&crate::migrate::unit::Unit| unit.range.contains(&failed);
    let kept = units.iter().find(is_failed).map_or(all, |unit| unit.range.start);
    let word = if place.work.direction == Direction::Up { "applied" } else { "taken back" };
    match kept {
        0 => format!("nothing of {} is {word}", place.id),
        kept => format!("statements 1 to {kept} of {all} of {} are {word} and stay so", place.id),
    }
}

/// The server's error at its place in the file.
fn at(place: &Place<'_>, statement: Option<&Statement>, server: &tokio_postgres::Error) -> Failure {
    let Some(statement) = statement else { return Failure::new(Kind::Failed, message(server)) };
    let span = position(server).and_then(|at| {
        let offset =
            statement.text.char_indices().nth(at as usize - 1).map(|(offset, _)| offset)?;
        let rest = &statement.text[offset..];
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let start = statement.span.start + offset;
        Some(start..start + word.max(1))
    });
    // Without a position the first line of the statement stands for it.
    let first_line = statement.text.find('\n').unwrap_or(statement.text.len());
    let span = span.unwrap_or(statement.span.start..statement.span.start + first_line);
    let code = sqlstate(server).map(|code| format!(" (SQLSTATE {code})")).unwrap_or_default();
    let label =
        server.as_db_error().map_or_else(|| server.to_string(), |db| db.message().to_owned());
    let detail = server.as_db_error().and_then(|db| db.detail().or(db.hint()));
    let mut problem =
        Diagnostic::new(format!("the server refuses this statement{code}"), span, label);
    if let Some(detail) = detail {
        problem = problem.help(detail);
    }
    drawn(place, problem)
}

fn pointing(
    place: &Place<'_>,
    statement: Option<&Statement>,
    message: &str,
    label: &str,
) -> Failure {
    let span = statement.map_or(0..0, |statement| {
        let first_line = statement.text.find('\n').unwrap_or(statement.text.len());
        statement.span.start..statement.span.start + first_line
    });
    drawn(place, Diagnostic::new(message, span, label))
}

fn drawn(place: &Place<'_>, problem: Diagnostic) -> Failure {
    let mut failure = Failure::new(Kind::Failed, problem.message.clone());
    failure.reports = Box::new([Report::new(place.path, place.source, vec![problem])]);
    failure
}
