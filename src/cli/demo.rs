//! `demo`: the whole story on a private server. The run, the kill, the resume are this same program in child processes.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_postgres::types::{ToSql, Type};

use super::failure::{Exit, Failure, Kind, statement};
use super::print;
use super::status::plain_table;
use crate::db::{ConnInfo, Database};
use crate::event::{bytes, count, duration};
use crate::migrate::file::sections;
use crate::server::{Options, Server};
use crate::sql::Ident;
use crate::state::{RunState, Store};

/// The example's schema steps, in order.
const MIGRATIONS: [&str; 3] = [
    include_str!("../../migrations/20260105090000_3f1a_create_skills.sql"),
    include_str!("../../migrations/20260105091000_7c42_index_category.sql"),
    include_str!("../../migrations/20260112100000_a95e_add_governance.sql"),
];

/// The example's specs.
const SPECS: [(&str, &str); 3] = [
    ("governance_phases", include_str!("../../backfills/governance_phases.toml")),
    ("double_quota", include_str!("../../backfills/double_quota.toml")),
    ("category_owner", include_str!("../../backfills/category_owner.toml")),
];

/// The backfill that the demo tells about.
const NAME: &str = "governance_phases";

/// Rows of the example: about 200 bytes each, ten categories.
pub(super) const LOAD: &str = "insert into public.skills (id, name, description, category)
select i, 'skill ' || i, repeat(md5(i::text), 4),
       (array['development', 'data', 'security', 'documentation', 'operations', 'support', 'design', 'research',
              'sales', 'people'])[1 + i % 10]
  from generate_series($1::bigint, $2::bigint) i";

/// Rows loaded in one statement.
const LOAD_STEP: i64 = 250_000;

/// Share of the keys after which the runner is killed.
const KILL_AT: f64 = 0.4;

/// What the demo works with.
struct Stage {
    server: Server,
    database: Database,
    /// A directory with the example's specs, inside the server's: it goes when that goes.
    project: PathBuf,
    signals: Signals,
}

/// Ctrl-C and SIGTERM end the demo; the server goes with it.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// `backfill demo`.
pub(super) async fn demo(rows: u64, major: Option<u32>, keep: bool) -> Result<Exit, Failure> {
    let failed =
        |error: std::io::Error| Failure::new(Kind::Failed, format!("listen for signals: {error}"));
    let signals = Signals {
        interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        terminate: signal(SignalKind::terminate()).map_err(failed)?,
    };
    step("Starting a private PostgreSQL");
    let began = Instant::now();
    let settings =
        ["shared_buffers=512MB", "max_wal_size=4GB", "autovacuum_naptime=10s"].map(str::to_owned);
    let options = Options { major, settings: settings.to_vec(), no_fsync: false };
    let server = Server::start(&options)?;
    let info = ConnInfo::resolve(Some(&server.url("postgres")), None, &|_| None)?;
    let database = Database::new(info, 2)?;
    let project = write_project(server.socket_dir())?;
    print(&format!(
        "PostgreSQL {} is up on {} after {}",
        server.version(),
        server.socket_dir().display(),
        duration(began.elapsed())
    ));
    let mut stage = Stage { server, database, project, signals };
    let told = stage.tell(rows).await;
    match told {
        Ok(()) if keep => {
            stage.keep();
            Ok(Exit::Done)
        }
        Ok(()) => {
            print("\nThe server is stopped and removed. Keep one with: backfill demo --keep");
            Ok(Exit::Done)
        }
        Err(failure) => Err(failure),
    }
}

fn step(title: &str) {
    print(&format!("\n== {title}"));
}

fn write_project(server: &Path) -> Result<PathBuf, Failure> {
    let project = server.join("project");
    let failed = |error: std::io::Error| {
        Failure::new(Kind::Failed, format!("write the example's specs: {error}"))
    };
    std::fs::create_dir_all(project.join("backfills")).map_err(failed)?;
    for (name, text) in SPECS {
        std::fs::write(project.join(format!("backfills/{name}.toml")), text).map_err(failed)?;
    }
    Ok(project)
}

impl Stage {
    async fn tell(&mut self, rows: u64) -> Result<(), Failure> {
        step("Applying the example's schema steps and loading rows");
        let began = Instant::now();
        self.load(rows).await?;
        print(&format!(
            "{} skills, {} of heap, in {}",
            count(rows),
            bytes(self.heap().await?),
            duration(began.elapsed())
        ));
        let before = self.heap().await?;

        step(&format!("backfill plan {NAME}"));
        self.call(&["plan", NAME]).await?;

        step(&format!(
            "backfill run {NAME}   (killed with SIGKILL at about {:.0} %)",
            KILL_AT * 100.0
        ));
        let ran = self.run_and_kill(rows).await?;

        step(&format!("backfill status {NAME}"));
        self.call(&["status", NAME]).await?;
        let done_at_kill = self.keys_done().await?.1;

        step(&format!("backfill resume {NAME}"));
        let began = Instant::now();
        self.call(&["resume", NAME]).await?;
        let resumed = began.elapsed();

        step(&format!("backfill verify {NAME}"));
        self.call(&["verify", NAME]).await?;

        step("What happened");
        self.summary(rows, before, done_at_kill, ran, resumed).await
    }

    async fn load(&mut self, rows: u64) -> Result<(), Failure> {
        let client = self.database.get().await?;
        for migration in MIGRATIONS {
            let sections = sections(migration).ok_or_else(|| {
                Failure::new(Kind::Failed, "the example's schema steps are damaged")
            })?;
            client.batch_execute(sections.up).await.map_err(statement("apply a schema step"))?;
        }
        let categories = "insert into public.categories select c, 'team-' || c from unnest(array['development', 'data', \
            'security', 'documentation', 'operations', 'support', 'design', 'research', 'sales', 'people']) c";
        client.batch_execute(categories).await.map_err(statement("load the categories"))?;
        let rows = rows as i64;
        let mut from = 1;
        while from <= rows {
            let upto = (from + LOAD_STEP - 1).min(rows);
            let range: [(&(dyn ToSql + Sync), Type); 2] =
                [(&from, Type::INT8), (&upto, Type::INT8)];
            let load = client.execute_typed(LOAD, &range);
            tokio::select! {
                loaded = load => drop(loaded.map_err(statement("load rows"))?),
                () = self.signals.any() => return Err(interrupted()),
            }
            from = upto + 1;
        }
        let settle = "vacuum (analyze) public.skills";
        tokio::select! {
            settled = client.batch_execute(settle) => settled.map_err(statement("vacuum the table")),
            () = self.signals.any() => Err(interrupted()),
        }
    }

    /// Runs this program on the stage; its output goes where ours goes.
    fn child(&self, arguments: &[&str]) -> Result<Child, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(Kind::Failed, format!("start this program again: {error}"))
        };
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.args(arguments).arg("--project").arg(&self.project).stdin(Stdio::null());
        command.arg("--url").arg(self.server.url("postgres"));
        for variable in ["DATABASE_URL", "PGPASSWORD", "PGSERVICE", "PGOPTIONS", "PGSSLMODE"] {
            command.env_remove(variable);
        }
        command.kill_on_drop(true).spawn().map_err(failed)
    }

    async fn call(&mut self, arguments: &[&str]) -> Result<(), Failure> {
        let mut child = self.child(arguments)?;
        tokio::select! {
            exit = child.wait() => match exit {
                Ok(exit) if exit.success() => Ok(()),
                Ok(exit) => Err(Failure::new(Kind::Failed, format!("`backfill {}` ended with {exit}", arguments.join(" ")))),
                Err(error) => Err(Failure::new(Kind::Failed, format!("wait for `backfill {}`: {error}", arguments[0]))),
            },
            () = self.signals.any() => Err(interrupted()),
        }
    }

    /// Kills the runner when [`KILL_AT`] of the keys are done: how long it ran.
    async fn run_and_kill(&mut self, rows: u64) -> Result<Duration, Failure> {
        let began = Instant::now();
        let mut child = self.child(&["run", NAME])?;
        loop {
            tokio::select! {
                exit = child.wait() => {
                    let exit = exit.map_or_else(|error| error.to_string(), |exit| exit.to_string());
                    return Err(Failure::new(Kind::Failed, format!("the run ended with {exit} before it was killed"))
                        .hint("give it more to do: backfill demo --rows 5000000"));
                }
                () = self.signals.any() => return Err(interrupted()),
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
            if self.keys_done().await?.0 as f64 >= rows as f64 * KILL_AT {
                break;
            }
        }
        let ran = began.elapsed();
        // The bar's line is left as the kill found it.
        let killed = child.start_kill();
        killed.map_err(|error| Failure::new(Kind::Failed, format!("kill the runner: {error}")))?;
        let _ = child.wait().await;
        let _ = writeln!(std::io::stderr().lock());
        print(&format!("killed the runner after {}", duration(ran)));
        Ok(ran)
    }

    /// Keys and rows done.
    async fn keys_done(&self) -> Result<(i64, i64), Failure> {
        let client = self.database.get().await?;
        let store = Store::new(Ident::new("backfill"));
        if store.installed(&client).await? != crate::state::Installed::Yes {
            return Ok((0, 0));
        }
        let Some(run) = store.newest_run(&client, NAME).await? else { return Ok((0, 0)) };
        let sums = store.sums(&client, run.run_id).await?;
        Ok((sums.keys_done, sums.rows_done))
    }

    async fn heap(&self) -> Result<u64, Failure> {
        let client = self.database.get().await?;
        let sql = "select pg_catalog.pg_relation_size('public.skills')";
        let rows = client.query_typed(sql, &[]).await.map_err(statement("measure the table"))?;
        Ok(rows[0].get::<_, i64>(0).unsigned_abs())
    }

    async fn summary(
        &self,
        rows: u64,
        heap_before: u64,
        done_at_kill: i64,
        ran: Duration,
        resumed: Duration,
    ) -> Result<(), Failure> {
        let client = self.database.get().await?;
        let store = Store::new(Ident::new("backfill"));
        let run = store.newest_run(&client, NAME).await?;
        let run = run.filter(|run| run.state == RunState::Succeeded);
        let run = run.ok_or_else(|| Failure::new(Kind::Failed, "the run did not succeed"))?;
        let sums = store.sums(&client, run.run_id).await?;
        let sql =
            "select count(*) filter (where governance_phases is null), count(*) from public.skills";
        let left = client.query_typed(sql, &[]).await.map_err(statement("count rows"))?;
        let (empty, total): (i64, i64) = (left[0].get(0), left[0].get(1));
        let at_work = ran + resumed;
        let rate = (sums.rows_done as f64 / at_work.as_secs_f64()) as u64;
        let big = |number: i64| count(number.unsigned_abs());
        let mut table = plain_table(&["", "measured"]);
        let mut row = |what: &str, value: String| {
            table.add_row([what, &value]);
        };
        row("rows in the table", big(total));
        row("rows loaded", count(rows));
        row("rows committed when the runner was killed", big(done_at_kill));
        row("rows committed by both runners", big(sums.rows_done));
        row("rows without a value now", big(empty));
        row("chunks", big(sums.chunks_done));
        row("first runner, start to SIGKILL", duration(ran));
        row("second runner, start to end", duration(resumed));
        row("rows a second, both runners", count(rate));
        row(
            "heap before and after",
            format!("{}, {}", bytes(heap_before), bytes(self.heap().await?)),
        );
        print(&table.to_string());
        if empty != 0 || sums.rows_done != total {
            return Err(Failure::new(
                Kind::Failed,
                "rows were lost or doubled; please report this",
            ));
        }
        Ok(())
    }

    fn keep(self) {
        let url = self.server.url("postgres");
        let project = self.project.display().to_string();
        let (_, stop) = self.server.keep();
        print(&format!(
            "\nThe server stays up. Try:\n  export DATABASE_URL='{url}'\n  cd {project}\n  backfill list\n  \
             backfill plan double_quota\n  backfill run category_owner\n  backfill log {NAME}\n\
             Stop and remove it with:\n  {stop}"
        ));
    }
}

impl Signals {
    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn interrupted() -> Failure {
    Failure::new(Kind::Stopped, "interrupted; the private server is stopped and removed")
}
