//! What the demo stands on: the private server, the example's tables and specs, and this program in child processes.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};
use tokio::signal::unix::Signal;
use tokio_postgres::types::{ToSql, Type};

use super::super::failure::{Exit, Failure, Kind, statement};
use super::super::print;
use super::NAME;
use super::example::{MIGRATIONS, SPECS};
use crate::db::{self, Database};
use crate::server::Server;
use crate::sql::Ident;
use crate::state::Store;

/// Rows of the example: about 200 bytes each, ten categories.
pub(super) const LOAD: &str = "insert into public.skills (id, name, description, category)
select i, 'skill ' || i, repeat(md5(i::text), 4),
       (array['development', 'data', 'security', 'documentation', 'operations', 'support', 'design', 'research',
              'sales', 'people'])[1 + i % 10]
  from generate_series($1::bigint, $2::bigint) i";

/// Rows loaded in one statement.
const LOAD_STEP: i64 = 250_000;

/// What the demo works with.
pub(super) struct Stage {
    pub(super) server: Server,
    pub(super) database: Database,
    /// A directory with the example's specs, inside the server's: it goes when that goes.
    pub(super) project: PathBuf,
    pub(super) signals: Signals,
}

/// Ctrl-C and SIGTERM end the demo; the server goes with it.
pub(super) struct Signals {
    pub(super) interrupt: Signal,
    pub(super) terminate: Signal,
}

pub(super) fn write_project(server: &Path) -> Result<PathBuf, Failure> {
    let project = server.join("project");
    let failed = |error: std::io::Error| {
        Failure::new(Kind::Failed, format!("write the example's files: {error}"))
    };
    for (folder, files) in [("backfills", SPECS), ("migrations", MIGRATIONS)] {
        std::fs::create_dir_all(project.join(folder)).map_err(failed)?;
        for (name, text) in files {
            std::fs::write(project.join(folder).join(name), text).map_err(failed)?;
        }
    }
    Ok(project)
}

impl Stage {
    pub(super) async fn load(&mut self, rows: u64) -> Result<(), Failure> {
        let client = self.database.get().await?;
        let categories = "insert into public.categories select c, 'team-' || c from unnest(array['development', 'data', \
            'security', 'documentation', 'operations', 'support', 'design', 'research', 'sales', 'people']) c";
        client.batch_execute(categories).await.map_err(statement("load the categories"))?;
        let rows = rows as i64;
        let mut from = 1;
        while from <= rows {
            let upto = (from + LOAD_STEP - 1).min(rows);
            let range: [(&(dyn ToSql + Sync), Type); 2] =
                [(&from, Type::INT8), (&upto, Type::INT8)];
            let load = db::write_as_is(&client, LOAD, &range);
            tokio::select! {
                loaded = load => drop(loaded.map_err(statement("load rows"))?),
                () = self.signals.any() => return Err(interrupted()),
            }
            from = upto + 1;
        }
        let settle = "vacuum (analyze) public.skills";
        tokio::select! {
            settled = client.batch_execute(settle) => settled.map_err(statement("vacuum the table")),
            () = self.signals.any() => Err(interrupted()),
        }
    }

    /// Runs this program on the stage; its output goes where ours goes.
    pub(super) fn child(&self, arguments: &[&str]) -> Result<Child, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(Kind::Failed, format!("start this program again: {error}"))
        };
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.args(arguments).arg("--project").arg(&self.project).stdin(Stdio::null());
        command.arg("--url").arg(self.server.url("postgres"));
        for variable in ["DATABASE_URL", "PGPASSWORD", "PGSERVICE", "PGOPTIONS", "PGSSLMODE"] {
            command.env_remove(variable);
        }
        command.kill_on_drop(true).spawn().map_err(failed)
    }

    pub(super) async fn call(&mut self, arguments: &[&str]) -> Result<(), Failure> {
        self.call_until(arguments, Exit::Done.code()).await
    }

    /// Runs this program to the end that is expected of it.
    pub(super) async fn call_until(&mut self, arguments: &[&str], end: u8) -> Result<(), Failure> {
        let mut child = self.child(arguments)?;
        tokio::select! {
            exit = child.wait() => match exit {
                Ok(exit) if exit.code() == Some(i32::from(end)) => Ok(()),
                Ok(exit) => Err(Failure::new(Kind::Failed, format!("`backfill {}` ended with {exit}", arguments.join(" ")))),
                Err(error) => Err(Failure::new(Kind::Failed, format!("wait for `backfill {}`: {error}", arguments[0]))),
            },
            () = self.signals.any() => Err(interrupted()),
        }
    }

    pub(super) fn store(&self) -> Store {
        Store::new(Ident::new("backfill"))
    }

    /// Keys and rows done.
    pub(super) async fn keys_done(&self) -> Result<(i64, i64), Failure> {
        let client = self.database.get().await?;
        let store = self.store();
        if store.installed(&client).await? != crate::state::Installed::Yes {
            return Ok((0, 0));
        }
        let Some(run) = store.newest_run(&client, NAME).await? else { return Ok((0, 0)) };
        let sums = store.sums(&client, run.run_id).await?;
        Ok((sums.keys_done, sums.rows_done))
    }

    pub(super) async fn heap(&self) -> Result<u64, Failure> {
        let client = self.database.get().await?;
        let sql = "select pg_catalog.pg_relation_size('public.skills')";
        let rows = db::ask(&client, sql, &[]).await.map_err(statement("measure the table"))?;
        Ok(rows[0].get::<_, i64>(0).unsigned_abs())
    }

    /// A checksum over the rows but some, and over those: the sum of the rows' hashes, so that no order matters.
    pub(super) async fn checksums(&self, apart: &[i64]) -> Result<(String, String), Failure> {
        let client = self.database.get().await?;
        let sql = "select coalesce(sum(hash) filter (where not apart), 0)::text, coalesce(sum(hash) filter (where apart), 0)::text
                     from (select pg_catalog.hashtextextended(s::text, 0)::numeric as hash, id = any ($1) as apart
                             from public.skills s) as hashed";
        let params: [(&(dyn ToSql + Sync), Type); 1] = [(&apart, Type::INT8_ARRAY)];
        let rows = db::ask(&client, sql, &params).await.map_err(statement("make a checksum"))?;
        Ok((rows[0].get(0), rows[0].get(1)))
    }

    /// The application writes to some rows.
    pub(super) async fn write_as_application(&self, rows: &[i64]) -> Result<(), Failure> {
        let client = self.database.get().await?;
        let sql =
            "update public.skills set governance_phases = array['by hand'] where id = any ($1)";
        let params: [(&(dyn ToSql + Sync), Type); 1] = [(&rows, Type::INT8_ARRAY)];
        db::write_as_is(&client, sql, &params)
            .await
            .map(drop)
            .map_err(statement("write as the application"))
    }

    pub(super) fn keep(self) {
        let url = self.server.url("postgres");
        let project = self.project.display().to_string();
        let (_, stop) = self.server.keep();
        print(&format!(
            "\nThe server stays up. Try:\n  export DATABASE_URL='{url}'\n  cd {project}\n  backfill list\n  \
             backfill migrate plan\n  backfill plan double_quota\n  backfill run category_owner\n  backfill log {NAME}\n\
             Stop and remove it with:\n  {stop}"
        ));
    }
}

impl Signals {
    pub(super) async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

pub(super) fn interrupted() -> Failure {
    Failure::new(Kind::Stopped, "interrupted; the private server is stopped and removed")
}
