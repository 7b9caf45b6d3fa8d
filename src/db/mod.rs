//! The way to the server: connection settings, TLS, the pool, what every transaction pins, errors by class, locks.
//!
//! Two rules hold for every statement of this program, so that a transaction pooler in front of the server changes
//! nothing: statements are unnamed and typed (`query_typed`, `execute_typed`), and settings are `SET LOCAL` inside an
//! explicit transaction. Only the run's courtesy lock needs a session, and [`lock`] knows what to do without one.

pub mod conninfo;
pub mod error;
mod libpq;
pub mod lock;
pub mod passfile;
pub mod session;
pub mod timeline;
pub mod tls;

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod};
use tokio_postgres::CancelToken;

pub use conninfo::{ConnInfo, ConnInfoError};
pub use error::{Class, classify, message};
pub use session::Session;

/// How long to wait for a connection before saying so.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

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
    /// No connection came free.
    #[error("no connection to {0} within {seconds} s", seconds = CONNECT_TIMEOUT.as_secs())]
    Timeout(String),
}

/// The program's connections to one database.
#[derive(Clone)]
pub struct Database {
    pool: Pool,
    info: ConnInfo,
    newest: Arc<timeline::Newest>,
}

impl Database {
    /// Prepares a pool of at most `size` connections; connects only when one is asked for.
    pub fn new(info: ConnInfo, size: usize) -> Result<Database, ConnectError> {
        Database::knowing(info, size, Arc::default())
    }

    fn knowing(
        info: ConnInfo,
        size: usize,
        newest: Arc<timeline::Newest>,
    ) -> Result<Database, ConnectError> {
        let tls = tls::connector(&info.tls)?;
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(info.config.clone(), tls, recycling);
        let pool = Pool::builder(manager)
            .max_size(size)
            .runtime(deadpool_postgres::Runtime::Tokio1)
            .wait_timeout(Some(CONNECT_TIMEOUT))
            .create_timeout(Some(CONNECT_TIMEOUT))
            .post_create(no_older_than(newest.clone()))
            .build()
            .map_err(|error| ConnectError::Tls(error.to_string()))?;
        Ok(Database { pool, info, newest })
    }

    /// Other connections to the same database, at most `size`, which those of this pool cannot use up.
    pub fn apart(&self, size: usize) -> Result<Database, ConnectError> {
        Database::knowing(self.info.clone(), size, self.newest.clone())
    }

    /// Connections to another database of the same server.
    pub fn elsewhere(&self, database: &str, size: usize) -> Result<Database, ConnectError> {
        let mut info = self.info.clone();
        info.config.dbname(database);
        Database::knowing(info, size, self.newest.clone())
    }

    /// The settings as libpq's variables, for a program of PostgreSQL's own.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        self.info.variables()
    }

    /// Ends all connections that are not lent.
    pub fn close(&self) {
        self.pool.close();
    }

    /// Lends a connection.
    pub async fn get(&self) -> Result<Object, ConnectError> {
        use deadpool_postgres::PoolError;
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(source) => {
                ConnectError::Refused { target: self.info.target(), source }
            }
            PoolError::PostCreateHook(HookError::Message(what)) => {
                ConnectError::Superseded { target: self.info.target(), what: what.into_owned() }
            }
            _ => ConnectError::Timeout(self.info.target()),
        })
    }

    /// Allows at most `size` connections from here on.
    pub fn resize(&self, size: usize) {
        self.pool.resize(size);
    }

    /// Host, port, database and user, for messages; never the password.
    pub fn target(&self) -> String {
        self.info.target()
    }

    /// Asks the server to cancel what a connection is executing. Racy by nature: the statement may end first.
    pub async fn cancel(&self, token: &CancelToken) -> Result<(), ConnectError> {
        let tls = tls::connector(&self.info.tls)?;
        token
            .cancel_query(tls)
            .await
            .map_err(|source| ConnectError::Refused { target: self.info.target(), source })
    }
}

/// Refuses a primary that another one has replaced: what is written there is lost.
fn no_older_than(newest: Arc<timeline::Newest>) -> Hook {
    Hook::async_fn(move |client, _| {
        let newest = newest.clone();
        Box::pin(async move {
            let Some(found) = timeline::of(client).await else { return Ok(()) };
            match newest.supersedes(found) {
                None => Ok(()),
                Some(newer) => Err(HookError::message(format!(
                    "an old primary has come back (timeline {found}; the one that took its place writes {newer})"
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
