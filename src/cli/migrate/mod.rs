//! `backfill migrate`: schema steps in order, beside the data and waiting for it where they must.

mod adopt;
mod backfill;
mod downgrade;
mod gate;
mod lint;
mod recipe;
mod resolve;
mod scratch;
mod script;
mod session;
mod show;
mod stairway;
pub(super) mod standing;
mod trouble;
mod twins;
mod upgrade;
mod write;

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};

use super::context::Context;
use super::failure::{Exit, Failure};
use super::flags::{AcceptFlags, LimitFlags, PaceFlags, ResumeFlags};
use super::run;
use super::secret;
use crate::units::parse_duration;

/// What `backfill migrate` can do.
#[derive(Debug, Subcommand)]
pub(super) enum Migrate {
    /// Write a new revision, `migrations/TIME_ID_SLUG.sql`
    #[command(visible_alias = "new")]
    Revision {
        /// What it is for
        #[arg(short, long, required_unless_present = "pattern")]
        message: Option<String>,
        /// It starts this backfill instead of running statements
        #[arg(long, value_name = "NAME", conflicts_with = "pattern")]
        backfill: Option<String>,
        /// Write a whole zero-downtime recipe: add-not-null, rename-column, change-type, drop-column, add-fk, add-check,
        /// add-unique, create-index
        #[arg(long, value_name = "PATTERN", conflicts_with = "message")]
        pattern: Option<String>,
        /// What the pattern is about: TABLE.COLUMN and what it takes
        #[arg(requires = "pattern")]
        arguments: Vec<String>,
    },
    /// Write a revision that joins the heads of a forked history
    Merge {
        /// What it is for
        #[arg(short, long)]
        message: String,
    },
    /// Apply what is pending; stops (3) at a demand on a backfill that is not met
    #[command(visible_alias = "up")]
    Upgrade {
        /// head, heads, +N, or a revision
        #[arg(default_value = "head")]
        target: String,
        /// What to do at a demand that is not met: stop, wait, wait=30m, or run the backfill
        #[arg(long, value_name = "HOW", default_value = "stop", value_parser = GatePolicy::parse)]
        gate: GatePolicy,
        /// Go past demands that are not met; the reason is recorded and shown for ever
        #[arg(long, value_name = "REASON")]
        override_gate: Option<String>,
        /// Apply revisions that others were applied before, or several heads side by side
        #[arg(long)]
        allow_out_of_order: bool,
        /// Print the SQL instead of running it
        #[arg(long)]
        sql: bool,
        #[command(flatten)]
        change: ChangeFlags,
    },
    /// Show what is pending: locks, time, what stands in the way, demands; tried on a scratch database, changes nothing
    Plan {
        /// head, heads, +N, or a revision
        #[arg(default_value = "head")]
        target: String,
        #[command(flatten)]
        scratch: ScratchFlags,
    },
    /// Find what would hurt a live application, with the form that does not; exit 6 when there is something
    Lint {
        /// Only these revisions
        ids: Vec<String>,
        #[command(flatten)]
        scratch: ScratchFlags,
    },
    /// Take every revision up, down and up again on a scratch database, and compare schema and rows; exit 6 when they differ
    Test {
        /// SQL that loads rows, as soon as its tables are there
        #[arg(long, value_name = "FILE")]
        seed: Option<PathBuf>,
        #[command(flatten)]
        scratch: ScratchFlags,
    },
    /// Take revisions back, the newest first, with what their backfills wrote
    #[command(visible_alias = "down")]
    Downgrade {
        /// -N, a revision to go back to, or base
        #[arg(default_value = "-1", allow_hyphen_values = true)]
        target: String,
        /// Print the SQL instead of running it
        #[arg(long)]
        sql: bool,
        #[command(flatten)]
        change: ChangeFlags,
    },
    /// Show which revision the schema is at
    Current,
    /// List the revisions and where each stands
    History,
    /// List the revisions that no other builds on
    Heads,
    /// Show a revision: its file, its demands, what happened to it
    Show {
        /// The revision
        id: String,
    },
    /// Whether files and database agree; exit 6 when they do not
    Check,
    /// Count revisions as applied, up to this one and no further, without running them
    Stamp {
        /// head, base, or a revision
        target: String,
        #[command(flatten)]
        change: ChangeFlags,
    },
    /// Take over the history of alembic, sqlx, refinery, flyway, golang-migrate, dbmate, diesel or django as a baseline
    Adopt {
        /// The tool
        tool: String,
        #[command(flatten)]
        change: ChangeFlags,
    },
    /// Say what is so where the record cannot tell
    #[command(group(ArgGroup::new("what").required(true).args(["applied", "reverted", "restamp", "step"])))]
    Resolve {
        /// The revision
        id: String,
        /// It is applied
        #[arg(long)]
        applied: bool,
        /// It is not applied
        #[arg(long)]
        reverted: bool,
        /// It is applied as its file now says
        #[arg(long)]
        restamp: bool,
        /// The statement in doubt, counted from 1; with --done or --undone
        #[arg(long, value_name = "N")]
        step: Option<u32>,
        /// The statement was done
        #[arg(long, requires = "step", conflicts_with = "undone")]
        done: bool,
        /// The statement was not done
        #[arg(long, requires = "step")]
        undone: bool,
        /// Why; recorded
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        change: ChangeFlags,
    },
}

/// Where revisions are tried.
#[derive(Clone, Debug, Args)]
pub(super) struct ScratchFlags {
    /// Try it in a database that is made and removed there; on a private server when not given
    #[arg(long, value_name = "URL", env = secret::SCRATCH_URL, hide_env_values = true)]
    pub(super) scratch_url: Option<String>,
}

impl ScratchFlags {
    /// An empty variable is none.
    fn url(&self) -> Option<&str> {
        self.scratch_url.as_deref().filter(|url| !url.is_empty())
    }
}

/// Flags of commands that change the schema.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct ChangeFlags {
    /// How long locks are tried for, all together; then exit 75
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    pub(super) lock_budget: Duration,
    /// How long a statement may take that holds a strong lock
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub(super) statement_timeout: Duration,
}

impl Default for ChangeFlags {
    /// As the flags have it.
    fn default() -> ChangeFlags {
        ChangeFlags {
            lock_budget: Duration::from_secs(600),
            statement_timeout: Duration::from_secs(30),
        }
    }
}

/// What `upgrade` does at a demand that is not met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GatePolicy {
    /// Ends with exit 3.
    Stop,
    /// Looks again every second, for so long.
    Wait(Duration),
    /// Runs the backfill, then looks again.
    Run,
}

/// How long `--gate wait` waits when nobody says.
const WAIT: Duration = Duration::from_secs(30 * 60);

impl GatePolicy {
    fn parse(text: &str) -> Result<GatePolicy, String> {
        match text.split_once('=') {
            None if text == "stop" => Ok(GatePolicy::Stop),
            None if text == "run" => Ok(GatePolicy::Run),
            None if text == "wait" => Ok(GatePolicy::Wait(WAIT)),
            Some(("wait", time)) => parse_duration(time).map(GatePolicy::Wait),
            _ => Err("give stop, wait, wait=30m, or run".to_owned()),
        }
    }
}

/// What somebody says about a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resolution {
    /// It is applied.
    Applied,
    /// It is not applied.
    Reverted,
    /// It is applied as its file now says.
    Restamp,
    /// One of its statements was done, or not.
    Step {
        /// From 1.
        n: u32,
        /// Whether it was.
        is_done: bool,
    },
}

/// The flags that a backfill is run with when a schema step starts it: those of its spec and of the project.
fn start_flags() -> run::Flags {
    run::Flags {
        limits: LimitFlags::default(),
        accepted: AcceptFlags::default(),
        pace: PaceFlags::default(),
        takeover: ResumeFlags::default(),
    }
}

/// `backfill migrate …`.
pub(super) async fn migrate(ctx: &Context, command: Migrate) -> Result<Exit, Failure> {
    match command {
        Migrate::Revision { message, backfill, pattern, arguments } => match pattern {
            Some(pattern) => recipe::pattern(ctx, &pattern, &arguments).await,
            None => write::revision(ctx, &message.unwrap_or_default(), backfill.as_deref()),
        },
        Migrate::Merge { message } => write::merge(ctx, &message),
        Migrate::Upgrade { target, allow_out_of_order, change, sql: true, .. } => {
            script::upgrade(ctx, &target, allow_out_of_order, &change).await
        }
        Migrate::Upgrade { target, gate, override_gate, allow_out_of_order, change, .. } => {
            let flags = upgrade::Flags {
                change,
                gate,
                override_gate,
                out_of_order: allow_out_of_order,
                ignores_soak: false,
            };
            upgrade::upgrade(ctx, &target, &flags).await
        }
        Migrate::Plan { target, scratch } => lint::plan(ctx, &target, scratch.url()).await,
        Migrate::Lint { ids, scratch } => lint::lint_all(ctx, &ids, scratch.url()).await,
        Migrate::Test { seed, scratch } => {
            stairway::stairway(ctx, seed.as_deref(), scratch.url()).await
        }
        Migrate::Downgrade { target, change, sql: true } => {
            script::downgrade(ctx, &target, &change).await
        }
        Migrate::Downgrade { target, change, .. } => {
            downgrade::downgrade(ctx, &target, &change).await
        }
        Migrate::Current => show::current(ctx).await,
        Migrate::History => show::history(ctx).await,
        Migrate::Heads => show::heads(ctx).await,
        Migrate::Show { id } => show::show(ctx, &id).await,
        Migrate::Check => show::check(ctx).await,
        Migrate::Stamp { target, change } => resolve::stamp(ctx, &target, &change).await,
        Migrate::Adopt { tool, change } => adopt::adopt(ctx, &tool, &change).await,
        Migrate::Resolve { id, applied, reverted, restamp, step, done, undone, reason, change } => {
            let resolution = match (applied, reverted, restamp, step) {
                (true, ..) => Resolution::Applied,
                (_, true, ..) => Resolution::Reverted,
                (_, _, true, _) => Resolution::Restamp,
                (.., Some(n)) if done != undone => Resolution::Step { n, is_done: done },
                _ => return Err(Failure::usage("--step needs --done or --undone")),
            };
            resolve::resolve(ctx, &id, &resolution, &reason, &change).await
        }
    }
}
