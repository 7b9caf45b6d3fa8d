//! What paces a run of a spec: its windows and signals, or the project's; and which signals this role cannot see.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Object;

use super::PaceFlags;
use super::context::Context;
use super::failure::{Failure, statement};
use crate::calendar::Calendar;
use crate::db;
use crate::plan::Plan;
use crate::report::Ahead;
use crate::settings::Layer;
use crate::signal::{Kind, Settings};
use crate::spec::Spec;
use crate::sql::Ident;
use crate::state::Run;
use crate::throttle::latency::KNOWN_WITHIN;
use crate::throttle::sampler::{self, Looks, Subject};
use crate::vacuum;

/// How long a run waits for the first look at the signals before its first chunk.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// Signals that need `pg_monitor`, or `pg_read_all_stats`, to be seen of other roles.
const PRIVILEGED: [Kind; 4] = [Kind::ReplicaLag, Kind::ReplicaDelay, Kind::Sessions, Kind::Horizon];

/// The windows: the spec's, or else the project's.
pub(super) fn calendar(ctx: &Context, spec: &Spec) -> Arc<Calendar> {
    let found = spec.calendar.clone().or_else(|| ctx.project.calendar.clone());
    Arc::new(found.unwrap_or_default())
}

/// The signals: the spec's `[health]`, or else the project's, or else the defaults.
pub(super) fn health(ctx: &Context, spec: &Spec) -> Settings {
    let found = spec.health.clone().or_else(|| ctx.project.health.clone());
    found.unwrap_or_default()
}

/// When to vacuum: the spec's `[vacuum]`, or else the project's, or else the default.
pub(super) fn vacuum(ctx: &Context, spec: &Spec) -> vacuum::Settings {
    spec.vacuum.or(ctx.project.vacuum).unwrap_or_default()
}

/// The signals at work that this role cannot see.
pub(super) async fn blind(client: &Object, settings: &Settings) -> Result<Vec<Kind>, Failure> {
    let wanted: Vec<Kind> = PRIVILEGED.into_iter().filter(|kind| settings.has(*kind)).collect();
    if wanted.is_empty() {
        return Ok(wanted);
    }
    let sql = "select pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'usage')";
    let rows = db::ask(client, sql, &[]).await.map_err(statement("look up privileges"))?;
    let may_see = rows.first().is_some_and(|row| row.get(0));
    Ok(if may_see { Vec::new() } else { wanted })
}

/// The names of signals as a list.
pub(super) fn names(kinds: &[Kind]) -> String {
    kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ")
}

/// The statement that lets a role see.
pub(super) fn mend(role: &str) -> String {
    format!("GRANT pg_monitor TO {};", Ident::new(role))
}

/// Refuses a run that would throttle itself by signals it cannot see, unless it was told to.
pub(super) async fn check_blind(
    ctx: &Context,
    client: &Object,
    spec: &Spec,
    plan: &Plan,
    flags: PaceFlags,
) -> Result<(), Failure> {
    let settings = health(ctx, spec);
    if flags.accept_blind || settings.accepts_blind {
        return Ok(());
    }
    let unseen = blind(client, &settings).await?;
    if unseen.is_empty() {
        return Ok(());
    }
    let message = format!(
        "role {} cannot see the health signals {}",
        Ident::new(&plan.server.role),
        names(&unseen)
    );
    Err(Failure::refused(message).hint(format!(
        "{}  -- by an administrator; or run without them: --accept-blind, or `accept_blind = true` in [health]",
        mend(&plan.server.role)
    )))
}

/// Begins to look at the signals, and waits for the first look.
pub(super) async fn look(
    ctx: &Context,
    settings: &Settings,
    plan: &Plan,
    run: &Run,
) -> Result<Looks, Failure> {
    let subject = Subject {
        table: plan.table.oid,
        run_lock: ctx.store.run_lock(run.run_id),
        chunk_lock: ctx.store.chunk_lock(run.run_id),
        version: plan.server.version_num,
    };
    let listens = settings.has(Kind::Latency);
    let database = ctx.database.apart(1 + usize::from(listens))?;
    let within = FIRST_LOOK + if listens { KNOWN_WITHIN } else { Duration::ZERO };
    let mut looks = sampler::start(database, subject, settings.clone());
    tokio::select! {
        _ = looks.newest.wait_for(Option::is_some) => {}
        () = tokio::time::sleep(within) => {}
    }
    // Whether it has changed is what the run asks first.
    looks.newest.mark_changed();
    Ok(looks)
}

impl Ahead for Context {
    fn of(&self, name: &str) -> (Arc<Calendar>, Option<u32>) {
        let Ok(spec) = self.spec(name) else {
            return (Arc::new(self.project.calendar.clone().unwrap_or_default()), None);
        };
        let workers = self.limits(Layer::default(), &spec).ok().map(|limits| limits.workers.value);
        (calendar(self, &spec), workers)
    }

    fn retention(&self) -> Duration {
        self.project.retention()
    }
}
