//! The questions behind the signals: one function a signal, each a bounded query that needs no privilege where the view allows.
//!
//! Our own backends are known by the lock that every chunk holds, which also tells them behind a pooler; what else is ours names itself
//! `backfill`.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};

use super::grade::Grade;
use super::health::Measure;
use super::sampler::{Memory, Subject};
use crate::db;
use crate::event::{bytes, duration};

/// A transaction of its own around each question, so that one that fails or takes too long spoils no other, and so that a pooler may
/// stand in between.
pub(super) async fn ask(
    client: &Client,
    sql: &str,
    params: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<Row>, Error> {
    db::ask_apart(client, &db::begin_own(BOUNDED), sql, params).await
}

/// A signal that is slow to read is one that cannot be read.
const BOUNDED: &str = "SET LOCAL transaction_read_only = on; SET LOCAL statement_timeout = '1s'; SET LOCAL lock_timeout = '1s'; ";

/// What is ours: a condition on `pid`, for parameters from `$1`: class and number of the chunks' lock.
const OURS: &str = "select pid from pg_catalog.pg_locks
     where locktype = 'advisory' and granted and objsubid = 2
       and database = (select oid from pg_catalog.pg_database where datname = current_database())
       and classid::bigint = ($1::bigint & 4294967295) and objid::bigint = $2::bigint";

fn lock(subject: &Subject) -> (i64, i64) {
    (i64::from(subject.chunk_lock.class), i64::from(subject.chunk_lock.object))
}

/// Lag in bytes and in seconds of the slowest replica. Those seen once are expected from then on: one that is gone is not one that has
/// caught up. Backups and the first copy of a subscriber's tables come and go, and are no replicas.
pub(super) async fn replicas(
    client: &Client,
    memory: &mut Memory,
) -> Result<(Measure, Measure), Error> {
    let sql = "select coalesce(nullif(application_name, ''), 'walreceiver') || coalesce(' at ' || host(client_addr), ''),
                      state is null and replay_lsn is null and sent_lsn is null,
                      pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), replay_lsn)::float8,
                      extract(epoch from replay_lag)::float8
                 from pg_catalog.pg_stat_replication
                where state is distinct from 'backup'
                  and application_name !~ '^(pg_basebackup$|pg_[0-9]+_sync_)'";
    let rows = ask(client, sql, &[]).await?;
    let mut seen = Vec::new();
    let mut worst: Option<(f64, String)> = None;
    let mut slowest: Option<(f64, String)> = None;
    for row in &rows {
        let name: String = row.get(0);
        if row.get(1) {
            return Ok((Measure::Blind, Measure::Blind));
        }
        let behind: Option<f64> = row.get(2);
        let seconds: Option<f64> = row.get(3);
        // A replica that is still connecting has replayed nothing yet.
        let behind = behind.unwrap_or(0.0);
        if worst.as_ref().is_none_or(|(most, _)| behind > *most) {
            worst = Some((
                behind,
                format!("replica `{name}` {} behind", bytes(behind.max(0.0) as u64)),
            ));
        }
        // An idle replica goes on showing its last delay.
        let seconds = seconds.filter(|_| behind >= 1e6).unwrap_or(0.0);
        if slowest.as_ref().is_none_or(|(most, _)| seconds > *most) {
            let time = duration(std::time::Duration::from_secs_f64(seconds.clamp(0.0, 1e9)));
            slowest = Some((seconds, format!("replica `{name}` {time} behind")));
        }
        seen.push(name);
    }
    if let Some(gone) = memory.replicas.iter().find(|known| !seen.contains(known)) {
        let unknown = Measure::Unknown(format!("replica `{gone}` is gone"));
        return Ok((unknown.clone(), unknown));
    }
    memory.replicas = seen;
    let measure = |found: Option<(f64, String)>| {
        let (value, words) = found.unwrap_or((0.0, "no replica".to_owned()));
        Measure::value(value, words)
    };
    Ok((measure(worst), measure(slowest)))
}

/// WAL that slots keep more than at the start, and slots about to be lost.
pub(super) async fn slots(client: &Client, memory: &mut Memory) -> Result<Measure, Error> {
    let sql = "select slot_name::text, wal_status, safe_wal_size::float8,
                      pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)::float8,
                      case when current_setting('max_slot_wal_keep_size') = '-1' then null
                           else pg_catalog.pg_size_bytes(current_setting('max_slot_wal_keep_size')) end::float8
                 from pg_catalog.pg_replication_slots where not temporary";
    let mut worst = (0.0, Grade::Proceed, "no slot keeps WAL".to_owned());
    for row in ask(client, sql, &[]).await? {
        let name: String = row.get(0);
        let status: Option<String> = row.get(1);
        let (safe, keep): (Option<f64>, Option<f64>) = (row.get(2), row.get(4));
        let retained = row.get::<_, Option<f64>>(3).unwrap_or(0.0);
        let before = *memory.slots.entry(name.clone()).or_insert(retained);
        let grown = (retained - before).max(0.0);
        // Invalidating somebody's slot cannot be mended, so there must be room for what is under way.
        let is_short = safe.zip(keep).is_some_and(|(safe, keep)| safe < (keep / 4.0).min(2e9));
        let floor = match status.as_deref() {
            // What was lost before the run began is not lost by it.
            Some("lost") if memory.lost_slots.contains(&name) => Grade::Proceed,
            Some("unreserved" | "lost") => Grade::Hold,
            _ if is_short => Grade::Hold,
            Some("extended") if grown > 0.0 => Grade::Hot,
            _ => Grade::Proceed,
        };
        if (floor, grown) > (worst.1, worst.0) {
            let status = status.map(|status| format!(", {status}")).unwrap_or_default();
            let words = format!("slot `{name}` keeps {} of WAL{status}", bytes(retained as u64));
            worst = (grown, floor, words);
        }
    }
    let (value, floor, words) = worst;
    Ok(Measure::Value { value, floor, words })
}

/// Slots that were lost already; asked once, at the start.
pub(super) async fn lost_slots(client: &Client) -> Result<Vec<String>, Error> {
    let sql =
        "select slot_name::text from pg_catalog.pg_replication_slots where wal_status = 'lost'";
    Ok(ask(client, sql, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Segments waiting for the archiver, whatever their size; names of histories and backups do not count.
pub(super) async fn archiver(client: &Client) -> Result<Option<Measure>, Error> {
    let sql = "with s as (select setting::bigint as seg from pg_catalog.pg_settings where name = 'wal_segment_size')
        select case when a.last_archived_wal ~ '^[0-9A-F]{24}$' then
                 (div(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), '0/0'), s.seg)
                  - (('x' || substr(a.last_archived_wal, 9, 8))::bit(32)::bigint * (4294967296 / s.seg)
                   + ('x' || substr(a.last_archived_wal, 17, 8))::bit(32)::bigint))::float8 end,
               a.last_failed_time is not null and (a.last_archived_time is null or a.last_failed_time > a.last_archived_time)
          from pg_catalog.pg_stat_archiver a, s where current_setting('archive_mode') <> 'off'";
    let rows = ask(client, sql, &[]).await?;
    Ok(rows.first().map(|row| {
        let behind: f64 = row.get::<_, Option<f64>>(0).unwrap_or(0.0).max(0.0);
        if row.get(1) {
            return Measure::stated(
                Grade::Hold,
                "archiving WAL fails; it piles up until that is mended",
            );
        }
        // The segment being written is not waiting.
        let waiting = (behind - 1.0).max(0.0);
        Measure::value(waiting, format!("{waiting:.0} WAL segments wait to be archived"))
    }))
}

/// Sessions of others that wait for a lock of ours.
pub(super) async fn blocked(client: &Client, subject: &Subject) -> Result<Measure, Error> {
    let sql = format!(
        "with ours as ({OURS})
         select count(distinct l.pid)::float8 from pg_catalog.pg_locks l
           left join pg_catalog.pg_stat_activity a on a.pid = l.pid
          where not l.granted and l.pid not in (select pid from ours) and a.application_name not like 'backfill%'
            and pg_catalog.pg_blocking_pids(l.pid) && (select array_agg(pid) from ours)"
    );
    let (class, object) = lock(subject);
    let rows = ask(client, &sql, &[(&class, Type::INT8), (&object, Type::INT8)]).await?;
    let waiting: f64 = rows.first().map_or(0.0, |row| row.get(0));
    let verb = if waiting == 1.0 { "session waits" } else { "sessions wait" };
    Ok(Measure::value(waiting, format!("{waiting:.0} {verb} for rows that this run holds")))
}

/// Sessions of others at work, against their usual number; and the oldest transaction that keeps dead rows.
pub(super) async fn activity(
    client: &Client,
    subject: &Subject,
    memory: &mut Memory,
) -> Result<(Measure, Measure), Error> {
    let sql = format!(
        "with ours as ({OURS}), others as (
           select pid, usename, state, xact_start, backend_xmin, backend_xid, query = '<insufficient privilege>' as is_hidden
             from pg_catalog.pg_stat_activity
            where pid <> pg_catalog.pg_backend_pid() and pid not in (select pid from ours)
              and application_name not like 'backfill%' and coalesce(backend_type, 'client backend') = 'client backend'
              and usename is not null)
         select count(*) filter (where state = 'active')::float8, count(*) filter (where is_hidden),
                (select array[extract(epoch from clock_timestamp() - xact_start)::float8, pid::float8] from others
                  where xact_start is not null and (backend_xmin is not null or backend_xid is not null)
                  order by xact_start limit 1),
                (select array[extract(epoch from clock_timestamp() - prepared)::float8] from pg_catalog.pg_prepared_xacts
                  order by prepared limit 1),
                (select max(age)::float8 from (
                   select greatest(pg_catalog.age(xmin), pg_catalog.age(catalog_xmin)) as age from pg_catalog.pg_replication_slots
                   union all select pg_catalog.age(backend_xmin) from pg_catalog.pg_stat_replication) as kept)
           from others"
    );
    let (class, object) = lock(subject);
    let rows = ask(client, &sql, &[(&class, Type::INT8), (&object, Type::INT8)]).await?;
    let Some(row) = rows.first() else { return Ok((Measure::Blind, Measure::Blind)) };
    let oldest: Option<Vec<f64>> = row.get(2);
    let prepared: Option<Vec<f64>> = row.get(3);
    let kept: f64 = row.get::<_, Option<f64>>(4).unwrap_or(0.0);
    if row.get::<_, i64>(1) > 0 {
        return Ok((Measure::Blind, Measure::Blind));
    }
    Ok((memory.sessions(row.get(0)), horizon(oldest.as_deref(), prepared.as_deref(), kept)))
}

/// Ages of transaction ids at which a slot or a standby keeps too much.
const XIDS_WARM: f64 = 1e6;
const XIDS_HOT: f64 = 1e7;

fn horizon(oldest: Option<&[f64]>, prepared: Option<&[f64]>, kept: f64) -> Measure {
    let time = |seconds: f64| duration(std::time::Duration::from_secs_f64(seconds.clamp(0.0, 1e9)));
    let backend = oldest.map(|found| {
        (found[0], format!("backend {:.0} has a transaction open for {}", found[1], time(found[0])))
    });
    let prepared = prepared
        .map(|found| (found[0], format!("a prepared transaction waits for {}", time(found[0]))));
    let worst = [backend, prepared].into_iter().flatten().max_by(|a, b| a.0.total_cmp(&b.0));
    let floor = match kept {
        kept if kept >= XIDS_HOT => Grade::Hot,
        kept if kept >= XIDS_WARM => Grade::Warm,
        _ => Grade::Proceed,
    };
    match worst {
        Some((value, words)) if floor == Grade::Proceed => Measure::value(value, words),
        _ if floor > Grade::Proceed => {
            let words = format!("a slot or standby keeps rows dead for {kept:.0} transactions");
            Measure::Value { value: worst.map_or(0.0, |(value, _)| value), floor, words }
        }
        _ => Measure::value(0.0, "no transaction keeps dead rows"),
    }
}

/// A vacuum at work on the table, and its dead rows.
pub(super) async fn table(client: &Client, subject: &Subject) -> Result<(Measure, Measure), Error> {
    let sql = "with tree as (select $1::oid as relid union select relid::oid from pg_catalog.pg_partition_tree($1::oid::regclass))
        select (select array[l.pid::text, coalesce(a.query, '')]
                  from pg_catalog.pg_locks l left join pg_catalog.pg_stat_activity a on a.pid = l.pid
                 where l.locktype = 'relation' and l.granted and l.mode = 'ShareUpdateExclusiveLock'
                   and l.relation in (select relid from tree)
                   and l.database = (select oid from pg_catalog.pg_database where datname = current_database())
                   and coalesce(a.application_name, '') not like 'backfill%'
                 order by coalesce(a.query, '') like '%to prevent wraparound%' desc limit 1),
               sum(s.n_dead_tup)::float8, sum(s.n_live_tup)::float8
          from pg_catalog.pg_stat_all_tables s where s.relid in (select relid from tree)";
    let rows = ask(client, sql, &[(&subject.table, Type::OID)]).await?;
    let Some(row) = rows.first() else { return Ok((Measure::Blind, Measure::Blind)) };
    let vacuum = match row.get::<_, Option<Vec<String>>>(0).as_deref() {
        Some([pid, query]) if query.contains("to prevent wraparound") => Measure::stated(
            Grade::Hold,
            format!("backend {pid} vacuums the table to prevent wraparound"),
        ),
        Some([pid, _]) => {
            Measure::value(1.0, format!("backend {pid} vacuums or analyses the table"))
        }
        _ => Measure::value(0.0, "no vacuum is at work on the table"),
    };
    let (dead, live): (Option<f64>, Option<f64>) = (row.get(1), row.get(2));
    let (dead, live) = (dead.unwrap_or(0.0), live.unwrap_or(0.0));
    let counts = if dead >= 0.2 * (dead + live) { dead } else { 0.0 };
    let words = format!("the table has {} dead rows", crate::event::count(dead.max(0.0) as u64));
    Ok((vacuum, Measure::value(counts, words)))
}

/// Checkpoints that came because of WAL, over the last five minutes.
pub(super) async fn checkpoints(client: &Client, memory: &mut Memory) -> Result<Measure, Error> {
    let sql = match memory.version {
        170_000.. => "select num_requested from pg_catalog.pg_stat_checkpointer",
        _ => "select checkpoints_req from pg_catalog.pg_stat_bgwriter",
    };
    let sql = format!(
        "select ({sql}), (redo_lsn - '0/0'::pg_catalog.pg_lsn)::int8,
                pg_catalog.pg_size_bytes(current_setting('max_wal_size'))
           from pg_catalog.pg_control_checkpoint()"
    );
    let rows = ask(client, &sql, &[]).await?;
    let Some(row) = rows.first() else { return Ok(Measure::Unknown("no checkpoint".to_owned())) };
    let recent = memory.checkpoints(row.get(0), row.get(1), row.get(2));
    let plural = if recent == 1.0 { "checkpoint" } else { "checkpoints" };
    let words = format!(
        "{recent:.0} {plural} in 5 minutes came because of WAL; max_wal_size is too small for this rate"
    );
    Ok(Measure::value(recent, words))
}

/// Runs at work on this server, by their locks; at least this one.
pub(super) async fn runs(client: &Client, subject: &Subject) -> Result<(u32, bool), Error> {
    let sql = "select count(distinct (database, objid)) filter (where mode = 'ExclusiveLock' and classid::bigint = ($1::bigint & 4294967295)),
                      count(*) filter (where classid::bigint = ($2::bigint & 4294967295) and (objid::bigint <> ($3::bigint & 4294967295)
                        or database <> (select oid from pg_catalog.pg_database where datname = current_database()))) > 0
                 from pg_catalog.pg_locks
                where locktype = 'advisory' and granted and objsubid = 2";
    let class = i64::from(subject.run_lock.class);
    let (chunks, ours) = lock(subject);
    let params: [(&(dyn ToSql + Sync), Type); 3] =
        [(&class, Type::INT8), (&chunks, Type::INT8), (&ours, Type::INT8)];
    let rows = ask(client, sql, &params).await?;
    let Some(row) = rows.first() else { return Ok((1, false)) };
    Ok((row.get::<_, i64>(0).max(1) as u32, row.get(1)))
}

/// The operator's own number.
pub(super) async fn query(client: &Client, query: &crate::signal::Query) -> Result<Measure, Error> {
    // A column of any numeric type; what is no number is an error, and so unknown.
    let sql = format!("select (\n{}\n)::pg_catalog.float8", query.sql.trim().trim_end_matches(';'));
    let rows = db::ask_apart(client, &format!("BEGIN; {BOUNDED}"), &sql, &[]).await?;
    Ok(match rows.first().and_then(|row| row.get::<_, Option<f64>>(0)) {
        Some(value) => Measure::value(value, format!("{} is {value}", query.name)),
        None => Measure::Unknown(format!("the query `{}` yields no number", query.name)),
    })
}
