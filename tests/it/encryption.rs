//! Every `sslmode`, as libpq understands it, against a server with a certificate of a private authority.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use backfill::server::{Options, Server};

use crate::support::{Ran, Sql, needs, program};

/// A server on loopback whose database `secure` takes encrypted connections only, and `open` plain ones only.
struct Guarded {
    server: Server,
    port: u16,
}

impl Guarded {
    fn start() -> Guarded {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings =
            vec!["listen_addresses=127.0.0.1,127.0.0.2".to_owned(), format!("port={port}")];
        let server =
            Server::start(&Options { settings, no_fsync: true, ..Options::default() }).unwrap();
        Guarded { server, port }
    }

    fn sql(&self) -> Sql {
        let directory = self.server.socket_dir().display();
        Sql::connect(&format!("host={directory} port={} user=postgres dbname=postgres", self.port))
    }

    /// Gives the server a certificate for `localhost` and closes both databases to the other kind of connection.
    fn encrypt(&self) {
        let directory = self.server.socket_dir();
        make_certificates(directory);
        let hba =
            "local all all trust\nhostssl secure all all trust\nhostnossl open all all trust\n";
        std::fs::write(directory.join("data/pg_hba.conf"), hba).unwrap();
        let sql = self.sql();
        for (setting, value) in [("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key")] {
            let value = directory.join(value);
            sql.run(&format!("alter system set {setting} = '{}'", value.display()));
        }
        sql.run("alter system set ssl = on");
        sql.run("select pg_reload_conf()");
        sql.wait_for("the server encrypts", "select current_setting('ssl')::bool");
    }

    fn list(&self, host: &str, database: &str, options: &str) -> Ran {
        self.ask("list", host, database, options)
    }

    fn ask(&self, verb: &str, host: &str, database: &str, options: &str) -> Ran {
        let url = format!("postgresql://postgres@{host}:{}/{database}?{options}", self.port);
        let output = program().args([verb, "--url", &url]).output().unwrap();
        Ran::from(&output)
    }
}

fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Two authorities, and two certificates for `localhost` by the first, one of them expired yesterday.
fn make_certificates(directory: &Path) {
    for authority in ["ca", "other"] {
        openssl(
            directory,
            &format!(
                "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={authority} -keyout {authority}.key -out {authority}.crt"
            ),
        );
    }
    openssl(
        directory,
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
    );
    std::fs::write(directory.join("names"), "subjectAltName=DNS:localhost\n").unwrap();
    for (days, name) in [("2", "server"), ("-1", "expired")] {
        openssl(
            directory,
            &format!(
                "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days {days} -extfile names -out {name}.crt"
            ),
        );
    }
    // The server reads its key as the owner of its own directory.
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(directory).unwrap());
    for file in ["server.key", "server.crt", "expired.crt"] {
        std::os::unix::fs::chown(directory.join(file), Some(owner), None).unwrap();
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(directory.join("server.key"), mode).unwrap();
}

#[test]
fn every_sslmode_does_as_libpq_does() {
    if needs("openssl").is_none() {
        return;
    }
    let guarded = Guarded::start();
    guarded.sql().run("create database secure");
    guarded.sql().run("create database open");

    // A server that cannot encrypt.
    guarded.list("127.0.0.1", "open", "sslmode=prefer").exits(0);
    guarded.list("127.0.0.1", "open", "sslmode=require").exits(1).says("TLS");

    guarded.encrypt();
    let directory = guarded.server.socket_dir().display().to_string();
    let root = |name: &str| format!("sslrootcert={directory}/{name}.crt");
    let (right, wrong) = (root("ca"), root("other"));

    guarded.list("127.0.0.1", "open", "sslmode=disable").exits(0);
    guarded.list("127.0.0.1", "secure", "sslmode=disable").exits(1).says("pg_hba.conf");
    guarded.list("127.0.0.1", "secure", "sslmode=prefer").exits(0);
    guarded.list("127.0.0.1", "secure", "sslmode=require").exits(0);

    // The authority is checked from verify-ca on, and with a root certificate given also for require.
    guarded.list("127.0.0.1", "secure", &format!("sslmode=verify-ca&{right}")).exits(0);
    guarded
        .list("127.0.0.1", "secure", &format!("sslmode=verify-ca&{wrong}"))
        .exits(1)
        .says("certificate");
    guarded
        .list("127.0.0.1", "secure", &format!("sslmode=require&{wrong}"))
        .exits(1)
        .says("certificate");

    // The name is checked by verify-full alone.
    guarded.list("localhost", "secure", &format!("sslmode=verify-full&{right}")).exits(0);
    guarded
        .list("127.0.0.1", "secure", &format!("sslmode=verify-full&{right}"))
        .exits(1)
        .says("certificate");
    guarded
        .list("localhost", "secure", &format!("sslmode=verify-full&{wrong}"))
        .exits(1)
        .says("certificate");

    // What is not checked is said, where it is not this very machine that answers.
    let doctor = |host: &str, database: &str, options: &str| {
        guarded.ask("doctor", host, database, options).exits(0)
    };
    let says = "add sslmode=verify-full";
    doctor("127.0.0.2", "open", "sslmode=disable").prints("is not encrypted").prints(says);
    doctor("127.0.0.2", "secure", "sslmode=require").prints("nobody checks").prints(says);
    doctor("127.0.0.2", "secure", &format!("sslmode=verify-ca&{right}")).prints("any server with");
    let near = doctor("127.0.0.1", "open", "sslmode=disable");
    assert!(!near.stdout.contains("sslmode"), "{}", near.stdout);
    doctor("127.0.0.2", "open", "sslmode=disable&host=127.0.0.1,127.0.0.2")
        .prints("target_session_attrs=read-write");

    // A certificate that is over proves nothing, where one is asked for.
    let expired = format!("{directory}/expired.crt");
    guarded.sql().run(&format!("alter system set ssl_cert_file = '{expired}'"));
    guarded.sql().run("select pg_reload_conf()");
    let shown = format!("select current_setting('ssl_cert_file') = '{expired}'");
    guarded.sql().wait_for("the server has the other certificate", &shown);
    for mode in ["verify-full", "verify-ca"] {
        let ran = guarded.list("localhost", "secure", &format!("sslmode={mode}&{right}"));
        ran.exits(1).says("certificate: Expired");
    }
    guarded.list("localhost", "secure", "sslmode=require").exits(0);
}
