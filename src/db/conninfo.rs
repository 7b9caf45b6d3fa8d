//! Connection settings by libpq's rules, in front of a driver that knows only part of them.
//!
//! A URL or `key=value` string (from `--url`, `DATABASE_URL` or `backfill.toml`) is taken apart, filled up from the service file,
//! the `PG*` variables, the password file and the defaults, and the rest handed to the driver. `verify-ca`,
//! `verify-full`, `sslrootcert` and friends, which the driver refuses, are kept for [`super::tls`]. The password is in the
//! driver's configuration only; nothing here displays it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, Host, SslMode, TargetSessionAttrs};

use super::passfile::{self, Target};
use super::tls::{TlsSettings, Verify};

/// Where settings come from; the process environment in production, a table in tests.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What is wrong with the connection settings.
#[derive(Debug, thiserror::Error)]
pub enum ConnInfoError {
    /// The string is neither a URL nor `key=value` pairs.
    #[error("the connection string cannot be read: {0}")]
    Syntax(String),
    /// A setting has a value that means nothing.
    #[error("connection setting `{key}` cannot be `{value}`: {why}")]
    Value {
        /// The setting.
        key: String,
        /// What it was.
        value: String,
        /// What it may be.
        why: String,
    },
    /// A service was named that no service file describes.
    #[error("service `{0}` is in no service file")]
    UnknownService(String),
    /// The password file is readable by others.
    #[error("password file `{0}` can be read by others")]
    PassfileOpen(String),
}

/// Settings of one connection.
#[derive(Clone)]
pub struct ConnInfo {
    /// What the driver needs.
    pub config: Config,
    /// What the TLS layer needs.
    pub tls: TlsSettings,
}

/// libpq's variables and the settings they stand for.
const VARIABLES: [(&str, &str); 16] = [
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGDATABASE", "dbname"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGPASSFILE", "passfile"),
    ("PGSERVICE", "service"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGOPTIONS", "options"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
];

impl ConnInfo {
    /// Resolves the settings. `explicit` is `--url` or `DATABASE_URL`: its parts win over `PG*`. `project` is the URL of
    /// `backfill.toml`: used only when there is no explicit one, and `PG*` win over its parts.
    pub fn resolve(
        explicit: Option<&str>,
        project: Option<&str>,
        env: Environment<'_>,
    ) -> Result<ConnInfo, ConnInfoError> {
        let mut settings = BTreeMap::new();
        if let (None, Some(url)) = (explicit, project) {
            settings.extend(parse(url)?);
        }
        let set = VARIABLES.iter().filter_map(|(name, key)| Some((*key, env(name)?)));
        settings.extend(set.filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.to_owned(), v)));
        if let Some(url) = explicit {
            settings.extend(parse(url)?);
        }
        if let Some(name) = settings.get("service").cloned() {
            let described = find_service(&name, env).ok_or(ConnInfoError::UnknownService(name))?;
            for (key, value) in described {
                settings.entry(key).or_insert(value);
            }
        }
        build(settings, env)
    }

    /// `user@host:port/database`, for messages.
    pub fn target(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => "localhost".to_owned(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        let user = self.config.get_user().unwrap_or("?");
        format!("{user}@{host}:{port}/{}", self.config.get_dbname().unwrap_or(user))
    }
}

fn find_service(name: &str, env: Environment<'_>) -> Option<BTreeMap<String, String>> {
    let home = env("HOME").map(|home| PathBuf::from(home).join(".pg_service.conf"));
    let user = env("PGSERVICEFILE").map(PathBuf::from).or(home);
    let system = env("PGSYSCONFDIR").map(|dir| PathBuf::from(dir).join("pg_service.conf"));
    let files = user.into_iter().chain(system);
    files.into_iter().find_map(|file| passfile::service(&file, name))
}

/// Takes a URL or `key=value` string apart.
fn parse(text: &str) -> Result<BTreeMap<String, String>, ConnInfoError> {
    let url = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
    match url {
        Some(rest) => parse_url(rest),
        // It may hold a password, so nothing of it is shown.
        None if text.contains("://") => {
            Err(ConnInfoError::Syntax("a URL begins with postgres:// or postgresql://".to_owned()))
        }
        None => parse_pairs(text),
    }
}

const ESCAPES: &str = "in a password, `/`, `@`, `:` and `?` are written %2F, %40, %3A and %3F";

fn parse_url(rest: &str) -> Result<BTreeMap<String, String>, ConnInfoError> {
    let decode = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8();
        decoded
            .map(String::from)
            .map_err(|_| ConnInfoError::Syntax("bad percent escape".to_owned()))
    };
    let mut settings = BTreeMap::new();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (userinfo, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    for (key, value) in [("user", user), ("password", password), ("dbname", database)] {
        if !value.is_empty() {
            settings.insert(key.to_owned(), decode(value)?);
        }
    }
    let mut names = Vec::new();
    let mut ports = Vec::new();
    for host in hosts.split(',').filter(|host| !host.is_empty()) {
        let split_at = host.rfind(':').filter(|at| !host[*at..].contains(']'));
        let (name, port) = split_at.map_or((host, ""), |at| (&host[..at], &host[at + 1..]));
        names.push(decode(name.trim_matches(['[', ']']))?);
        ports.push(port.to_owned());
    }
    if names.iter().any(|name| !name.is_empty()) {
        settings.insert("host".to_owned(), names.join(","));
    }
    // A `/` in a password leads here, and a `?` further down: nothing of it is shown.
    if ports.iter().any(|port| !port.chars().all(|c| c.is_ascii_digit())) {
        return Err(ConnInfoError::Syntax(format!(
            "what stands behind the host's `:` is no port; {ESCAPES}"
        )));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        settings.insert("port".to_owned(), ports.join(","));
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            ConnInfoError::Syntax(format!("what stands after `?` is not `key=value`; {ESCAPES}"))
        })?;
        settings.insert(decode(key)?, decode(value)?);
    }
    Ok(settings)
}

fn parse_pairs(text: &str) -> Result<BTreeMap<String, String>, ConnInfoError> {
    let mut settings = BTreeMap::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or_else(|| {
            ConnInfoError::Syntax("expected `postgresql://…` or `key=value` pairs".to_owned())
        })?;
        let (value, after) = take_value(after.trim_start())?;
        settings.insert(key.trim().to_owned(), value);
        rest = after.trim_start();
    }
    Ok(settings)
}

/// One value of a `key=value` string: up to a blank, or in single quotes; a backslash protects the next character.
fn take_value(text: &str) -> Result<(String, &str), ConnInfoError> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    if quoted {
        return Err(ConnInfoError::Syntax("a quoted value never ends".to_owned()));
    }
    Ok((value, ""))
}

fn build(
    mut settings: BTreeMap<String, String>,
    env: Environment<'_>,
) -> Result<ConnInfo, ConnInfoError> {
    let mut take = |key: &str| settings.remove(key).filter(|value| !value.is_empty());
    let mut config = Config::new();
    let user = take("user").or_else(os_user).unwrap_or_else(|| "postgres".to_owned());
    let dbname = take("dbname").unwrap_or_else(|| user.clone());
    let host = take("host").unwrap_or_else(default_host);
    let port = take("port").unwrap_or_else(|| "5432".to_owned());
    set_hosts(&mut config, &host, &port, take("hostaddr").as_deref())?;
    config.user(&user).dbname(&dbname);
    let passfile = take("passfile").map(PathBuf::from);
    let passfile = passfile.or_else(|| env("HOME").map(|home| PathBuf::from(home).join(".pgpass")));
    let first = host.split(',').next().unwrap_or_default();
    let first = if first.starts_with('/') { "localhost" } else { first };
    let first_port = port.split(',').next().unwrap_or_default();
    let target = Target { host: first, port: first_port, database: &dbname, user: &user };
    let password = match (take("password"), passfile) {
        (Some(password), _) => Some(password),
        (None, Some(file)) => passfile::password(&file, &target)?,
        (None, None) => None,
    };
    if let Some(password) = password {
        config.password(password);
    }
    let tls = tls_settings(&mut take, &mut config, &host)?;
    if let Some(options) = take("options") {
        config.options(options);
    }
    apply_misc(&mut take, &mut config)?;
    config.application_name("backfill");
    keep_alive(&mut config);
    for ignored in ["service", "gssencmode", "krbsrvname", "application_name", "pgbouncer"] {
        take(ignored);
    }
    match settings.pop_first() {
        None => Ok(ConnInfo { config, tls }),
        // As above: what is no name of a setting is not shown.
        Some((key, _)) if !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => {
            Err(ConnInfoError::Syntax("neither a URL nor a list of key=value".to_owned()))
        }
        Some((key, value)) => Err(ConnInfoError::Value {
            key,
            value,
            why: "this setting is not supported".to_owned(),
        }),
    }
}

/// A dead network is noticed within about 25 s on both sides.
pub(super) fn keep_alive(config: &mut Config) {
    config
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_secs(20));
}

fn os_user() -> Option<String> {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name)
}

/// The socket directory of Debian and RPM builds when it is there, libpq's own default otherwise.
fn default_host() -> String {
    let sockets = ["/var/run/postgresql", "/tmp"];
    let found =
        sockets.into_iter().find(|dir| std::path::Path::new(dir).join(".s.PGSQL.5432").exists());
    found.unwrap_or("localhost").to_owned()
}

fn set_hosts(
    config: &mut Config,
    hosts: &str,
    ports: &str,
    address: Option<&str>,
) -> Result<(), ConnInfoError> {
    for host in hosts.split(',') {
        config.host(host);
    }
    for port in ports.split(',') {
        let port = if port.is_empty() { "5432" } else { port };
        let number = port.parse().map_err(|_| invalid("port", port, "a number from 1 to 65535"))?;
        config.port(number);
    }
    if let Some(address) = address {
        config
            .hostaddr(address.parse().map_err(|_| invalid("hostaddr", address, "an IP address"))?);
    }
    Ok(())
}

fn tls_settings(
    take: &mut impl FnMut(&str) -> Option<String>,
    config: &mut Config,
    host: &str,
) -> Result<TlsSettings, ConnInfoError> {
    let root_cert = take("sslrootcert");
    let mode = take("sslmode").unwrap_or_else(|| "prefer".to_owned());
    let has_root = root_cert.is_some();
    let (driver, verify) = match mode.as_str() {
        "disable" => (SslMode::Disable, Verify::Nothing),
        "allow" | "prefer" => (SslMode::Prefer, Verify::Nothing),
        "require" if has_root => (SslMode::Require, Verify::Authority),
        "require" => (SslMode::Require, Verify::Nothing),
        "verify-ca" => (SslMode::Require, Verify::Authority),
        "verify-full" => (SslMode::Require, Verify::Full),
        _ => {
            let why = "one of disable, allow, prefer, require, verify-ca, verify-full";
            return Err(invalid("sslmode", &mode, why));
        }
    };
    let is_socket = host.starts_with('/');
    config.ssl_mode(if is_socket { SslMode::Disable } else { driver });
    let client_cert = match (take("sslcert"), take("sslkey")) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => return Err(invalid("sslcert", "", "sslcert and sslkey come together")),
    };
    if let Some(list) = take("sslcrl") {
        return Err(invalid("sslcrl", &list, "revocation lists are not checked; leave it out"));
    }
    let root_cert = root_cert.filter(|path| path != "system");
    Ok(TlsSettings { verify, root_cert, client_cert })
}

fn apply_misc(
    take: &mut impl FnMut(&str) -> Option<String>,
    config: &mut Config,
) -> Result<(), ConnInfoError> {
    let timeout = take("connect_timeout").unwrap_or_else(|| "10".to_owned());
    let seconds = timeout.parse().map_err(|_| invalid("connect_timeout", &timeout, "seconds"))?;
    config.connect_timeout(Duration::from_secs(seconds));
    match take("channel_binding").as_deref() {
        None | Some("prefer") => {}
        Some("disable") => drop(config.channel_binding(ChannelBinding::Disable)),
        Some("require") => drop(config.channel_binding(ChannelBinding::Require)),
        Some(other) => return Err(invalid("channel_binding", other, "disable, prefer, require")),
    }
    match take("target_session_attrs").as_deref() {
        None | Some("any") => {}
        Some("read-write" | "primary") => {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        Some(other) => {
            let why = "a backfill writes: any, read-write or primary";
            return Err(invalid("target_session_attrs", other, why));
        }
    }
    Ok(())
}

fn invalid(key: &str, value: &str, why: &str) -> ConnInfoError {
    ConnInfoError::Value { key: key.to_owned(), value: value.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(explicit: Option<&str>, project: Option<&str>, env: &[(&str, &str)]) -> ConnInfo {
        let lookup = |name: &str| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        ConnInfo::resolve(explicit, project, &lookup).unwrap()
    }

    #[test]
    fn parts_of_an_explicit_url_win_and_variables_fill_the_gaps() {
        let env = [("PGHOST", "elsewhere"), ("PGUSER", "me"), ("PGPASSWORD", "secret")];
        let info = resolve(Some("postgresql://db.example:6000/app"), Some("host=toml"), &env);
        assert_eq!(info.target(), "me@db.example:6000/app");
        assert_eq!(info.config.get_password(), Some(&b"secret"[..]));
    }

    #[test]
    fn variables_win_over_the_project_file() {
        let env = [("PGDATABASE", "prod")];
        let info = resolve(None, Some("host=/sock dbname=dev user='o'"), &[]);
        assert_eq!(info.target(), "o@/sock:5432/dev");
        let info = resolve(None, Some("host=/sock dbname=dev user=x"), &env);
        assert_eq!(info.target(), "x@/sock:5432/prod");
    }

    #[test]
    fn urls_are_decoded_and_tls_modes_understood() {
        let url = "postgres://u%40x:p%2Fw@[::1]:7000,b/d?sslmode=verify-full&sslrootcert=/r.pem";
        let info = resolve(Some(url), None, &[]);
        assert_eq!(info.config.get_user(), Some("u@x"));
        assert_eq!(info.config.get_password(), Some(&b"p/w"[..]));
        assert_eq!(info.config.get_ports(), [7000, 5432]);
        assert_eq!(info.tls.verify, Verify::Full);
        assert_eq!(info.tls.root_cert.as_deref(), Some("/r.pem"));
        assert_eq!(info.config.get_ssl_mode(), SslMode::Require);
    }

    #[test]
    fn unknown_settings_are_refused_by_name() {
        let none = |_: &str| None;
        let error = ConnInfo::resolve(Some("host=x sslmode=maybe"), None, &none).err().unwrap();
        assert!(error.to_string().contains("sslmode"), "{error}");
        let error = ConnInfo::resolve(Some("host=x hots=y"), None, &none).err().unwrap();
        assert!(error.to_string().contains("hots"), "{error}");
        assert!(ConnInfo::resolve(Some("nonsense"), None, &none).is_err());
    }
}
