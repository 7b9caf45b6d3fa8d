//! What every transaction of a run pins, so that a role's defaults, a pooler or another login cannot change its meaning.
//!
//! The parts that give meaning to the author's SQL (`search_path`, `TimeZone`, the order of day and month) are read once when
//! the run is created, stored with it, and restored on every resume. The parts that keep the engine correct or fast are fixed
//! here. All are `SET LOCAL`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

/// The recorded settings: those that change what the author's SQL means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Where unqualified names resolve.
    pub search_path: String,
    /// What `now()` and time stamps without a zone mean.
    pub time_zone: String,
    /// Output always ISO, so that keys survive the way through text; the input order is the session's own.
    pub date_style: String,
    /// How intervals are read and written.
    pub interval_style: String,
}

/// The time bounds of one transaction.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How long to wait for any one lock.
    pub lock: Duration,
    /// How long any one statement may take.
    pub statement: Duration,
    /// Whether COMMIT waits for the disk as the server says; else it does not wait.
    pub is_durable: bool,
}

impl Bounds {
    /// For look-ups in catalogs and state tables: seconds, because anything longer means that something is wrong.
    pub const LOOKUP: Bounds = Bounds {
        lock: Duration::from_secs(5),
        statement: Duration::from_secs(30),
        is_durable: true,
    };
}

/// How long a transaction may sit idle before the server ends it: a dead runner must not keep its row locks. The engine
/// never pauses inside a transaction, so this only meets a stopped process or a cut network.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(10);

/// Memory for the rows of a chunk on their way into its before-images. The sizer keeps those under 16 MB; with the server's default of
/// 4 MB they would go through a temporary file.
const WORK_MEM: &str = "32MB";

impl Session {
    /// Reads the settings of the connection in hand.
    pub async fn read(client: &Client) -> Result<Session, Error> {
        let sql = "select pg_catalog.current_setting('search_path'), pg_catalog.current_setting('TimeZone'), \
                   pg_catalog.split_part(pg_catalog.current_setting('DateStyle'), ', ', 2), \
                   pg_catalog.current_setting('IntervalStyle')";
        let row = super::ask_as_is(client, sql, &[]).await?.pop();
        let text = |i| row.as_ref().map(|row| row.get::<_, String>(i)).unwrap_or_default();
        Ok(Session {
            search_path: text(0),
            time_zone: text(1),
            date_style: format!("ISO, {}", text(2)),
            interval_style: text(3),
        })
    }

    /// Opens a READ COMMITTED, read-write transaction and pins everything for its length.
    ///
    /// `enable_seqscan = off` and `force_custom_plan` keep the chunk on the key's index whatever the statistics say;
    /// `row_security = off` turns silently hidden rows into an error.
    ///
    /// Each statement has its bound, and between them the transaction may not sit idle; a `transaction_timeout` of the role, which servers
    /// know from 17 on, would end the connection instead.
    ///
    /// `backfill.writes` tells triggers that it is not the application who writes.
    ///
    /// Both statements are on their way before the first is answered. Were BEGIN to fail, the settings would be local to a
    /// transaction of one statement, which is to say nowhere.
    pub async fn begin(&self, client: &Client, bounds: Bounds) -> Result<(), Error> {
        let begin = client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE");
        let (begun, pinned) = tokio::join!(biased; begin, self.pin(client, bounds));
        begun.and(pinned)
    }

    /// As [`Session::begin`], for transactions that must not write.
    pub async fn begin_read_only(&self, client: &Client, bounds: Bounds) -> Result<(), Error> {
        client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY").await?;
        self.pin(client, bounds).await
    }

    async fn pin(&self, client: &Client, bounds: Bounds) -> Result<(), Error> {
        let sql = "select pg_catalog.set_config('search_path', $1, true), pg_catalog.set_config('TimeZone', $2, true), \
            pg_catalog.set_config('DateStyle', $3, true), pg_catalog.set_config('IntervalStyle', $4, true), \
            pg_catalog.set_config('lock_timeout', $5, true), pg_catalog.set_config('statement_timeout', $6, true), \
            pg_catalog.set_config('idle_in_transaction_session_timeout', $7, true), \
            pg_catalog.set_config('extra_float_digits', '1', true), pg_catalog.set_config('bytea_output', 'hex', true), \
            pg_catalog.set_config('row_security', 'off', true), pg_catalog.set_config('enable_seqscan', 'off', true), \
            pg_catalog.set_config('plan_cache_mode', 'force_custom_plan', true), pg_catalog.set_config('jit', 'off', true), \
            pg_catalog.set_config('work_mem', $8, true), pg_catalog.set_config('backfill.writes', 'on', true), \
            case when pg_catalog.current_setting('transaction_timeout', true) is not null \
                 then pg_catalog.set_config('transaction_timeout', '0', true) end, \
            pg_catalog.set_config('synchronous_commit', coalesce($9, pg_catalog.current_setting('synchronous_commit')), true)";
        let millis = |time: Duration| time.as_millis().to_string();
        let params: [super::Param<'_>; 9] = [
            (&self.search_path, Type::TEXT),
            (&self.time_zone, Type::TEXT),
            (&self.date_style, Type::TEXT),
            (&self.interval_style, Type::TEXT),
            (&millis(bounds.lock), Type::TEXT),
            (&millis(bounds.statement), Type::TEXT),
            (&millis(IDLE_IN_TRANSACTION), Type::TEXT),
            (&WORK_MEM, Type::TEXT),
            (&(!bounds.is_durable).then_some("off"), Type::TEXT),
        ];
        super::write_as_is(client, sql, &params).await.map(|_| ())
    }
}
