//! What makes a plan unsafe, in words and with the command that mends it; and what an operator should know beforehand.

use serde::Serialize;

use super::surroundings::Server;
use super::table::{Index, Table};
use crate::key::{Key, KeyColumn, Spread};
use crate::spec::Spec;
use crate::sql::Ident;

/// The oldest server this program is tested with.
pub const SERVER_MIN: i32 = 130_000;

/// Transaction ids behind which a table's freezing must not fall further: the failsafe vacuum starts at 1.6 thousand million, and
/// the dead versions of a backfill must not delay it.
const FROZEN_AGE_STOP: i64 = 1_200_000_000;

/// The default of `autovacuum_freeze_max_age`: from here on a vacuum against wraparound is due at any moment.
const FROZEN_AGE_WARN: i64 = 200_000_000;

/// Why a plan is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// What is in the way.
    pub what: String,
    /// What would happen otherwise.
    pub why: String,
    /// What to do.
    pub mend: String,
}

impl Refusal {
    /// Puts the three sentences together.
    pub fn new(
        what: impl Into<String>,
        why: impl Into<String>,
        mend: impl Into<String>,
    ) -> Refusal {
        Refusal { what: what.into(), why: why.into(), mend: mend.into() }
    }
}

/// Whether this server can be worked on at all.
pub fn server_refusal(server: &Server) -> Option<Refusal> {
    if server.in_recovery {
        let what = "this server is a read-only standby";
        let mend =
            "connect to the primary (target_session_attrs=read-write picks it from several hosts)";
        return Some(Refusal::new(what, "nothing can be written here", mend));
    }
    if server.read_only_by_default {
        let role = Ident::new(&server.role);
        let what = format!("transactions of role {role} are read-only by default");
        let mend = format!("ALTER ROLE {role} SET default_transaction_read_only = off;");
        return Some(Refusal::new(what, "progress could not be written", mend));
    }
    if server.version_num < SERVER_MIN {
        let what = format!("PostgreSQL {} is too old", server.version);
        return Some(Refusal::new(
            what,
            "this program is tested with 13 and later",
            "upgrade the server",
        ));
    }
    None
}

/// Why this table cannot be backfilled by this role.
pub fn table_refusals(table: &Table, server: &Server, columns: &[String]) -> Vec<Refusal> {
    let name = table.name.plain();
    let quoted = &table.name;
    let role = Ident::new(&server.role);
    let mut refusals = Vec::new();
    if let Some(what) = table.unsuitable() {
        let mend = "name the table that holds the rows";
        refusals.push(Refusal::new(
            format!("{name} is {what}"),
            "its rows cannot be cut into chunks",
            mend,
        ));
        return refusals;
    }
    if !table.may_select {
        let mend = format!("GRANT SELECT ON {quoted} TO {role};");
        refusals.push(Refusal::new(
            format!("role {role} may not read {name}"),
            "chunks are cut by its key",
            mend,
        ));
    }
    for column in columns {
        if table.column(column).is_some_and(|c| !c.may_update) {
            let what = format!("role {role} may not write column `{column}` of {name}");
            let mend = format!("GRANT UPDATE ({}) ON {quoted} TO {role};", Ident::new(column));
            refusals.push(Refusal::new(what, "every chunk would fail", mend));
        }
        if table.column(column).is_some_and(|c| c.is_generated) {
            let what = format!("column `{column}` is generated");
            let mend = "backfill the columns it is computed from";
            refusals.push(Refusal::new(what, "the server computes it and refuses a value", mend));
        }
        if table.column(column).is_some_and(|c| c.is_partition_key) {
            let what = format!("column `{column}` decides which partition a row lives in");
            let why = "an update would delete the row here and insert it there";
            refusals.push(Refusal::new(
                what,
                why,
                "move rows between partitions with the application",
            ));
        }
    }
    if table.row_security {
        let what = format!("row-level security hides rows of {name} from role {role}");
        let mend = format!("run as the table's owner, or: ALTER ROLE {role} BYPASSRLS;");
        refusals.push(Refusal::new(what, "hidden rows would silently stay as they are", mend));
    }
    if table.frozen_age > FROZEN_AGE_STOP {
        let what = format!("{name} is {} transactions behind in freezing", table.frozen_age);
        let mend = format!("VACUUM (FREEZE) {quoted};");
        refusals.push(Refusal::new(what, "its vacuum against wraparound must come first", mend));
    }
    refusals
}

/// The key to cut by: what the spec names, else the primary key.
pub fn choose_key<'t>(table: &'t Table, spec: &Spec) -> Result<(Key, &'t Index), Refusal> {
    let named: Option<Vec<&str>> =
        spec.key.as_ref().map(|key| key.iter().map(|e| e.text.as_str()).collect());
    let fits = |index: &&Index| match &named {
        None => index.is_primary,
        Some(named) => {
            let mut have: Vec<&str> = index.columns.iter().flatten().map(String::as_str).collect();
            let mut want = named.clone();
            have.sort_unstable();
            want.sort_unstable();
            have == want && index.columns.iter().all(Option::is_some)
        }
    };
    let usable = |index: &&Index| index.faults.is_empty();
    if let Some(index) = table.indexes.iter().filter(fits).find(usable) {
        return Ok((key_of(table, index), index));
    }
    let wanted = match &named {
        Some(named) => format!("key ({})", named.join(", ")),
        None => "primary key".to_owned(),
    };
    let near = match table.indexes.iter().find(fits) {
        Some(index) => format!("index {} does not serve: {}", index.name, index.faults.join("; ")),
        None => format!("{} has no such index", table.name.plain()),
    };
    let what = format!("no usable {wanted}: {near}");
    let why = "without a unique index on NOT NULL columns, chunks would skip or repeat rows";
    Err(Refusal::new(what, why, key_advice(table)))
}

fn key_advice(table: &Table) -> String {
    let candidates: Vec<String> = table
        .indexes
        .iter()
        .filter(|index| index.faults.is_empty())
        .map(|index| {
            let names: Vec<String> =
                index.columns.iter().flatten().map(|c| format!("{c:?}")).collect();
            format!("key = [{}]", names.join(", "))
        })
        .collect();
    if !candidates.is_empty() {
        return format!("name one that serves in the spec: {}", candidates.join(" or "));
    }
    let mut advice = format!(
        "ALTER TABLE {} ADD PRIMARY KEY …, or create a unique index on NOT NULL columns and name it in the spec",
        table.name
    );
    let near = table.indexes.iter().filter(|index| !index.faults.is_empty());
    for index in near.take(5) {
        advice.push_str(&format!("\n  {}: {}", index.name, index.faults.join("; ")));
    }
    advice
}

fn key_of(table: &Table, index: &Index) -> Key {
    let columns = index.columns.iter().flatten().filter_map(|name| table.column(name));
    let column = |c: &super::table::Column| KeyColumn {
        name: Ident::new(&c.name),
        type_sql: c.type_sql.clone(),
        type_name: c.type_name.clone(),
        spread: c.hash.clone().map(Spread::Hash),
    };
    Key { columns: columns.map(column).collect() }
}

/// What an operator should know beforehand; none of it stops a run.
pub fn table_warnings(table: &Table) -> Vec<String> {
    let mut warnings = Vec::new();
    if table.frozen_age > FROZEN_AGE_WARN {
        warnings.push(format!(
            "the oldest row of {} is {} transactions old: a vacuum against wraparound is due and will compete",
            table.name.plain(),
            crate::event::count(table.frozen_age.unsigned_abs())
        ));
    }
    warnings
}

/// That updates could be HOT, were there room; `is_plain` when they could and nothing is done about it.
pub fn fill_warning(table: &Table, is_plain: bool) -> Option<String> {
    (is_plain && table.fillfactor == 100).then(|| {
        "fillfactor is 100: on full pages the first update of a page finds no room and is not HOT".to_owned()
    })
}

/// Before-images that a publication would carry along.
pub fn capture_refusal(publications: &[String]) -> Refusal {
    Refusal::new(
        format!("publication {} would carry the before-images", publications.join(", ")),
        "their table is made anew for each run, so no subscriber can have it beforehand, and it would stop applying changes",
        "publish a list of tables instead of all; or give up exact reversal: `[undo]` with `mode = \"none\"`",
    )
}

/// State tables that a publication would carry along.
pub fn publication_refusal(publications: &[String]) -> Refusal {
    Refusal::new(
        format!(
            "publication {} would carry the state tables to its subscribers",
            publications.join(", ")
        ),
        "subscribers that do not have them stop applying changes, the application's included",
        "create them on every subscriber (`backfill doctor --ddl` prints the statements), then add --subscribers-prepared",
    )
}

/// A published table whose updates the server refuses.
pub fn identity_refusal(table: &Table, published: &[String]) -> Option<Refusal> {
    let has_primary = table.indexes.iter().any(|index| index.is_primary);
    let lacks_identity = match table.replica_identity.as_str() {
        "n" => true,
        "d" => !has_primary,
        _ => false,
    };
    (lacks_identity && !published.is_empty()).then(|| {
        Refusal::new(
            format!("{} is published for updates but has no replica identity", table.name.plain()),
            "the server refuses every update of it",
            format!("ALTER TABLE {} REPLICA IDENTITY USING INDEX …;", table.name),
        )
    })
}
