//! What every command on a project needs: its settings, its database, its state tables, its specs.

use std::path::{Path, PathBuf};

use deadpool_postgres::Object;

use super::Global;
use super::failure::{Failure, Kind};
use super::pace;
use crate::db::{ConnInfo, Database};
use crate::document::nearest;
use crate::settings::{Layer, Limits, Origin, Project};
use crate::signal;
use crate::spec::{Spec, check_name};
use crate::sql::Ident;
use crate::state::{Installed, Run, Store};

/// The project that a command works on.
pub(super) struct Context {
    /// Its directory.
    pub directory: PathBuf,
    /// Its settings.
    pub project: Project,
    /// The way to the server.
    pub database: Database,
    /// The state tables.
    pub store: Store,
    /// Whether JSON goes to standard output.
    pub json: bool,
    /// Whether to say more.
    pub verbose: bool,
}

impl Context {
    /// Reads the settings; connects to nothing yet.
    pub(super) fn open(global: &Global) -> Result<Context, Failure> {
        let project = read_project(&global.project)?;
        let explicit =
            global.url.clone().filter(|url| !url.is_empty()).or_else(|| variable("DATABASE_URL"));
        let info = ConnInfo::resolve(explicit.as_deref(), project.url.as_deref(), &variable)?;
        // Two connections serve every command; a run asks for more when it knows its workers.
        let database = Database::new(info, 4)?;
        let schema = project.state_schema.clone().unwrap_or_else(|| "backfill".to_owned());
        Ok(Context {
            directory: global.project.clone(),
            project,
            database,
            store: Store::new(Ident::new(schema)),
            json: global.json,
            verbose: global.verbose,
        })
    }

    /// A connection.
    pub(super) async fn connect(&self) -> Result<Object, Failure> {
        Ok(self.database.get().await?)
    }

    /// Reads a spec.
    pub(super) fn spec(&self, name: &str) -> Result<Spec, Failure> {
        check_name(name).map_err(Failure::usage)?;
        let path = self.directory.join("backfills").join(format!("{name}.toml"));
        let shown = path.strip_prefix("./").unwrap_or(&path).display().to_string();
        let source = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => self.no_spec(name, &shown),
            _ => Failure::usage(format!("read {shown}: {error}")),
        })?;
        Ok(Spec::parse(name, &shown, &source)?)
    }

    fn no_spec(&self, name: &str, shown: &str) -> Failure {
        let names = self.spec_names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let failure = Failure::usage(format!("there is no spec {shown}"));
        match nearest(name, &names) {
            Some(near) => failure.hint(format!("did you mean `{near}`?")),
            None if names.is_empty() => {
                failure.hint(format!("write it with `backfill new {name}`"))
            }
            None => failure.hint(format!(
                "there are: {}; or write it with `backfill new {name}`",
                names.join(", ")
            )),
        }
    }

    /// The names of all specs, sorted.
    pub(super) fn spec_names(&self) -> Vec<String> {
        let files =
            std::fs::read_dir(self.directory.join("backfills")).into_iter().flatten().flatten();
        let mut names: Vec<String> = files
            .filter_map(|file| file.file_name().to_str()?.strip_suffix(".toml").map(str::to_owned))
            .filter(|name| check_name(name).is_ok())
            .collect();
        names.sort();
        names
    }

    /// The newest run of a name; none when there is none, or no state tables.
    pub(super) async fn newest_run(
        &self,
        client: &Object,
        name: &str,
    ) -> Result<Option<Run>, Failure> {
        check_name(name).map_err(Failure::usage)?;
        if !self.has_tables(client).await? {
            return Ok(None);
        }
        Ok(self.store.newest_run(client, name).await?)
    }

    /// Whether the state tables are there; those of an older version are upgraded first.
    pub(super) async fn has_tables(&self, client: &Object) -> Result<bool, Failure> {
        let installed = self.store.installed(client).await?;
        if let Installed::Older(_) = installed {
            self.store.install(client).await?;
        }
        Ok(installed != Installed::No)
    }

    /// The newest run of a name; without one, a refusal that names the command to start it.
    pub(super) async fn need_run(&self, client: &Object, name: &str) -> Result<Run, Failure> {
        self.newest_run(client, name).await?.ok_or_else(|| {
            Failure::refused(format!("{name} has never been run here"))
                .hint(format!("start it with `backfill run {name}`"))
        })
    }

    /// The limits for a run outside of windows, without what an operator tuned.
    pub(super) fn limits(&self, flags: Layer, spec: &Spec) -> Result<Limits, Failure> {
        let environment = Layer::from_environment(variable).map_err(Failure::usage)?;
        let listens = pace::health(self, spec).has(signal::Kind::Latency);
        let unfelt = if listens { Layer::unfelt() } else { Layer::default() };
        Ok(Limits::resolve(&[
            (Origin::Flag, flags),
            (Origin::Environment, environment),
            (Origin::Spec, spec.limits),
            (Origin::Project, self.project.limits),
            (Origin::Latency, unfelt),
        ]))
    }
}

/// An environment variable that is set to something.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn read_project(directory: &Path) -> Result<Project, Failure> {
    let path = directory.join("backfill.toml");
    let shown = path.strip_prefix("./").unwrap_or(&path).display().to_string();
    match std::fs::read_to_string(&path) {
        Ok(source) => Ok(Project::parse(&shown, &source)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Project::default()),
        Err(error) => Err(Failure::new(Kind::Usage, format!("read {shown}: {error}"))),
    }
}

/// This host's name.
pub(super) fn host() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "?".to_owned())
}

/// Who we are, for the audit trail: user, host and process.
pub(super) fn who() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
    let user = user.map_or_else(|| "?".to_owned(), |user| user.name);
    format!("{user}@{} (process {})", host(), std::process::id())
}
