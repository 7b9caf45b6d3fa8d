//! The way to the server: connection settings, TLS, the pool, what every transaction pins, errors by class, locks.
//!
//! Two rules hold for every statement of this program, so that a transaction pooler in front of the server changes
//! nothing: statements are unnamed and typed ([`mod@ask`]), and settings are `SET LOCAL` inside an
//! explicit transaction. Only the run's courtesy lock needs a session, and [`lock`] knows what to do without one.

pub mod ask;
mod cancel;
pub mod conninfo;
pub mod error;
pub mod grants;
mod hosts;
mod libpq;
pub mod lock;
pub mod passfile;
pub mod session;
mod timeline;
pub mod tls;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, TimeoutType,
};
use tokio::sync::OnceCell;
use tokio_postgres::config::LoadBalanceHosts;
use tokio_postgres::{CancelToken, Config};

pub use ask::{
    Param, ask, ask_apart, ask_as_is, ask_within, begin_own, find_relation, schemas_in_path,
    write_as_is,
};
pub use conninfo::{ConnInfo, ConnInfoError};
pub use error::{Class, classify, message};
pub use session::Session;

/// How long to wait for a connection before saying so.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a new connection may take to answer the first question.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// That it did not.
const SILENT: &str = "a connection was made and does not answer";

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The connection settings cannot be used.
    #[error(transparent)]
    Settings(#[from] ConnInfoError),
    /// TLS cannot be set up.
    #[error("set up TLS: {0}")]
    Tls(String),
    /// The server refused, or was not there.
    #[error("connect to {target}")]
    Refused {
        /// Host, port, database and user; never the password.
        target: String,
        /// What the server or the system said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The server was a primary once, and another has taken its place since.
    #[error("{target}: {what}")]
    Superseded {
        /// As above; of several hosts, all.
        target: String,
        /// Which timelines.
        what: String,
    },
    /// One of several hosts is there and cannot be asked whether it is the newer primary.
    #[error("one of the hosts cannot be asked whether it is the newest primary: {0}")]
    Closed(String),
    /// A request to cancel could not be sent.
    #[error("send a request to cancel to {target}: {why}")]
    Cancel {
        /// As above.
        target: String,
        /// What the system said.
        why: String,
    },
    /// A host takes connections, or not even that, and does not answer.
    #[error("no answer from {0} within {seconds} s", seconds = CONNECT_TIMEOUT.as_secs())]
    Silent(String),
    /// No connection came free.
    #[error("no connection to {0} within {seconds} s", seconds = CONNECT_TIMEOUT.as_secs())]
    Timeout(String),
}

/// What is known of the hosts, for all connections of the program.
#[derive(Default)]
struct Known {
    newest: Arc<timeline::Newest>,
    /// That all of several hosts have been looked at; and one that is there and cannot be asked.
    looked: OnceCell<Option<String>>,
    /// Where some do not answer, one that does.
    best: Mutex<Option<Config>>,
}

/// The program's connections to one database.
#[derive(Clone)]
pub struct Database {
    pool: Pool,
    /// The same hosts in any order: where the first one has been replaced, another is looked for.
    others: Option<Pool>,
    /// The one that answers where others do not.
    best: Arc<Mutex<Option<Pool>>>,
    info: ConnInfo,
    known: Arc<Known>,
}

impl Database {
    /// Prepares a pool of at most `size` connections; connects only when one is asked for.
    pub fn new(info: ConnInfo, size: usize) -> Result<Database, ConnectError> {
        Database::knowing(info, size, Arc::default())
    }

    fn knowing(info: ConnInfo, size: usize, known: Arc<Known>) -> Result<Database, ConnectError> {
        let pool = pool(&info, info.config.clone(), size, &known.newest)?;
        let has_others = info.config.get_hosts().len() > 1;
        let others = has_others.then(|| {
            let mut config = info.config.clone();
            config.load_balance_hosts(LoadBalanceHosts::Random);
            self::pool(&info, config, size, &known.newest)
        });
        Ok(Database { pool, others: others.transpose()?, best: Arc::default(), info, known })
    }

    /// Other connections to the same database, at most `size`, which those of this pool cannot use up.
    pub fn apart(&self, size: usize) -> Result<Database, ConnectError> {
        Database::knowing(self.info.clone(), size, self.known.clone())
    }

    /// Connections to another database of the same server.
    pub fn elsewhere(&self, database: &str, size: usize) -> Result<Database, ConnectError> {
        let mut info = self.info.clone();
        info.config.dbname(database);
        Database::knowing(info, size, self.known.clone())
    }

    /// The settings as libpq's variables, for a program of PostgreSQL's own.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        self.info.variables()
    }

    /// Ends all connections that are not lent.
    pub fn close(&self) {
        self.pools().for_each(|pool| pool.close());
    }

    /// Lends a connection.
    pub async fn get(&self) -> Result<Object, ConnectError> {
        let Some(others) = &self.others else { return self.get_from(&self.pool).await };
        if let Some(closed) = self.known.looked.get_or_init(|| self.look()).await {
            return Err(ConnectError::Closed(closed.clone()));
        }
        if let Some(got) = self.get_from_best().await {
            return got;
        }
        let mut got = self.get_from(&self.pool).await;
        for _ in 0..SHUFFLES {
            if !matches!(got, Err(ConnectError::Superseded { .. })) {
                break;
            }
            got = self.get_from(others).await;
        }
        // The first host takes connections and does not answer any more: another one may.
        if matches!(got, Err(ConnectError::Silent(_))) && self.look().await.is_none() {
            return self.get_from_best().await.unwrap_or(got);
        }
        got
    }

    /// Looks at all hosts: one that is there and cannot be asked.
    async fn look(&self) -> Option<String> {
        let look = hosts::look_at_all(&self.info, &self.known.newest).await;
        *locked(&self.known.best) = look.best;
        look.closed
    }

    /// Where some hosts do not answer, a connection to one that does. When it does not either, all are tried again.
    async fn get_from_best(&self) -> Option<Result<Object, ConnectError>> {
        let pool = {
            let mut best = locked(&self.best);
            if best.is_none() {
                let mut config = locked(&self.known.best).clone()?;
                if let Some(database) = self.info.config.get_dbname() {
                    config.dbname(database);
                }
                let size = self.pool.status().max_size;
                *best = self::pool(&self.info, config, size, &self.known.newest).ok();
            }
            best.clone()?
        };
        match self.get_from(&pool).await {
            Err(
                ConnectError::Refused { .. }
                | ConnectError::Silent(_)
                | ConnectError::Superseded { .. },
            ) => {
                *locked(&self.best) = None;
                *locked(&self.known.best) = None;
                None
            }
            got => Some(got),
        }
    }

    fn pools(&self) -> impl Iterator<Item = Pool> {
        [self.pool.clone()].into_iter().chain(self.others.clone()).chain(locked(&self.best).clone())
    }

    /// The timeline that all its new connections write; none where the server does not tell.
    pub fn timeline(&self) -> Option<u32> {
        self.known.newest.get()
    }

    async fn get_from(&self, pool: &Pool) -> Result<Object, ConnectError> {
        use deadpool_postgres::PoolError;
        let target = || self.info.target();
        pool.get().await.map_err(|error| match error {
            PoolError::Backend(source) => ConnectError::Refused { target: target(), source },
            PoolError::PostCreateHook(HookError::Message(what)) if what != SILENT => {
                ConnectError::Superseded { target: target(), what: what.into_owned() }
            }
            PoolError::PostCreateHook(_) | PoolError::Timeout(TimeoutType::Create) => {
                ConnectError::Silent(target())
            }
            _ => ConnectError::Timeout(target()),
        })
    }

    /// Allows at most `size` connections from here on.
    pub fn resize(&self, size: usize) {
        self.pools().for_each(|pool| pool.resize(size));
    }

    /// Host, port, database and user, for messages; never the password.
    pub fn target(&self) -> String {
        self.info.target()
    }

    /// How it is connected to.
    pub fn info(&self) -> &ConnInfo {
        &self.info
    }

    /// Asks the server to cancel what a connection is executing. Racy by nature: the statement may end first.
    pub async fn cancel(&self, token: &CancelToken) -> Result<(), ConnectError> {
        cancel::cancel(&self.info, token).await
    }
}

/// Hosts tried in any order before giving up, where those in order lead to an old primary: with two of them one is missed in a thousand.
const SHUFFLES: usize = 10;

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pool(
    info: &ConnInfo,
    config: Config,
    size: usize,
    newest: &Arc<timeline::Newest>,
) -> Result<Pool, ConnectError> {
    let tls = tls::connector(&info.tls)?;
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    Pool::builder(Manager::from_config(config, tls, recycling))
        .max_size(size)
        .runtime(deadpool_postgres::Runtime::Tokio1)
        .wait_timeout(Some(CONNECT_TIMEOUT))
        .create_timeout(Some(CONNECT_TIMEOUT))
        .post_create(no_older_than(newest.clone()))
        .build()
        .map_err(|error| ConnectError::Tls(error.to_string()))
}

/// Refuses a primary that another one has replaced: what is written there is lost.
fn no_older_than(newest: Arc<timeline::Newest>) -> Hook {
    Hook::async_fn(move |client, _| {
        let newest = newest.clone();
        Box::pin(async move {
            // Outside of the pool's own time for making a connection. Nothing is under way on it yet.
            let asked = tokio::select! {
                asked = timeline::of(client) => asked,
                () = tokio::time::sleep(ANSWER_MAX) => {
                    return Err(HookError::message(SILENT));
                }
            };
            let Some(found) = asked else { return Ok(()) };
            match newest.supersedes(found) {
                None => Ok(()),
                Some(newer) => Err(HookError::message(format!(
                    "an old primary has come back (timeline {found}; the one that took its place writes {newer}); take it out of the URL, \
                     or start anew if this is a server of its own"
                ))),
            }
        })
    })
}

/// Ends a failed transaction, or throws the connection away when even that fails, so that no later user of the pool
/// inherits an open transaction.
pub async fn roll_back(connection: Object) {
    if connection.batch_execute("ROLLBACK").await.is_err() {
        drop(Object::take(connection));
    }
}
