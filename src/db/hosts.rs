//! Several hosts, one by one. An old primary that has come back answers as a primary too, and may stand first in the URL; only beside the one
//! that took its place can it be told.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::Config;
use tokio_postgres::config::Host;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::timeline::{self, Newest};
use super::{ConnInfo, tls};

/// How long a host may take. One that does not answer in that time does not hold up every command.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Takes in the timelines of all hosts that are primaries now. A host that cannot be asked is left out.
pub(super) async fn look_at_all(info: &ConnInfo, newest: &Newest) {
    let Ok(tls) = tls::connector(&info.tls) else { return };
    let mut looks = JoinSet::new();
    for config in each(&info.config) {
        let tls = tls.clone();
        looks.spawn(async move {
            tokio::select! {
                found = ask(config, tls) => found,
                () = tokio::time::sleep(ANSWER_MAX) => None,
            }
        });
    }
    while let Some(found) = looks.join_next().await {
        if let Ok(Some(found)) = found {
            newest.supersedes(found);
        }
    }
}

async fn ask(config: Config, tls: MakeRustlsConnect) -> Option<u32> {
    let (client, connection) = config.connect(tls).await.ok()?;
    tokio::spawn(connection);
    timeline::of(&client).await
}

/// The settings of each host by itself.
fn each(config: &Config) -> Vec<Config> {
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
        one.application_name("backfill").connect_timeout(ANSWER_MAX);
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
