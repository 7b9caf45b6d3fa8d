//! What happens to a run: faults, and operators at their commands.

use std::time::Duration;

use fastrand::Rng;
use nix::sys::signal::Signal;

use crate::campaign::{Campaign, Runner};
use crate::history::{History, Key, Work};

/// A thing that happens to a run at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL to the runner.
    Kill,
    /// SIGKILL at a step of its work.
    KillAtStep,
    /// SIGSTOP at a step of its work, a second runner that takes the run over, and SIGCONT to the first.
    StopAtStep,
    /// SIGSTOP, and SIGCONT a while later.
    Stop,
    /// SIGSTOP, a second runner that takes the run over, and SIGCONT to the first.
    TakeOver,
    /// `pg_terminate_backend` of some of its backends.
    Terminate,
    /// `pg_cancel_backend` of some of them.
    CancelStatement,
    /// The server is stopped at once and started again.
    Crash,
    /// The server goes for good, and a standby that may lack the last commits takes its place.
    Failover,
    /// Connections are cut right after the COMMIT of a chunk was sent.
    CommitCut,
    /// Nothing gets through for a while.
    Freeze,
    /// Whatever is sent arrives late, for a while.
    Delay,
    /// All connections are cut.
    Sever,
    /// All connections are cut, and the server does not know.
    Orphan,
    /// No connection is left on the server for a while.
    Crowd,
    /// Somebody locks the table.
    Lock,
    /// DDL and maintenance on the table.
    Ddl,
    /// Ctrl-C, once or twice.
    Interrupt,
    /// `pause`.
    Pause,
    /// `cancel`.
    Cancel,
    /// `tune`.
    Tune,
    /// `retry`, which a run at work refuses.
    Retry,
    /// A second runner that does not take over.
    Second,
    /// The pooler is killed and started again.
    Pooler,
    /// The runner's clock on the wall jumps.
    Clock,
    /// No byte is free on the table's disk for a while.
    DiskFull,
}

/// How often each is chosen, out of the sum of all.
const SHARES: [(Fault, u32); 24] = [
    (Fault::Kill, 85),
    (Fault::Stop, 6),
    (Fault::TakeOver, 5),
    (Fault::Terminate, 24),
    (Fault::CancelStatement, 3),
    (Fault::Crash, 6),
    (Fault::Failover, 70),
    (Fault::CommitCut, 16),
    (Fault::Freeze, 6),
    (Fault::Delay, 6),
    (Fault::Sever, 6),
    (Fault::Orphan, 6),
    (Fault::Crowd, 3),
    (Fault::Lock, 5),
    (Fault::Ddl, 6),
    (Fault::Interrupt, 6),
    (Fault::Pause, 5),
    (Fault::Cancel, 3),
    (Fault::Tune, 6),
    (Fault::Retry, 6),
    (Fault::Second, 5),
    (Fault::Pooler, 40),
    (Fault::Clock, 25),
    (Fault::DiskFull, 40),
];

impl Fault {
    pub fn pick(rng: &mut Rng) -> Fault {
        let mut at = rng.u32(0..SHARES.iter().map(|(_, share)| share).sum());
        for (fault, share) in SHARES {
            match at.checked_sub(share) {
                Some(rest) => at = rest,
                None => return fault,
            }
        }
        Fault::Kill
    }

    /// Whether it can happen, and the history can bear it: a rule that takes back cannot tell the rows that only half a run wrote.
    pub fn fits(self, history: &History, runner: &Runner, has_standby: bool) -> bool {
        match self {
            Fault::Cancel => history.work != Work::AddByRule,
            Fault::Failover => has_standby,
            Fault::Pooler => history.has_pooler,
            Fault::Clock => history.has_clock,
            Fault::DiskFull => history.is_tight,
            Fault::CommitCut | Fault::Freeze | Fault::Delay | Fault::Sever | Fault::Orphan => {
                runner.link.is_some()
            }
            Fault::Retry => history.poison > 0,
            _ => true,
        }
    }
}

/// The run's backends.
const BACKENDS: &str = "from pg_stat_activity where datname = current_database() and application_name like 'backfill%'";

impl Campaign {
    /// Lets a fault happen to a runner; another one may be at work afterwards.
    pub fn strike(&mut self, fault: Fault, runner: &mut Runner, history: &History) {
        let wait = Duration::from_millis(self.rng.u64(50..1_500));
        match fault {
            Fault::Kill => runner.signal(Signal::SIGKILL),
            Fault::Stop => {
                runner.signal(Signal::SIGSTOP);
                std::thread::sleep(wait);
                runner.signal(Signal::SIGCONT);
            }
            Fault::TakeOver => {
                runner.signal(Signal::SIGSTOP);
                self.replace(runner, wait);
            }
            // They were told when they were started.
            Fault::KillAtStep | Fault::StopAtStep => {}
            Fault::Terminate => {
                self.sql(&format!(
                    "select pg_terminate_backend(pid) {BACKENDS} and random() < 0.6"
                ));
            }
            Fault::CancelStatement => self.sql(&format!(
                "select pg_cancel_backend(pid) {BACKENDS} and state = 'active' and random() < 0.6"
            )),
            Fault::Crash => self.crash(wait / 3),
            Fault::Failover => self.fail_over(wait / 3),
            Fault::CommitCut | Fault::Freeze | Fault::Delay | Fault::Sever | Fault::Orphan => {
                let cuts = self.rng.u32(1..4);
                let Some(link) = &runner.link else { return };
                match fault {
                    Fault::CommitCut => link.cut_commits(cuts),
                    Fault::Freeze => link.freeze(wait),
                    Fault::Delay => link.delay(wait),
                    Fault::Sever => link.sever(),
                    _ => link.orphan(wait),
                }
            }
            Fault::Crowd => self.crowd(wait),
            Fault::Lock => {
                let mode = ["share", "access exclusive"][self.rng.usize(0..2)];
                let seconds = wait.as_secs_f64();
                self.sql(&format!(
                    "begin; set local lock_timeout = '5s'; lock table t in {mode} mode; select pg_sleep({seconds}); commit"
                ));
            }
            Fault::Ddl => self.ddl(history),
            Fault::Interrupt => {
                runner.signal(Signal::SIGINT);
                if self.rng.bool() {
                    std::thread::sleep(wait / 10);
                    runner.signal(Signal::SIGINT);
                }
            }
            Fault::Pause => self.command(&["pause", "job"]),
            Fault::Cancel => self.command(&["cancel", "job"]),
            Fault::Tune => {
                let workers = self.rng.u32(1..5).to_string();
                let rate = format!("{} rows/s", history.rows / self.rng.u32(1..4));
                self.command(&["tune", "job", "--workers", &workers, "--rate", &rate]);
            }
            Fault::Retry => self.command(&["retry", "job"]),
            Fault::Second => self.command(&["resume", "job"]),
            Fault::Pooler => self.pooler.iter_mut().for_each(|pooler| pooler.restart(wait / 3)),
            Fault::Clock => self.clock.iter().for_each(|clock| clock.jump(&mut self.rng)),
            Fault::DiskFull => self.disk.iter().for_each(|disk| disk.fill(wait)),
        }
    }

    /// Another runner takes over from one that was stopped, which then wakes up.
    pub fn replace(&mut self, runner: &mut Runner, pause: Duration) {
        let heir = self.start(&["resume", "job", "--take-over"], false, None);
        let mut zombie = std::mem::replace(runner, heir);
        std::thread::sleep(pause);
        zombie.signal(Signal::SIGCONT);
        self.zombies.push(zombie);
    }

    fn ddl(&mut self, history: &History) {
        let number = self.rng.u32(0..1_000_000);
        let mut statements = vec![
            "vacuum t".to_owned(),
            "analyze t".to_owned(),
            format!("create index i_{number} on t (cat)"),
            format!("alter table t add column c_{number} int"),
            format!(
                "alter table t add column c_{number} int default 7; alter table t drop column c_{number}"
            ),
            "reindex table t".to_owned(),
        ];
        match history.key {
            // Of a partition that leaves for longer than a moment nobody can say what must have become of its rows.
            Key::Partitioned => statements.extend([
                format!("create table t_{number} partition of t for values in ({})", number + 100),
                "alter table t detach partition t_2; alter table t attach partition t_2 for values in (2)"
                    .to_owned(),
            ]),
            _ => statements.push("cluster t using t_pkey".to_owned()),
        }
        let statement = &statements[self.rng.usize(0..statements.len())];
        self.sql("set lock_timeout = '3s'");
        self.sql(statement);
    }
}
