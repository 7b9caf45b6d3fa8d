//! An application at work on the table: it touches, inserts, deletes, takes over and moves rows, a few statements to a transaction, and
//! writes down what it did in the same transaction, so that the ledger is the truth whatever became of a COMMIT's answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;
use tokio_postgres::{Client, NoTls};

use crate::history::{History, Key, Work};

/// Connections that write.
const CLIENTS: u32 = 3;

pub struct Application {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// Transactions that were answered.
    pub committed: Arc<AtomicU64>,
}

impl Application {
    pub fn start(url: &str, history: &History, rng: &mut Rng) -> Application {
        let (stop, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..CLIENTS).map(|client| {
            let (stop, committed, url) = (stop.clone(), committed.clone(), url.to_owned());
            let (history, rng) = (history.clone(), rng.fork());
            std::thread::spawn(move || work(&url, &history, (client, rng), (&stop, &committed)))
        });
        let threads = threads.collect();
        Application { stop, threads, committed }
    }

    pub fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let _ = thread.join();
        }
        self.committed.load(Ordering::Relaxed)
    }
}

fn work(
    url: &str,
    history: &History,
    (client, mut rng): (u32, Rng),
    (stop, committed): (&AtomicBool, &AtomicU64),
) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let connected = runtime.block_on(tokio_postgres::connect(url, NoTls));
        let Ok((connection, driver)) = connected else {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        runtime.spawn(driver);
        let _ = runtime.block_on(connection.batch_execute("set lock_timeout = '2s'"));
        while !stop.load(Ordering::Relaxed) && !connection.is_closed() {
            number += 1;
            let fresh = 1_000_000 + client * 10_000_000 + number;
            match runtime.block_on(transaction(&connection, history, fresh, &mut rng)) {
                Ok(()) => committed.fetch_add(1, Ordering::Relaxed),
                Err(_) => {
                    let _ = runtime.block_on(connection.batch_execute("rollback"));
                    0
                }
            };
            std::thread::sleep(Duration::from_millis(rng.u64(0..12)));
        }
    }
}

async fn transaction(
    client: &Client,
    history: &History,
    fresh: u32,
    rng: &mut Rng,
) -> Result<(), tokio_postgres::Error> {
    client.batch_execute("begin").await?;
    for _ in 0..rng.u32(1..4) {
        client.batch_execute(&statement(history, fresh, rng)).await?;
    }
    if rng.u32(0..20) == 0 {
        // Long enough for chunks to wait, and to run into their lock timeout now and then.
        tokio::time::sleep(Duration::from_millis(rng.u64(20..700))).await;
    }
    client.batch_execute(if rng.u32(0..15) == 0 { "rollback" } else { "commit" }).await
}

fn statement(history: &History, fresh: u32, rng: &mut Rng) -> String {
    let r = rng.u32(1..=history.rows);
    match rng.u32(0..100) {
        0..55 => format!(
            "with touched as (update t set app = app + 1 where r = {r} returning 1) insert into ledger (kind) select 'touch' from touched"
        ),
        // A second one of the same number in a transaction fails on its key, and the transaction with it.
        55..70 => {
            format!("select make_row({fresh}, 'new'); insert into ledger (kind) values ('insert')")
        }
        70..80 => format!(
            "with gone as (delete from t where r = {r} returning app) insert into ledger (kind, app) select 'delete', app from gone"
        ),
        80..92 if history.work == Work::Settle => {
            format!("update t set v = 'again', fate = 'owned' where r = {r} and fate = 'plain'")
        }
        80..92 if history.adds() => {
            format!("update t set n = 100, fate = 'owned' where r = {r} and fate = 'plain'")
        }
        80..92 => {
            format!("update t set v = 'app', fate = 'owned' where r = {r} and fate = 'plain'")
        }
        // A row whose key is changed may be met before and after, or not at all: that is for `fill` alone.
        _ if history.adds() => format!("select from t where r = {r} for update"),
        _ => {
            let column = match history.key {
                Key::Integer | Key::Sparse => "id = id + 50000000000",
                Key::Uuid => "id = md5(id::text || 'moved')::uuid",
                Key::Text => "id = id || ' moved'",
                Key::Composite => "tenant = (tenant + 3) % 7",
                Key::Mixed => "day = day + 2",
                Key::Partitioned => "part = (part + 1) % 4",
            };
            format!("update t set {column}, fate = 'moved' where r = {r} and fate = 'plain'")
        }
    }
}
