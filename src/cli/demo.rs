//! `demo`: the whole story on a private server. The run, the kill, the resume are this same program in child processes.

mod example;
mod stage;

use std::io::Write as _;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::failure::{Exit, Failure, Kind, statement};
use super::print;
use super::status::plain_table;
use crate::db::{self, ConnInfo, Database, lock};
use crate::event::{bytes, count, duration};
use crate::server::{Options, Server};
use crate::state::RunState;
use stage::{Signals, Stage, interrupted, write_project};

/// The backfill that the demo tells about.
const NAME: &str = "governance_phases";

/// The revision that adds the column which it fills.
const BEFORE: &str = "a95e";

/// The last revision before those that cannot be taken back.
const AFTER: &str = "5a2c";

/// Share of the keys after which the runner is killed.
const KILL_AT: f64 = 0.4;

/// What was measured on the way there.
struct WayThere {
    heap_before: u64,
    done_at_kill: i64,
    ran: Duration,
    resumed: Duration,
    rows_done: i64,
    chunks: i64,
    empty: i64,
}

/// What was measured on the way back.
struct WayBack {
    took: Duration,
    rows_done: i64,
    conflicts: i64,
    is_identical: bool,
    are_kept: bool,
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

impl Stage {
    async fn tell(&mut self, rows: u64) -> Result<(), Failure> {
        step(&format!(
            "backfill migrate upgrade {BEFORE}   (the table, an index, nullable columns)"
        ));
        self.call(&["migrate", "upgrade", BEFORE]).await?;
        step("Loading rows");
        let began = Instant::now();
        self.load(rows).await?;
        print(&format!(
            "{} skills, {} of heap, in {}",
            count(rows),
            bytes(self.heap().await?),
            duration(began.elapsed())
        ));
        // The rows that the application will write to before the way back, apart from all others.
        let apart = [1, 2, 3].map(|quarter| rows as i64 * quarter / 4);
        let (before, _) = self.checksums(&apart).await?;
        let there = self.way_there(rows).await?;
        let back = self.way_back(&apart, &before).await?;
        step("What happened");
        self.summary(rows, &there, &back).await?;
        self.onwards().await
    }

    /// The rest of the example's history: two columns become NOT NULL and a third gets another name.
    async fn onwards(&mut self) -> Result<(), Failure> {
        let refused = Failure::refused("").code();
        step(
            "backfill migrate upgrade   (starts a backfill, and stops where its end is demanded: exit code 3)",
        );
        self.call_until(&["migrate", "upgrade"], refused).await?;
        step(&format!(
            "backfill migrate upgrade {AFTER} --gate run   (runs the backfills, and goes on)"
        ));
        let began = Instant::now();
        self.call(&["migrate", "upgrade", AFTER, "--gate", "run"]).await?;
        print(&format!("the way to {AFTER} took {}", duration(began.elapsed())));
        step("backfill migrate current");
        self.call(&["migrate", "current"]).await?;
        let client = self.database.get().await?;
        let sql = "select count(*) from pg_attribute where attrelid = 'public.skills'::regclass and attnotnull \
                   and attname in ('governance_phases', 'tier', 'skill_category')";
        let found = db::ask(&client, sql, &[]).await.map_err(statement("look at the columns"))?;
        match found[0].get::<_, i64>(0) {
            3 => {
                print(
                    "governance_phases, tier and skill_category are NOT NULL; no row was read under a strong lock",
                );
                Ok(())
            }
            _ => Err(Failure::new(
                Kind::Failed,
                "the schema is not where it should be; please report this",
            )),
        }
    }

    async fn way_there(&mut self, rows: u64) -> Result<WayThere, Failure> {
        let heap_before = self.heap().await?;
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
        let client = self.database.get().await?;
        let sql = "select count(*) filter (where governance_phases is null) from public.skills";
        let left = db::ask(&client, sql, &[]).await.map_err(statement("count rows"))?;
        let (rows_done, chunks, _) = self.newest().await?;
        let empty = left[0].get(0);
        Ok(WayThere { heap_before, done_at_kill, ran, resumed, rows_done, chunks, empty })
    }

    async fn way_back(&mut self, apart: &[i64], before: &str) -> Result<WayBack, Failure> {
        step("The application writes to 3 of the rows");
        self.write_as_application(apart).await?;
        let (_, written) = self.checksums(apart).await?;
        let list = apart.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
        print(&format!("update skills set governance_phases = '{{by hand}}' where id in ({list})"));

        step(&format!("backfill reverse {NAME}   (ends with exit code 5: there are conflicts)"));
        let began = Instant::now();
        self.call_until(&["reverse", NAME], Exit::Quarantined.code()).await?;
        let took = began.elapsed();
        let (rows_done, _, conflicts) = self.newest().await?;
        let (rest, kept) = self.checksums(apart).await?;
        Ok(WayBack {
            took,
            rows_done,
            conflicts,
            is_identical: rest == before,
            are_kept: kept == written,
        })
    }

    /// Rows, chunks and conflicts of the newest run, which has succeeded.
    async fn newest(&self) -> Result<(i64, i64, i64), Failure> {
        let client = self.database.get().await?;
        let store = self.store();
        let run = store.newest_run(&client, NAME).await?;
        let run = run.filter(|run| run.state == RunState::Succeeded);
        let run = run.ok_or_else(|| Failure::new(Kind::Failed, "the run did not succeed"))?;
        let sums = store.sums(&client, run.run_id).await?;
        let (conflicts, _) = store.count_conflicts(&client, run.run_id).await?;
        Ok((sums.rows_done, sums.chunks_done, conflicts))
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
        self.until_noticed().await?;
        print(&format!("killed the runner after {}", duration(ran)));
        Ok(ran)
    }

    /// Waits until the server has noticed that the runner is gone, which is a moment after its death.
    async fn until_noticed(&self) -> Result<(), Failure> {
        let client = self.database.get().await?;
        let store = self.store();
        let run = store.newest_run(&client, NAME).await?;
        let key = store.run_lock(run.map_or(0, |run| run.run_id));
        let failed = statement("look for the run's lock");
        let patience = Instant::now() + Duration::from_secs(10);
        let mut holder = lock::holder(&client, key).await.map_err(failed)?;
        while holder.is_some() && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(10)).await;
            holder =
                lock::holder(&client, key).await.map_err(statement("look for the run's lock"))?;
        }
        Ok(())
    }

    async fn summary(&self, rows: u64, there: &WayThere, back: &WayBack) -> Result<(), Failure> {
        let at_work = there.ran + there.resumed;
        let pace = |rows: i64, time: Duration| count((rows as f64 / time.as_secs_f64()) as u64);
        let big = |number: i64| count(number.unsigned_abs());
        let word = |holds: bool| (if holds { "yes" } else { "NO" }).to_owned();
        let mut table = plain_table(&["", "measured"]);
        let mut row = |what: &str, value: String| {
            table.add_row([what, &value]);
        };
        row("rows loaded", count(rows));
        row("rows committed when the runner was killed", big(there.done_at_kill));
        row("rows committed by both runners", big(there.rows_done));
        row("rows without a value then", big(there.empty));
        row("chunks", big(there.chunks));
        row("first runner, start to SIGKILL", duration(there.ran));
        row("second runner, start to end", duration(there.resumed));
        row("rows a second, both runners", pace(there.rows_done, at_work));
        row("rows given back", big(back.rows_done));
        row("rows of the application left alone", big(back.conflicts));
        row("they hold what the application wrote", word(back.are_kept));
        row("all others as before the run, by checksum", word(back.is_identical));
        row("rows a second on the way back", pace(back.rows_done, back.took));
        let (before, now) = (bytes(there.heap_before), bytes(self.heap().await?));
        row("heap before and after both", format!("{before}, {now}"));
        print(&table.to_string());
        let loaded = rows as i64;
        let is_whole = there.empty == 0 && there.rows_done == loaded;
        let is_back = (back.conflicts, back.rows_done) == (3, loaded - 3);
        if is_whole && is_back && back.is_identical && back.are_kept {
            return Ok(());
        }
        Err(Failure::new(
            Kind::Failed,
            "rows were lost, doubled or not given back; please report this",
        ))
    }
}
