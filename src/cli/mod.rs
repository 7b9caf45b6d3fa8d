//! The command line: what may be asked, and which function answers.

mod acquire;
mod begin;
mod context;
mod control;
mod demo;
mod doctor;
mod drive;
pub mod failure;
mod flags;
mod migrate;
mod outcome;
mod pace;
mod plan;
mod prune;
mod reverse;
mod run;
mod scaffold;
mod secret;
mod status;
mod verify;

use std::io::{IsTerminal, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};

use context::Context;
use failure::{Exit, Failure};
use flags::{AcceptFlags, LimitFlags, PaceFlags, ResumeFlags, TuneFlags};

use crate::units::parse_duration;

/// Runs large UPDATEs on PostgreSQL in chunks that can be paced, stopped, resumed and trusted
#[derive(Debug, Parser)]
#[command(name = "backfill", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Args)]
struct Global {
    /// Connect here: a URL or `key=value` pairs; wins over `DATABASE_URL`, PG* and backfill.toml
    #[arg(long, global = true, value_name = "URL", env = secret::URL, hide_env_values = true)]
    url: Option<String>,
    /// The directory with backfill.toml and backfills/
    #[arg(long, global = true, value_name = "DIR", default_value = ".")]
    project: PathBuf,
    /// Print JSON on standard output
    #[arg(long, global = true)]
    json: bool,
    /// Say more
    #[arg(short, long, global = true)]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a commented backfill.toml, backfills/ and migrations/
    Init {
        /// Where
        #[arg(default_value = ".")]
        dir: PathBuf,
    },
    /// Write a new spec, backfills/NAME.toml
    New {
        /// The backfill's name
        name: String,
        /// Make it from UPDATE statements on one table
        #[arg(long, value_name = "SQL")]
        from_sql: Option<String>,
    },
    /// Show what a run would do; changes nothing
    Plan {
        /// The backfill's name
        name: String,
        #[command(flatten)]
        limits: LimitFlags,
        #[command(flatten)]
        accepted: AcceptFlags,
    },
    /// Start a run and stay with it
    Run {
        /// The backfill's name
        name: String,
        /// Start, or continue, or exit 0 when it is already done (for schedulers)
        #[arg(long)]
        resume: bool,
        /// Run although the newest run succeeded; a `set` then applies twice
        #[arg(long, conflicts_with = "resume")]
        again: bool,
        #[command(flatten)]
        limits: LimitFlags,
        #[command(flatten)]
        accepted: AcceptFlags,
        #[command(flatten)]
        pace: PaceFlags,
        #[command(flatten)]
        takeover: ResumeFlags,
    },
    /// Continue an interrupted, paused or failed run; without NAME every unfinished one in turn
    Resume {
        /// The backfill's name
        name: Option<String>,
        #[command(flatten)]
        limits: LimitFlags,
        #[command(flatten)]
        accepted: AcceptFlags,
        #[command(flatten)]
        pace: PaceFlags,
        #[command(flatten)]
        takeover: ResumeFlags,
    },
    /// Take a run back: give every row it wrote what it held before, unless somebody has changed it since
    Reverse {
        /// The backfill's name
        name: String,
        /// An older run of it, by number; the newest when not given
        #[arg(long, value_name = "N")]
        run: Option<i64>,
        #[command(flatten)]
        accepted: AcceptFlags,
        #[command(flatten)]
        limits: LimitFlags,
        #[command(flatten)]
        pace: PaceFlags,
        #[command(flatten)]
        takeover: ResumeFlags,
    },
    /// Drop before-images that are no longer wanted; the run can then not be reversed
    Prune {
        /// The backfill's name; every one whose retention has passed when not given
        name: Option<String>,
        /// Only of runs that finished longer ago than this, such as 14d
        #[arg(long, value_name = "AGE", value_parser = parse_duration)]
        older_than: Option<Duration>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Run the rows that were set aside and the chunks that were given up again
    Retry {
        /// The backfill's name
        name: String,
        #[command(flatten)]
        limits: LimitFlags,
        #[command(flatten)]
        accepted: AcceptFlags,
        #[command(flatten)]
        pace: PaceFlags,
    },
    /// Stop a live run after its chunks in flight; it can be resumed
    Pause {
        /// The backfill's name
        name: String,
    },
    /// End a run for good; what is done stays done
    Cancel {
        /// The backfill's name
        name: String,
    },
    /// Change the limits of a live run
    Tune {
        /// The backfill's name
        name: String,
        #[command(flatten)]
        tune: TuneFlags,
    },
    /// Show runs: state, progress, rate, time left, and what holds them back
    Status {
        /// The backfill's name; all when not given
        name: Option<String>,
        /// Show it again every second until the run has stopped
        #[arg(long, requires = "name")]
        watch: bool,
    },
    /// List the specs and the newest run of each
    List,
    /// Show the audit trail: what happened, when, on whose word
    Log {
        /// The backfill's name
        name: String,
    },
    /// Prove from the data that no row is left to do; exit 6 with the count when there are some
    Verify {
        /// The backfill's name
        name: String,
        /// Take your word, and keep it in the log, for rows of partitions that went away: they are as they should be
        #[arg(long, value_name = "REASON")]
        accept_moved: Option<String>,
    },
    /// Schema steps: revisions, upgrade and downgrade, and demands on backfills
    Migrate {
        #[command(subcommand)]
        command: migrate::Migrate,
    },
    /// Say what will work here, what will not, and the GRANT that mends it
    Doctor {
        /// Print the statements that create the state tables, and nothing else
        #[arg(long)]
        ddl: bool,
    },
    /// Tell the whole story on a private PostgreSQL that is started and removed here
    Demo {
        /// Rows of the table
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000_000))]
        rows: u64,
        /// The server's major version; any that is found when not given
        #[arg(long, value_name = "MAJOR", value_parser = clap::value_parser!(u32).range(13..=18))]
        pg: Option<u32>,
        /// Leave the server running at the end
        #[arg(long)]
        keep: bool,
    },
    /// Print a shell's completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

/// Parses the command line, runs the command, and turns its end into an exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_tracing(cli.global.verbose);
    secret::off_the_command_line();
    let is_json = cli.global.json;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => {
            Err(Failure::new(failure::Kind::Failed, format!("start the runtime: {error}")))
        }
    };
    match done {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(failure) => {
            if is_json {
                print_json(&failure.json());
            } else {
                let colored = std::io::stderr().is_terminal() && no_color().is_none();
                say(&failure.text(colored));
            }
            ExitCode::from(failure.code())
        }
    }
}

async fn run(cli: Cli) -> Result<Exit, Failure> {
    let global = cli.global;
    match cli.command {
        Command::Init { dir } => scaffold::init(&dir),
        Command::New { name, from_sql } => {
            scaffold::new(&global.project, &name, from_sql.as_deref())
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "backfill", &mut std::io::stdout());
            Ok(Exit::Done)
        }
        Command::Man => scaffold::man(Cli::command()),
        Command::Demo { rows, pg, keep } => demo::demo(rows, pg, keep).await,
        Command::Migrate { command } => migrate::migrate(&Context::open(&global)?, command).await,
        Command::Doctor { ddl } => doctor::doctor(&global, ddl).await,
        Command::Plan { name, limits, accepted } => {
            plan::plan(&Context::open(&global)?, &name, limits, accepted).await
        }
        Command::Run { name, resume, again, limits, accepted, pace, takeover } => {
            let how = match (resume, again) {
                (true, _) => run::Mode::StartOrContinue,
                (false, true) => run::Mode::StartAgain,
                (false, false) => run::Mode::Start,
            };
            run::run(
                &Context::open(&global)?,
                &name,
                how,
                run::Flags { limits, accepted, pace, takeover },
            )
            .await
        }
        Command::Resume { name, limits, accepted, pace, takeover } => {
            let flags = run::Flags { limits, accepted, pace, takeover };
            run::resume(&Context::open(&global)?, name.as_deref(), flags).await
        }
        Command::Reverse { name, run, limits, accepted, pace, takeover } => {
            let flags = run::Flags { limits, accepted, pace, takeover };
            reverse::reverse(&Context::open(&global)?, &name, run, flags).await
        }
        Command::Prune { name, older_than, yes } => {
            prune::prune(&Context::open(&global)?, name.as_deref(), older_than, yes).await
        }
        Command::Retry { name, limits, accepted, pace } => {
            let flags = run::Flags { limits, accepted, pace, takeover: ResumeFlags::default() };
            run::retry(&Context::open(&global)?, &name, flags).await
        }
        Command::Pause { name } => control::pause(&Context::open(&global)?, &name).await,
        Command::Cancel { name } => control::cancel(&Context::open(&global)?, &name).await,
        Command::Tune { name, tune } => control::tune(&Context::open(&global)?, &name, tune).await,
        Command::Status { name, watch } => {
            status::status(&Context::open(&global)?, name.as_deref(), watch).await
        }
        Command::List => status::list(&Context::open(&global)?).await,
        Command::Log { name } => status::log(&Context::open(&global)?, &name).await,
        Command::Verify { name, accept_moved } => {
            verify::verify(&Context::open(&global)?, &name, accept_moved.as_deref()).await
        }
    }
}

/// Diagnostics on standard error: warnings, with -v more, with `BACKFILL_LOG` whatever it says.
fn start_tracing(verbose: bool) {
    use tracing_subscriber::EnvFilter;
    let default = if verbose { "backfill=debug" } else { "backfill=warn" };
    let filter =
        EnvFilter::try_from_env("BACKFILL_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .with_ansi(std::io::stderr().is_terminal() && no_color().is_none())
        .try_init();
}

/// `NO_COLOR`, when it is set to anything but nothing.
fn no_color() -> Option<std::ffi::OsString> {
    std::env::var_os("NO_COLOR").filter(|value| !value.is_empty())
}

/// Data on standard output. A reader that went away is no error.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{}", text.trim_end());
}

fn print_json(value: &impl serde::Serialize) {
    print(&serde_json::to_string(value).unwrap_or_default());
}

/// Talk on standard error.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
