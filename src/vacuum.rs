//! Keeps dead row versions down while a run is at work, so that the table ends about as large as it began.
//!
//! Autovacuum starts after a fifth of the table by default, which is a fifth of it in bloat. So the run vacuums its table itself, after each
//! tenth, where its updates are not mostly HOT: HOT updates are pruned by whoever visits the page next. It does not when nothing could be
//! removed, or when another vacuum is at it; it waits for no lock, gives way to whoever waits for one on the table, and leaves the end of
//! the table as it is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use crate::db;
use crate::diagnostic::Diagnostic;
use crate::document::Section;
use crate::sql::{Ident, QualifiedName};

/// After how large a part of the table's rows, by default: heap growth is about this part (measured: 1.10 times at a tenth, 1.20 at a fifth).
const EVERY: f64 = 0.10;

/// The largest part it grows to where vacuums take too long.
const EVERY_MAX: f64 = 0.40;

/// Part of the time that vacuums may take before they become rarer, and below which they become as frequent as they were.
const SHARE: (f64, f64) = (0.15, 0.05);

/// Share of HOT updates from which there is nothing to do: what is left for a vacuum is less than it costs.
pub const MOSTLY_HOT: f64 = 0.5;

/// Rows below which no vacuum is worth its start.
pub const ROWS_MIN: f64 = 10_000.0;

/// Age of a transaction that keeps dead rows, from which a vacuum would remove too little. A minute is long for an application.
const STUCK_S: f64 = 60.0;

/// Transaction ids by which a slot or a standby may keep dead rows.
const STUCK_XIDS: i64 = 1_000_000;

/// `[vacuum]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// After how large a part of the table's rows; none is never.
    pub every: Option<f64>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { every: Some(EVERY) }
    }
}

impl Settings {
    /// Reads `[vacuum]`; none when there is none.
    pub fn read(root: &Section<'_>) -> Option<Settings> {
        root.section("vacuum", |section| {
            let help = "a part of the table, such as \"10%\" (1% to 100%), or \"off\"";
            let every = section.parsed("every", help, parse_every);
            if every.is_none() && !section.has("every") {
                let problem =
                    Diagnostic::new("`every` is missing", section.span(), "nothing is said");
                section.problem(problem.help("add `every = \"10%\"`, or `every = \"off\"`"));
            }
            Some(Settings { every: every? })
        })
    }
}

fn parse_every(text: &str) -> Result<Option<f64>, String> {
    if text == "off" {
        return Ok(None);
    }
    let number = text.strip_suffix('%').map(str::trim).ok_or("no percent sign")?;
    let percent: f64 = number.parse().map_err(|_| format!("`{number}` is no number"))?;
    if !(1.0..=100.0).contains(&percent) {
        return Err("out of range".to_owned());
    }
    Ok(Some(percent / 100.0))
}

/// Counts dead row versions and tells when a vacuum is due. Pure.
#[derive(Clone, Debug)]
pub struct Pressure {
    settings: Settings,
    parts: Vec<Part>,
    patience: f64,
    every: f64,
    /// Rows written in all, of these the HOT ones.
    rows: f64,
    hot: f64,
}

/// What is vacuumed by itself: the table, or a leaf of it.
#[derive(Clone, Debug)]
struct Part {
    /// Rows that it has.
    rows: f64,
    /// Row versions left dead since its last vacuum.
    dead: f64,
}

impl Pressure {
    /// For a table of parts of about so many rows; nothing is due before `patience` of them are written, as long as the share of HOT
    /// updates says nothing yet.
    pub fn new(settings: Settings, parts: &[i64], patience: f64) -> Pressure {
        let every = settings.every.unwrap_or(EVERY);
        let parts = parts.iter().map(|rows| Part { rows: *rows as f64, dead: 0.0 }).collect();
        Pressure { settings, parts, patience, every, rows: 0.0, hot: 0.0 }
    }

    /// Learns from a settled chunk of a part; where nobody counts HOT updates, none is one.
    pub fn observe(&mut self, part: usize, rows: i64, hot: Option<i64>) {
        let hot = hot.unwrap_or(0);
        self.rows += rows as f64;
        self.hot += hot as f64;
        self.put_back(part, rows - hot);
    }

    /// Puts back what [`Pressure::begin`] took: the vacuum did not happen.
    pub fn put_back(&mut self, part: usize, dead: i64) {
        if let Some(part) = self.parts.get_mut(part) {
            part.dead += dead as f64;
        }
    }

    /// The part that a vacuum is due for most, of those that one `may` be tried for.
    pub fn due(&self, may: impl Fn(usize) -> bool) -> Option<usize> {
        let is_told = self.rows >= self.patience && self.hot < self.rows * MOSTLY_HOT;
        if self.settings.every.is_none() || !is_told {
            return None;
        }
        let over = |part: &Part| part.dead / (part.rows * self.every).max(ROWS_MIN);
        let due =
            self.parts.iter().map(over).enumerate().filter(|(i, over)| *over >= 1.0 && may(*i));
        due.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(i, _)| i)
    }

    /// Row versions of a part counted since its last vacuum began; counting starts anew.
    pub fn begin(&mut self, part: usize) -> i64 {
        self.parts.get_mut(part).map_or(0, |part| std::mem::take(&mut part.dead) as i64)
    }

    /// Learns what a vacuum took, of the time since the one before it began.
    pub fn took(&mut self, took: Duration, of: Duration) {
        let share = took.as_secs_f64() / of.as_secs_f64().max(0.001);
        let base = self.settings.every.unwrap_or(EVERY);
        if share > SHARE.0 {
            self.every = (self.every * 1.5).min(EVERY_MAX.max(base));
        } else if share < SHARE.1 {
            self.every = (self.every / 1.5).max(base);
        }
    }
}

/// What came of asking for a vacuum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ran.
    Done,
    /// It would remove too little, or is not wanted, for this reason.
    Held(String),
    /// This role may not; what would change that.
    Forbidden(String),
    /// There is no table any more.
    Gone,
}

/// How to vacuum.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Whether the server pauses on the way, as autovacuum does.
    pub is_gentle: bool,
    /// Whether a transaction pooler stands in between.
    pub is_pooled: bool,
}

/// Vacuums a table once, on a connection that is thrown away afterwards; not begun any more once it `is_unwanted`.
pub async fn vacuum(
    client: &Client,
    (oid, table): (u32, &QualifiedName),
    manner: Manner,
    is_unwanted: &AtomicBool,
) -> Result<Outcome, Error> {
    match look(client, oid, table).await? {
        Outcome::Done => {}
        other => return Ok(other),
    }
    // Behind a pooler a setting would reach another session than the vacuum.
    if !manner.is_pooled {
        client.batch_execute("SET statement_timeout = 0").await?;
        if manner.is_gentle {
            client.batch_execute("SET vacuum_cost_delay = '2ms'").await?;
        }
    }
    // A cancel that came before this statement met another one, or none.
    if is_unwanted.load(Ordering::SeqCst) {
        return Ok(Outcome::Held("it was not wanted any more".to_owned()));
    }
    let sql = format!("VACUUM (SKIP_LOCKED, TRUNCATE false, PARALLEL 0) {table}");
    client.batch_execute(&sql).await.map(|()| Outcome::Done)
}

/// Whether anybody waits for a lock on the table: what autovacuum gives way to, and a vacuum by statement does not.
pub async fn is_in_the_way(client: &Client, oid: u32) -> Result<bool, Error> {
    let sql = "select exists (select from pg_catalog.pg_locks l
        where l.locktype = 'relation' and l.relation = $1 and not l.granted
          and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database()))";
    let rows = db::ask(client, sql, &[(&oid, Type::OID)]).await?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// Whether a vacuum may run and would remove anything.
async fn look(client: &Client, oid: u32, table: &QualifiedName) -> Result<Outcome, Error> {
    // Older servers do not know the privilege; the CASE keeps them from being asked.
    let sql = "select pg_catalog.pg_has_role(c.relowner, 'usage') or r.rolsuper
                or case when v.n >= 170000 then pg_catalog.has_table_privilege(c.oid, 'maintain') else false end
                or (not c.relisshared and pg_catalog.pg_has_role(d.datdba, 'usage')),
                greatest(
                  (select max(extract(epoch from clock_timestamp() - a.xact_start)) from pg_catalog.pg_stat_activity a
                    where a.backend_xmin is not null and a.pid <> pg_catalog.pg_backend_pid() and a.datid = d.oid
                      -- A vacuum's own snapshot keeps nothing.
                      and not exists (select from pg_catalog.pg_stat_progress_vacuum v where v.pid = a.pid)),
                  (select max(extract(epoch from clock_timestamp() - x.prepared)) from pg_catalog.pg_prepared_xacts x
                    where x.database = d.datname))::float8,
                greatest(
                  (select max(pg_catalog.age(s.xmin)) from pg_catalog.pg_replication_slots s),
                  (select max(pg_catalog.age(w.backend_xmin)) from pg_catalog.pg_stat_replication w))::int8,
                (select l.pid from pg_catalog.pg_locks l
                  where l.locktype = 'relation' and l.relation = c.oid and l.database = d.oid and l.granted
                    and l.mode = 'ShareUpdateExclusiveLock' limit 1),
                r.rolname::text, v.n
           from pg_catalog.pg_class c, pg_catalog.pg_database d, pg_catalog.pg_roles r,
                (select current_setting('server_version_num')::int as n) v
          where c.oid = $1 and d.datname = current_database() and r.rolname = current_user";
    let rows = db::ask(client, sql, &[(&oid, Type::OID)]).await?;
    let Some(row) = rows.first() else { return Ok(Outcome::Gone) };
    if !row.get::<_, bool>(0) {
        let role = Ident::new(row.get::<_, String>(4));
        return Ok(Outcome::Forbidden(match row.get::<_, i32>(5) {
            170_000.. => format!("GRANT MAINTAIN ON {table} TO {role};"),
            _ => format!("run as the owner of {table}, or GRANT its owner TO {role};"),
        }));
    }
    let (age, xids, vacuums): (Option<f64>, Option<i64>, Option<i32>) =
        (row.get(1), row.get(2), row.get(3));
    Ok(match (age, xids, vacuums) {
        (_, _, Some(pid)) => Outcome::Held(format!("backend {pid} vacuums or changes the table")),
        (Some(age), _, _) if age > STUCK_S => {
            Outcome::Held(format!("a transaction {age:.0} s old keeps dead rows"))
        }
        (_, Some(xids), _) if xids > STUCK_XIDS => {
            Outcome::Held(format!("a slot or a standby keeps dead rows of {xids} transactions"))
        }
        _ => Outcome::Done,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_after_a_part_of_the_table_that_is_not_hot() {
        let mut pressure = Pressure::new(Settings::default(), &[1_000_000], 0.0);
        pressure.observe(0, 99_999, Some(0));
        assert_eq!(pressure.due(|_| true), None);
        pressure.observe(0, 1, None);
        assert_eq!(pressure.due(|_| true), Some(0));
        assert_eq!(pressure.begin(0), 100_000);
        assert_eq!(pressure.due(|_| true), None);
        let mut hot = Pressure::new(Settings::default(), &[1_000_000], 0.0);
        hot.observe(0, 1_000_000, Some(700_000));
        assert_eq!(hot.due(|_| true), None, "mostly HOT");
        let mut off = Pressure::new(Settings { every: None }, &[1_000_000], 0.0);
        off.observe(0, 1_000_000, None);
        assert_eq!(off.due(|_| true), None);
        let mut small = Pressure::new(Settings::default(), &[20_000], 0.0);
        small.observe(0, 9_999, None);
        assert_eq!(small.due(|_| true), None);
    }

    #[test]
    fn every_leaf_is_counted_by_itself() {
        let mut pressure = Pressure::new(Settings::default(), &[1_000_000, 200_000, 0], 0.0);
        pressure.observe(0, 90_000, None);
        pressure.observe(1, 19_999, None);
        assert_eq!(pressure.due(|_| true), None);
        pressure.observe(1, 1, None);
        assert_eq!(pressure.due(|_| true), Some(1));
        assert_eq!(pressure.begin(1), 20_000);
        assert_eq!(pressure.due(|_| true), None);
        pressure.put_back(1, 20_000);
        assert_eq!(pressure.due(|_| true), Some(1));
        assert_eq!(pressure.due(|part| part != 1), None);
        pressure.put_back(0, 120_000);
        assert_eq!(pressure.due(|_| true), Some(0), "more than twice what makes it due");
    }

    #[test]
    fn it_becomes_rarer_where_it_takes_too_long_and_comes_back() {
        let mut pressure = Pressure::new(Settings::default(), &[1_000_000], 0.0);
        for _ in 0..9 {
            pressure.took(Duration::from_secs(2), Duration::from_secs(10));
        }
        assert_eq!(pressure.every, EVERY_MAX);
        for _ in 0..9 {
            pressure.took(Duration::from_millis(100), Duration::from_secs(10));
        }
        assert_eq!(pressure.every, EVERY);
    }

    #[test]
    fn a_part_has_a_percent_sign() {
        assert_eq!(parse_every("10%"), Ok(Some(0.1)));
        assert_eq!(parse_every("off"), Ok(None));
        for bad in ["10", "0%", "101%", "x%", "-5 %"] {
            assert!(parse_every(bad).is_err(), "{bad}");
        }
    }
}
