//! What a history is about: a table, what is done to it, and what must be true of its rows whatever happens.

use fastrand::Rng;

/// A kind of key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Key {
    Integer,
    Sparse,
    Uuid,
    Text,
    Composite,
    Mixed,
    Partitioned,
}

/// A kind of backfill.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// Fills where nothing is.
    Fill,
    /// Fills from another table.
    Join,
    /// `n = n + 1`, which tells a row that was lost from one that was done twice.
    Add,
    /// The same, taken back by a rule instead of before-images.
    AddByRule,
    /// The same for rows that are not done, and are done then; the application puts some of them back.
    Settle,
}

/// A table and its backfill.
#[derive(Clone, Debug)]
pub struct History {
    pub key: Key,
    pub work: Work,
    pub rows: u32,
    pub chunk_rows: u32,
    pub workers: u32,
    pub order: &'static str,
    pub is_wide: bool,
    /// One row in so many cannot be written; none when 0.
    pub poison: u32,
    pub is_reversed: bool,
    /// Whether there is a standby to fail over to.
    pub has_standby: bool,
    /// Whether a pooler stands in between.
    pub has_pooler: bool,
    /// Whether the runner's clock can jump.
    pub has_clock: bool,
    /// Whether the table is on a disk that can be full.
    pub is_tight: bool,
}

/// What the machine has for faults that need it.
#[derive(Clone, Copy, Debug)]
pub struct Tools {
    pub pooler: bool,
    pub clock: bool,
    pub disk: bool,
    /// Whether the program can be stopped at a step of its work.
    pub steps: bool,
}

impl Tools {
    /// In words, and whether it is there.
    pub fn each(self) -> [(&'static str, bool); 4] {
        [
            ("steps with names (--profile faults)", self.steps),
            ("PgBouncer", self.pooler),
            ("libfaketime", self.clock),
            ("a filesystem that can be mounted", self.disk),
        ]
    }
}

impl History {
    pub fn new(rng: &mut Rng, tools: Tools) -> History {
        let pick = |rng: &mut Rng, all: &[Key]| all[rng.usize(0..all.len())];
        let key = pick(
            rng,
            &[
                Key::Integer,
                Key::Sparse,
                Key::Uuid,
                Key::Text,
                Key::Composite,
                Key::Mixed,
                Key::Partitioned,
            ],
        );
        let works = [
            Work::Fill,
            Work::Join,
            Work::Add,
            Work::Add,
            Work::AddByRule,
            Work::Settle,
            Work::Settle,
        ];
        let work = works[rng.usize(0..works.len())];
        let orders = ["", "", "order = \"key\"\n", "order = \"striped\"\nstripes = 3\n"];
        let places = ["order = \"physical\"\n", "order = \"physical\"\nstripes = 3\n"];
        let is_safe = matches!(work, Work::Fill | Work::Join | Work::Settle);
        let may_walk = is_safe && key != Key::Partitioned;
        let order = match may_walk && rng.bool() {
            true => places[rng.usize(0..places.len())],
            false => orders[rng.usize(0..orders.len())],
        };
        let (has_standby, pooler) = (rng.u32(0..8) == 0, rng.u32(0..6) == 0);
        let (clock, disk) = (rng.u32(0..4) == 0, rng.u32(0..8) == 0);
        History {
            key,
            work,
            rows: rng.u32(2_000..12_000),
            chunk_rows: rng.u32(20..150),
            workers: rng.u32(1..5),
            order,
            is_wide: rng.u32(0..6) == 0,
            poison: if rng.u32(0..4) == 0 { 997 } else { 0 },
            is_reversed: rng.u32(0..3) > 0,
            has_standby,
            has_pooler: pooler && tools.pooler && !has_standby,
            has_clock: clock && tools.clock,
            is_tight: disk && tools.disk && !has_standby,
        }
    }

    /// In a line.
    pub fn show(&self) -> String {
        let word = |holds: bool, word: &'static str| if holds { word } else { "" };
        let back = word(self.is_reversed, ", and back");
        let poison = word(self.poison > 0, ", some that cannot be written");
        let place = word(self.order.contains("physical"), ", by place");
        let standby = word(self.has_standby, ", with a standby");
        let pooler = word(self.has_pooler, ", through a pooler");
        let clock = word(self.has_clock, ", by a clock that jumps");
        let tight = word(self.is_tight, ", on a small disk");
        format!(
            "{:?} by {:?}, {} rows in chunks of {}, {} workers{place}{poison}{standby}{pooler}{clock}{tight}{back}",
            self.work, self.key, self.rows, self.chunk_rows, self.workers
        )
    }

    pub fn adds(&self) -> bool {
        matches!(self.work, Work::Add | Work::AddByRule | Work::Settle)
    }

    /// The columns of the key with types, and how row `i` gets them.
    fn key_columns(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        match self.key {
            Key::Integer => vec![("id", "bigint", "i")],
            Key::Sparse => vec![("id", "bigint", "(i::bigint - 5000) * 1000003")],
            Key::Uuid => vec![("id", "uuid", "md5(i::text)::uuid")],
            Key::Text => vec![("id", "text", "repeat(chr(97 + i % 26), i % 5) || ' Ä' || i")],
            Key::Composite => vec![("tenant", "int", "i % 7"), ("id", "bigint", "i")],
            Key::Mixed => vec![
                ("day", "date", "date '2026-01-01' + i % 5"),
                ("name", "text", "'n' || i % 3"),
                ("id", "numeric", "i / 10.0"),
            ],
            Key::Partitioned => vec![("part", "int", "i % 4"), ("id", "bigint", "i")],
        }
    }

    /// The statements that make the table. `r` numbers the rows for the application; `fate` is what the application did to one.
    pub fn setup(&self) -> String {
        let columns = self.key_columns();
        let list = |of: fn(&(&'static str, &'static str, &'static str)) -> String| {
            columns.iter().map(of).collect::<Vec<_>>().join(", ")
        };
        let names = list(|(name, _, _)| (*name).to_owned());
        let kinds = list(|(name, kind, _)| format!("{name} {kind} not null"));
        let values = list(|(_, _, value)| (*value).to_owned());
        let by = if self.key == Key::Partitioned { "partition by list (part)" } else { "" };
        let parts = match self.key {
            Key::Partitioned => (0..4)
                .map(|p| format!("create table t_{p} partition of t for values in ({p});"))
                .collect(),
            _ => String::new(),
        };
        let pad = if self.is_wide {
            "(select string_agg(md5((i * n)::text), '') from generate_series(1, 90) n)"
        } else {
            "repeat('x', i % 60)"
        };
        let poisoned = match self.poison {
            0 => "'plain'".to_owned(),
            each => format!("case when i % {each} = 0 then 'poison' else 'plain' end"),
        };
        format!(
            "create table t ({kinds}, r int not null, cat int not null, app int not null default 0, n int not null default 0, v text,
                pad text, fate text not null default 'plain', primary key ({names})) {by}; {parts}
             create index on t (r);
             create table lookup (cat int primary key, val text not null);
             insert into lookup select c, 'v' || c from generate_series(0, 9) c;
             create table ledger (kind text not null, app int not null default 0);
             create function make_row(i int, f text) returns void language sql as
                'insert into t ({names}, r, cat, pad, fate) select {}, i, i % 10, null, f';
             insert into t ({names}, r, cat, pad, fate) select {values}, i, i % 10, {pad}, {poisoned} from generate_series(1, {}) i;
             alter table t add constraint poisoned check (fate <> 'poison' or (n = 0 and v is null));
             analyze t; analyze lookup",
            values.replace('\'', "''"),
            self.rows
        )
    }

    pub fn spec(&self) -> String {
        let rule = match self.work {
            Work::Fill => "[[rule]]\nfill = { v = \"'v' || t.cat\" }\n",
            Work::Join => {
                "from = \"lookup l\"\n[[rule]]\nwhen = \"l.cat = t.cat\"\nfill = { v = \"l.val\" }\n"
            }
            Work::Add => "[[rule]]\nset = { n = \"n + 1\" }\n",
            Work::AddByRule => {
                "[[rule]]\nset = { n = \"n + 1\" }\n[undo]\nmode = \"statement\"\n[[undo.rule]]\nset = { n = \"n - 1\" }\n"
            }
            Work::Settle => {
                "[[rule]]\nwhen = \"v IS DISTINCT FROM 'done'\"\nset = { n = \"n + 1\", v = \"'done'\" }\n"
            }
        };
        format!(
            "table = \"t\"\n{}{rule}[limits]\nworkers = {}\nchunk_rows_max = {}\nquarantine_max = 1000\n\
             [[throttle.window]]\nname = \"night\"\nhours = \"20:00-08:00\"\ntimezone = \"UTC\"\nchunk_time = \"100ms\"\n",
            self.order, self.workers, self.chunk_rows
        )
    }

    /// What nobody may find after the run: a query for each promise that counts the rows that break it.
    pub fn after_run(&self) -> Vec<(&'static str, String)> {
        let mut promises = self.always();
        match self.adds() {
            true => promises.extend([
                (
                    "a row was lost or done twice",
                    "select count(*) from t where fate = 'plain' and n <> 1".to_owned(),
                ),
                (
                    "a new row was done twice",
                    "select count(*) from t where fate = 'new' and n not in (0, 1)".to_owned(),
                ),
                (
                    "what the application wrote is lost",
                    match self.work {
                        Work::Settle => "select count(*) from t where fate = 'owned' and (v, n) not in (('again', 0), ('again', 1), ('done', 1), ('done', 2))",
                        _ => "select count(*) from t where fate = 'owned' and n not in (100, 101)",
                    }
                    .to_owned(),
                ),
            ]),
            false => promises.extend([
                (
                    "a row was lost",
                    "select count(*) from t where fate = 'plain' and v is distinct from 'v' || cat"
                        .to_owned(),
                ),
                (
                    "a row has a wrong value",
                    "select count(*) from t where fate in ('new', 'moved') and v <> 'v' || cat"
                        .to_owned(),
                ),
            ]),
        }
        promises
    }

    /// The same after it was taken back.
    pub fn after_reverse(&self) -> Vec<(&'static str, String)> {
        let mut promises = self.always();
        match self.work {
            Work::Add => promises.extend([
                (
                    "a row was not given back",
                    "select count(*) from t where fate in ('plain', 'new') and n <> 0".to_owned(),
                ),
                (
                    "what the application wrote is lost",
                    "select count(*) from t where fate = 'owned' and n <> 100".to_owned(),
                ),
            ]),
            Work::Settle => promises.extend([
                (
                    "a row was not given back",
                    "select count(*) from t where fate in ('plain', 'new') and (n <> 0 or v is not null)".to_owned(),
                ),
                (
                    "what the application wrote is lost",
                    "select count(*) from t where fate = 'owned' and (v, n) not in (('again', 0), ('again', 1))".to_owned(),
                ),
            ]),
            // A rule cannot tell what it is to leave alone.
            Work::AddByRule => promises.push((
                "a row was not given back",
                "select count(*) from t where fate = 'plain' and n <> 0".to_owned(),
            )),
            _ => promises.push((
                "a row was not given back",
                "select count(*) from t where fate in ('plain', 'new') and v is not null"
                    .to_owned(),
            )),
        }
        promises
    }

    /// What holds at any time.
    fn always(&self) -> Vec<(&'static str, String)> {
        let lost = "select abs((select count(*) from t) - %rows% - (select count(*) from ledger where kind = 'insert')
                               + (select count(*) from ledger where kind = 'delete'))";
        let writes = "select abs((select sum(app) from t) - (select count(*) from ledger where kind = 'touch')
                                 + (select coalesce(sum(app), 0) from ledger where kind = 'delete'))";
        let mut promises = vec![
            ("rows are lost or too many", lost.replace("%rows%", &self.rows.to_string())),
            ("writes of the application are lost", writes.to_owned()),
            (
                "a row that cannot be written was written",
                "select count(*) from t where fate = 'poison' and (n <> 0 or v is not null)"
                    .to_owned(),
            ),
        ];
        if !self.adds() {
            promises.push((
                "what the application wrote is lost",
                "select count(*) from t where fate = 'owned' and v <> 'app'".to_owned(),
            ));
        }
        promises
    }
}
