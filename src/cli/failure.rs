//! What went wrong, for people and for scripts: message, hint with the next command, exit code.

use std::error::Error;
use std::time::Duration;

use serde::Serialize;

use crate::db::lock::AcquireError;
use crate::db::{Class, ConnInfoError, ConnectError};
use crate::diagnostic::Report;
use crate::plan::{PlanError, Refusal};
use crate::server::ServerError;
use crate::sql::Ident;
use crate::state::StoreError;

/// The kinds of failure; each has its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The run or command failed.
    Failed,
    /// The command line or a file of the user is wrong.
    Usage,
    /// It would have been unsafe or would have clashed; nothing was done.
    Refused,
    /// Stopped before the end; resumable.
    Stopped,
    /// Gave up waiting for a lock.
    TryAgain,
}

/// How a command that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// The run failed; everything about it has been said.
    Failed,
    /// Stopped before the end; resumable.
    Stopped,
    /// Finished, but rows are set aside.
    Quarantined,
    /// A check found something.
    Found,
}

impl Exit {
    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Stopped => 4,
            Exit::Quarantined => 5,
            Exit::Found => 6,
        }
    }
}

/// A failure to be shown.
#[derive(Debug)]
pub struct Failure {
    /// Its kind.
    pub kind: Kind,
    /// What went wrong.
    pub message: String,
    /// Why, from the inside out.
    pub causes: Vec<String>,
    /// What to do next.
    pub hints: Vec<String>,
    /// Problems in files.
    pub reports: Box<[Report]>,
    /// The class of the server's error, when a statement of the command itself met one.
    pub class: Option<Class>,
    /// Why a plan is unsafe.
    pub refusals: Vec<Refusal>,
}

impl Failure {
    /// A failure without causes.
    pub fn new(kind: Kind, message: impl Into<String>) -> Failure {
        let (causes, hints) = (Vec::new(), Vec::new());
        let message = message.into();
        Failure {
            kind,
            message,
            causes,
            hints,
            reports: Box::default(),
            class: None,
            refusals: Vec::new(),
        }
    }

    /// A refusal.
    pub fn refused(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Refused, message)
    }

    /// A mistake on the command line.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Usage, message)
    }

    /// An error of the library, with its causes.
    pub fn from_error(kind: Kind, error: &(dyn Error + 'static)) -> Failure {
        let mut failure = Failure::new(kind, error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            // The driver's own chain repeats itself; one line says all of it.
            if let Some(server) = cause.downcast_ref::<tokio_postgres::Error>() {
                failure.causes.push(crate::db::message(server));
                break;
            }
            failure.causes.push(cause.to_string());
            source = cause.source();
        }
        failure
    }

    /// Adds what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hints.push(hint.into());
        self
    }

    /// The process's exit code.
    pub fn code(&self) -> u8 {
        match self.kind {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Refused => 3,
            Kind::Stopped => 4,
            Kind::TryAgain => 75,
        }
    }

    /// The text for standard error.
    pub fn text(&self, colored: bool) -> String {
        let mut text = String::new();
        let drawn: Vec<String> = self.reports.iter().map(|report| report.render(colored)).collect();
        text.push_str(&drawn.join("\n\n"));
        for refusal in &self.refusals {
            let Refusal { what, why, mend } = refusal;
            text.push_str(&format!("refused: {what}\n  why:  {why}\n  mend: {mend}\n"));
        }
        if text.is_empty() {
            let word = if self.kind == Kind::Refused { "refused" } else { "error" };
            text.push_str(&format!("{word}: {}\n", self.message));
            for cause in &self.causes {
                text.push_str(&format!("  caused by: {cause}\n"));
            }
        }
        for hint in &self.hints {
            text.push_str(&format!("\nhint: {hint}"));
        }
        text.trim_end().to_owned()
    }

    /// The object for `--json`.
    pub fn json(&self) -> serde_json::Value {
        let problems: Vec<_> = self.reports.iter().flat_map(Report::located).collect();
        serde_json::json!({
            "error": {
                "kind": self.kind,
                "message": self.message,
                "causes": self.causes,
                "hints": self.hints,
                "problems": problems,
                "refusals": self.refusals,
                "exit_code": self.code(),
            }
        })
    }
}

impl From<Report> for Failure {
    fn from(report: Report) -> Failure {
        let mut failure =
            Failure::usage(format!("{} has {} problems", report.path, report.problems.len()));
        failure.reports = Box::new([report]);
        failure
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Failure {
        match error {
            PlanError::Spec(report) => Failure::from(*report),
            PlanError::Refused(refusals) => {
                let what: Vec<&str> =
                    refusals.iter().map(|refusal| refusal.what.as_str()).collect();
                let mut failure = Failure::refused(what.join("; "));
                failure.refusals = refusals;
                failure
            }
            PlanError::Connect(error) => error.into(),
            PlanError::Store(error) => error.into(),
            PlanError::Statement(..) => Failure::from_error(Kind::Failed, &error),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Failure {
        if let ConnectError::Settings(error) = error {
            return error.into();
        }
        let failure = Failure::from_error(Kind::Failed, &error);
        if let ConnectError::Refused { target, source } = &error
            && let Some(grant) = connect_grant(target, source)
        {
            return failure.hint(grant);
        }
        if let ConnectError::Closed(_) = error {
            return failure.hint("let the role in there, or take that host out of the URL");
        }
        failure.hint(
            "check the URL (--url, DATABASE_URL, PG*, backfill.toml) and try `backfill doctor`",
        )
    }
}

/// The grant that lets a role into its database.
fn connect_grant(target: &str, error: &tokio_postgres::Error) -> Option<String> {
    let message = error.as_db_error().filter(|db| db.code().code() == "42501")?.message();
    let database = message.strip_prefix("permission denied for database ")?.trim_matches('"');
    let (role, _) = target.rsplit_once('@')?;
    Some(format!("GRANT CONNECT ON DATABASE {} TO {};", Ident::new(database), Ident::new(role)))
}

impl From<ConnInfoError> for Failure {
    fn from(error: ConnInfoError) -> Failure {
        let failure = Failure::from_error(Kind::Usage, &error);
        match error {
            ConnInfoError::PassfileOpen(path) => failure.hint(format!("chmod 600 {path}")),
            _ => failure.hint(
                "give a URL such as postgresql://user@host:5432/database?sslmode=verify-full",
            ),
        }
    }
}

impl From<AcquireError> for Failure {
    fn from(error: AcquireError) -> Failure {
        match error {
            AcquireError::Connect(error) => error.into(),
            AcquireError::Statement(_) => Failure::from_error(Kind::Failed, &error),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let kind = match &error {
            StoreError::Illegal(_) | StoreError::EpochOver | StoreError::Newer { .. } => {
                Kind::Refused
            }
            // A lock was not to be had; nothing was done.
            _ if error.server().and_then(crate::db::error::sqlstate) == Some("55P03") => {
                Kind::TryAgain
            }
            _ => Kind::Failed,
        };
        let failure = Failure::from_error(kind, &error);
        match error {
            StoreError::Newer { .. } => {
                failure.hint("use the newer version of backfill that made them")
            }
            StoreError::Forbidden { mend, .. } => failure.hint(mend),
            _ => failure,
        }
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Failure {
        Failure::from_error(Kind::Failed, &error)
    }
}

/// A statement of a command itself.
pub fn statement(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Failure {
    move |error| {
        let mut failure = Failure::new(Kind::Failed, what);
        failure.causes.push(crate::db::message(&error));
        // A command's own statements are never timed against a chunk; a timeout here is none of the run's.
        failure.class = Some(crate::db::classify(&error, Duration::ZERO, Duration::MAX));
        failure
    }
}
