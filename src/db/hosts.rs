//! Several hosts, one by one. An old primary that has come back answers as a primary too, and may stand first in the URL; only beside the one
//! that took its place can it be told.

use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_postgres::Config;
use tokio_postgres::config::Host;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::conninfo::keep_alive;
use super::error::{message, sqlstate};
use super::timeline::{self, Newest};
use super::{ConnInfo, tls};

/// How long a host may take to take a connection. One that does not even do that is down, or out of reach.
const REACH_MAX: Duration = Duration::from_secs(2);

/// How long one that took the connection may take to answer: as long as any, for a primary that was promoted a moment ago is slow.
const ANSWER_MAX: Duration = super::CONNECT_TIMEOUT;

/// What a host says of itself.
enum Seen {
    /// It is a primary of this timeline; of none where it does not tell, or is a standby.
    Timeline(Option<u32>),
    /// It is not there.
    Down(String),
    /// It is there, and nobody can ask it.
    Closed(String),
}

/// What a look at all hosts has found.
#[derive(Default)]
pub(super) struct Look {
    /// A host that is there and cannot be asked. It might be the newer one, so that nothing may be sent to another: which it is, and why.
    pub(super) closed: Option<String>,
    /// Where others do not answer, the settings of one that does: the newest primary of them.
    pub(super) best: Option<Config>,
}

/// Takes in the timelines of all hosts that are primaries now. A host that is down is left out.
pub(super) async fn look_at_all(info: &ConnInfo, newest: &Newest) -> Look {
    let mut look = Look::default();
    let Ok(tls) = tls::connector(&info.tls) else { return look };
    let mut looks = JoinSet::new();
    for config in each(&info.config) {
        let tls = tls.clone();
        looks.spawn(async move { (ask(&config, tls).await, config) });
    }
    let (mut answered, mut is_any_missing) = (Vec::new(), false);
    while let Some(looked) = looks.join_next().await {
        match looked {
            Ok((Seen::Timeline(found), config)) => {
                found.map(|found| newest.supersedes(found));
                answered.push((found, config));
            }
            Ok((Seen::Down(why), config)) => {
                tracing::info!("{} is left out: {why}", shown(&config));
                is_any_missing = true;
            }
            Ok((Seen::Closed(why), config)) => {
                look.closed = Some(format!("{}: {why}", shown(&config)));
            }
            Err(_) => {}
        }
    }
    if is_any_missing {
        // Asked whatever it is; used only for what the URL asks for.
        let best = answered.into_iter().max_by_key(|(found, _)| *found);
        look.best = best.map(|(_, mut config)| {
            config.target_session_attrs(info.config.get_target_session_attrs());
            config
        });
    }
    look
}

async fn ask(config: &Config, tls: MakeRustlsConnect) -> Seen {
    let reached = tokio::select! {
        dialled = dial(config) => dialled.map(drop).map_err(|error| error.to_string()),
        () = tokio::time::sleep(REACH_MAX) => Err("it takes no connection".to_owned()),
    };
    if let Err(why) = reached {
        return Seen::Down(why);
    }
    let asked = async {
        let (client, connection) = config.connect(tls).await?;
        tokio::spawn(connection);
        Ok::<_, tokio_postgres::Error>(timeline::of(&client).await)
    };
    let asked = tokio::select! {
        asked = asked => asked,
        () = tokio::time::sleep(ANSWER_MAX) => {
            tracing::warn!("{} takes connections and does not answer; better take it out of the URL", shown(config));
            return Seen::Down("it does not answer".to_owned());
        }
    };
    match asked {
        Ok(timeline) => Seen::Timeline(timeline),
        // It is starting or shutting down; a primary at work is neither.
        Err(error) if sqlstate(&error) == Some("57P03") => Seen::Down(message(&error)),
        // What hangs up is a proxy with nobody behind it; a server says why, or cannot agree on encryption.
        Err(error) if error.as_db_error().is_none() && !is_about_tls(&error) => {
            Seen::Down(message(&error))
        }
        Err(error) => Seen::Closed(message(&error)),
    }
}

/// The driver has no other sign of it than its words.
fn is_about_tls(error: &tokio_postgres::Error) -> bool {
    error.to_string().contains("TLS")
}

/// A connection that nothing has been said on yet.
pub(super) enum Dialled {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Dials the host of settings that have one.
pub(super) async fn dial(config: &Config) -> std::io::Result<Dialled> {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match (config.get_hosts().first(), config.get_hostaddrs().first()) {
        (Some(Host::Unix(path)), _) => {
            let stream = UnixStream::connect(path.join(format!(".s.PGSQL.{port}"))).await;
            stream.map(Dialled::Unix)
        }
        (_, Some(address)) => TcpStream::connect((*address, port)).await.map(Dialled::Tcp),
        (Some(Host::Tcp(name)), None) => {
            TcpStream::connect((name.as_str(), port)).await.map(Dialled::Tcp)
        }
        (None, None) => Err(std::io::ErrorKind::NotFound.into()),
    }
}

/// A host and its port, for people.
fn shown(config: &Config) -> String {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match config.get_hosts().first() {
        Some(Host::Tcp(name)) => format!("{name}:{port}"),
        Some(Host::Unix(path)) => format!("{}:{port}", path.display()),
        None => format!("?:{port}"),
    }
}

/// The settings of each host by itself.
pub(super) fn each(config: &Config) -> Vec<Config> {
    let (ports, addresses) = (config.get_ports(), config.get_hostaddrs());
    let one = |(i, host): (usize, &Host)| {
        let mut one = Config::new();
        match host {
            Host::Tcp(name) => one.host(name),
            Host::Unix(path) => one.host_path(path),
        };
        // One port serves all hosts.
        one.port(ports.get(i).or(ports.first()).copied().unwrap_or(5432));
        if let Some(address) = addresses.get(i) {
            one.hostaddr(*address);
        }
        if let Some(user) = config.get_user() {
            one.user(user);
        }
        if let Some(password) = config.get_password() {
            one.password(password);
        }
        if let Some(database) = config.get_dbname() {
            one.dbname(database);
        }
        if let Some(options) = config.get_options() {
            one.options(options);
        }
        one.ssl_mode(config.get_ssl_mode()).channel_binding(config.get_channel_binding());
        one.application_name("backfill");
        if let Some(timeout) = config.get_connect_timeout() {
            one.connect_timeout(*timeout);
        }
        keep_alive(&mut one);
        one
    };
    config.get_hosts().iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_has_its_port() {
        let shown = |url: &str| {
            let info = ConnInfo::resolve(Some(url), None, &|_| None).unwrap();
            let one = |config: &Config| match &config.get_hosts()[0] {
                Host::Tcp(name) => format!("{name}:{}", config.get_ports()[0]),
                Host::Unix(path) => format!("{}:{}", path.display(), config.get_ports()[0]),
            };
            let all = each(&info.config);
            assert!(all.iter().all(|c| c.get_user() == Some("me") && c.get_hosts().len() == 1));
            all.iter().map(one).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown("postgresql://me@a:1,b:2/d"), "a:1 b:2");
        assert_eq!(shown("host=a,/tmp port=7 user=me"), "a:7 /tmp:7");
    }
}
