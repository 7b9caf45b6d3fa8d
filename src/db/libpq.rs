//! The settings of a connection for PostgreSQL's own programs, such as `pg_dump`.

use tokio_postgres::config::{Host, SslMode};

use super::conninfo::ConnInfo;
use super::tls::Verify;

impl ConnInfo {
    /// The settings as libpq's variables, for a program of PostgreSQL's own: by the environment, which other users cannot read as they
    /// can its arguments.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => "localhost".to_owned(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432).to_string();
        let mode = match (self.config.get_ssl_mode(), self.tls.verify) {
            (SslMode::Disable, _) => "disable",
            (_, Verify::Full) => "verify-full",
            (_, Verify::Authority) => "verify-ca",
            (SslMode::Require, _) => "require",
            _ => "prefer",
        };
        let mut variables =
            vec![("PGHOST", host), ("PGPORT", port), ("PGSSLMODE", mode.to_owned())];
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        variables.extend(self.config.get_user().map(|user| ("PGUSER", user.to_owned())));
        variables.extend(self.config.get_dbname().map(|name| ("PGDATABASE", name.to_owned())));
        variables.extend(self.config.get_password().map(|password| ("PGPASSWORD", text(password))));
        variables.extend(self.tls.root_cert.clone().map(|path| ("PGSSLROOTCERT", path)));
        if let Some((certificate, key)) = self.tls.client_cert.clone() {
            variables.extend([("PGSSLCERT", certificate), ("PGSSLKEY", key)]);
        }
        variables
    }
}
