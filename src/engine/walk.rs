//! What is special about a table that is gone through by place: its chunks are cut by pages, and behind them comes the sweep.
//!
//! The sweep begins when no chunk of the walk is left to do, with one look at the whole table for the rows that are: usually the few that
//! somebody moved meanwhile, whose keys its chunks then list. The look is the only statement of a run that holds a snapshot for as long as
//! the table takes to be read once.
//!
//! A table without a key is walked in rounds: the look tells whether there is another one.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::worker::Note;
use super::{Fault, Setback, Work};
use crate::db::session::Bounds;
use crate::db::{self, Class, roll_back};
use crate::key::{Bound, KeyRange, Place};
use crate::plan::rehearse::typed;
use crate::plan::{ChunkSql, place};
use crate::state::{Chunk, Cut, StoreError};

/// How long the look may take: a table of a hundred gigabytes is read in half of it. One that takes longer is swept key by key instead, in
/// chunks that hold no snapshot.
const LOOK_MAX: Duration = Duration::from_secs(600);

/// The same where the table is walked in rounds, for only a look tells that it is done.
const LOOK_IN_ROUNDS: Duration = Duration::from_secs(12 * 3600);

/// Keys that are listed, at most: some ten megabytes of them. With more, looking at every key costs about as much.
const LISTED_MAX: i64 = 200_000;

/// Keys that one chunk lists. At most as many look-ups as take a fraction of a second from a cold disk; and so many that under the slowest of
/// rates all of them are some thousands of chunks.
const LISTED_A_CHUNK: (usize, usize) = (50, 1_000);

/// What is left to do behind a walk.
#[derive(Debug)]
pub(super) enum Left {
    /// The rows with these keys, in order.
    Keys(Vec<Bound>),
    /// Nobody knows: too much, or more than a look could tell.
    Unknown,
    /// Nobody knows, for some row raises this when it is looked at.
    Raises(String),
}

impl Work {
    /// The statements for a place.
    pub(super) fn sql_at(&self, place: &Place) -> &ChunkSql {
        match self.walk.as_ref().filter(|_| self.is_walked(place)) {
            Some(walk) => &walk.sql,
            None => &self.sql,
        }
    }

    /// Whether a place is walked.
    pub(super) fn is_walked(&self, place: &Place) -> bool {
        let leaves = self.leaves.as_ref().zip(place.leaf());
        leaves.is_some_and(|(leaves, number)| leaves.is_walked(number))
    }

    /// Whether the table is walked in rounds.
    pub(super) fn is_in_rounds(&self) -> bool {
        self.walk.as_ref().is_some_and(|walk| walk.in_rounds)
    }

    /// Whether a chunk is one of a walk.
    pub(super) fn is_of_walk(&self, chunk: &Chunk) -> bool {
        let leaves = self.leaves.as_ref().zip(chunk.range.leaf());
        leaves.is_some_and(|(leaves, number)| leaves.is_walked(number))
    }

    /// Whether the chunks of a place are halved at places: not where before-images say what is in them.
    pub(super) fn halves_places(&self, place: &Place) -> bool {
        let has_images = self.sql.keep.as_ref().is_some_and(|keep| keep.middle.is_some());
        self.is_walked(place) && !has_images
    }

    /// Whether a range is all of what comes behind a walk, and it must be known what is left to do: all of a sweep, or of a further round.
    pub(super) fn is_behind_walk(&self, place: &Place, range: &KeyRange) -> bool {
        let is_round = self.is_in_rounds() && place.leaf().is_some_and(|number| number > 1);
        let is_sweep = self.walk.is_some() && !self.is_walked(place);
        (is_round || is_sweep) && range.after.is_none()
    }

    /// Whether a place is where no further round begins.
    pub(super) fn is_behind_rounds(&self, place: &Place) -> bool {
        let rounds = self.leaves.as_ref().map_or(0, |leaves| leaves.0.len());
        self.is_in_rounds() && place.leaf() == Some(rounds)
    }

    /// The leaf that is swept behind a walked one.
    pub(super) fn swept_behind(&self, place: &Place) -> Option<usize> {
        let leaves = self.leaves.as_ref().filter(|_| self.is_walked(place))?;
        Some(place.leaf()? + leaves.walked())
    }
}

/// The next chunks of a walk, of about so many rows each; the last one reaches to the end of the range, and further than a heap of so many
/// `pages`.
pub(super) fn cut_pages(
    range: &KeyRange,
    size: i64,
    count: i64,
    (rows_a_page, pages): (f64, i64),
) -> (Vec<Cut>, bool) {
    let mut from = range.after.as_ref().map_or(0, page);
    let end = page(&range.upto).min(pages.max(from + 1));
    let step = ((size as f64 / rows_a_page).round() as i64).max(1);
    let mut cuts = Vec::new();
    while from < end && (cuts.len() as i64) < count {
        let upto = (from + step).min(end);
        let rows = ((upto - from) as f64 * rows_a_page).round().max(1.0);
        let bound = if upto == end { range.upto.clone() } else { place(upto) };
        cuts.push(Cut::new(bound, rows as i32));
        from = upto;
    }
    (cuts, from >= end)
}

/// The page of a place, which is written `(page,item)`.
fn page(place: &Bound) -> i64 {
    let text = place.0.first().map(String::as_str).unwrap_or_default();
    let digits = text.trim_start_matches('(').split(',').next().unwrap_or_default();
    digits.parse().unwrap_or(0)
}

/// The chunks of a sweep that looks at these keys alone; together they cover all keys up to the ceiling, as any others do.
pub(super) fn list(keys: &[Bound], size: i64, ceiling: &Bound) -> Vec<Cut> {
    let size = (size.max(1) as usize).clamp(LISTED_A_CHUNK.0, LISTED_A_CHUNK.1);
    let cut = |group: &[Bound]| {
        let texts: Vec<&Vec<String>> = group.iter().map(|key| &key.0).collect();
        Cut {
            upto: group.last().unwrap_or(ceiling).clone(),
            keys: group.len() as i32,
            only: Some(serde_json::to_string(&texts).unwrap_or_default()),
        }
    };
    let mut cuts: Vec<Cut> = keys.chunks(size).map(cut).collect();
    match cuts.last_mut() {
        Some(last) => last.upto = ceiling.clone(),
        None => cuts.push(cut(&[])),
    }
    cuts
}

/// Looks for what a walk has left to do, up to the ceiling of a place that is swept behind it; none while chunks of the walk are open.
pub(super) async fn look(
    work: &Work,
    place: &Place,
    ceiling: &Bound,
    notes: &mpsc::UnboundedSender<Note>,
) -> Result<Option<Left>, Setback> {
    let connection = work.database.get().await.map_err(|error| Setback::from_connect(&error))?;
    let in_rounds = work.is_in_rounds();
    let left = work.store.walk_left(&connection, work.run_id, in_rounds).await;
    let left = left.map_err(|e| Setback::from_store(e, Duration::ZERO, Duration::MAX))?;
    if left.open > 0 {
        return Ok(None);
    }
    let (longest, most) = if in_rounds { (LOOK_IN_ROUNDS, 0) } else { (LOOK_MAX, LISTED_MAX) };
    let known: Vec<&Vec<String>> = left.keys.iter().map(|key| &key.0).collect();
    let (walk, is_known) = (work.walk.as_ref(), !known.is_empty());
    let sql =
        walk.and_then(|walk| if is_known { walk.left_known.as_ref() } else { Some(&walk.left) });
    let Some(sql) = sql.and_then(|sql| place.text(sql)) else { return Ok(Some(Left::Unknown)) };
    let known = is_known.then(|| serde_json::to_string(&known).unwrap_or_default());
    let _ = notes.send(Note::Looking(Some(connection.cancel_token())));
    let started = Instant::now();
    let found =
        find_left(work, &connection, &sql, (&ceiling.0, known.as_ref()), (longest, most)).await;
    let _ = notes.send(Note::Looking(None));
    let fault = match found {
        Ok(left) => return Ok(Some(left)),
        Err(error) => Fault::from_error(&error, started.elapsed(), longest),
    };
    roll_back(connection).await;
    match fault.class {
        // Some row raises when it is looked at, or the table is too large: the chunks of a sweep can deal with either.
        Class::Data => Ok(Some(Left::Raises(fault.message))),
        Class::TooBig => Ok(Some(Left::Unknown)),
        _ => Err(Setback::Fault(fault)),
    }
}

async fn find_left(
    work: &Work,
    client: &Client,
    sql: &str,
    (ceiling, known): (&[String], Option<&String>),
    (longest, most): (Duration, i64),
) -> Result<Left, tokio_postgres::Error> {
    let bounds = Bounds { statement: longest, ..Bounds::LOOKUP };
    work.session.begin_read_only(client, bounds).await?;
    // All of the table, from its first page to its last one; chunks must not do that. A runner that dies meanwhile is noticed where the
    // server can.
    client.batch_execute("SET LOCAL enable_seqscan = on; SAVEPOINT watched").await?;
    let watched = client.batch_execute("SET LOCAL client_connection_check_interval = '1s'").await;
    if watched.is_err() {
        client.batch_execute("ROLLBACK TO watched").await?;
    }
    let limit = most + 1;
    let mut bind = typed(ceiling);
    bind.push((&limit, Type::INT8));
    bind.extend(known.map(|known| (known as &(dyn ToSql + Sync), Type::TEXT)));
    let rows = db::ask_as_is(client, sql, &bind).await?;
    client.batch_execute("COMMIT").await?;
    // A join may have shown a row several times: what the look was cut at counts, not the keys.
    match rows.first().is_some_and(|row| row.get::<_, i64>(1) > most) {
        true => Ok(Left::Unknown),
        false => Ok(Left::Keys(rows.iter().map(|row| Bound(row.get(0))).collect())),
    }
}

/// Pages of the table now.
pub(super) async fn pages(work: &Work, client: &Client) -> Result<i64, tokio_postgres::Error> {
    let sql =
        "select pg_catalog.pg_relation_size($1) / pg_catalog.current_setting('block_size')::bigint";
    let rows = db::ask_within(client, sql, &[(&work.table.oid, Type::OID)]).await?;
    Ok(rows.first().and_then(|row| row.get::<_, Option<i64>>(0)).unwrap_or(0))
}

/// Rows are left behind the last round.
pub(super) fn is_endless(left: &Left) -> Fault {
    let message = match left {
        Left::Raises(error) => format!(
            "nobody can tell whether rows are left, for one that moved raises when it is looked at: {error}; mend it, then resume"
        ),
        _ => "rows are left behind the last round: the application moves them, or adds such rows, faster than they are done; let it \
              write the value by itself, then resume"
            .to_owned(),
    };
    Fault { class: Class::Fatal, sqlstate: None, message }
}

/// The keys of the row at a place, if it is still there.
pub(super) async fn keys_at(
    work: &Work,
    client: &Client,
    at: &Place,
    place: &Bound,
) -> Result<Vec<Bound>, StoreError> {
    let failed = |error| StoreError::Statement("look at the row's key", error);
    let Some(sql) = work.walk.as_ref().and_then(|walk| at.text(&walk.key_at)) else {
        return Ok(Vec::new());
    };
    let rows = db::ask_as_is(client, &sql, &typed(&place.0)).await.map_err(failed)?;
    Ok(rows.iter().map(|row| Bound(row.get(0))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(cuts: &[Cut]) -> Vec<(&str, i32)> {
        cuts.iter().map(|cut| (cut.upto.0[0].as_str(), cut.keys)).collect()
    }

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let range = KeyRange::new(None, place(10));
        let (cuts, is_whole) = cut_pages(&range, 100, 2, (25.0, i64::MAX));
        assert_eq!(places(&cuts), [("(4,0)", 100), ("(8,0)", 100)]);
        assert!(!is_whole);
        let rest = KeyRange::new(Some(place(8)), place(10));
        let (cuts, is_whole) = cut_pages(&rest, 100, 2, (25.0, i64::MAX));
        assert_eq!((places(&cuts), is_whole), (vec![("(10,0)", 50)], true));
        let (cuts, _) = cut_pages(&range, 1, 1, (25.0, i64::MAX));
        assert_eq!(places(&cuts), [("(1,0)", 25)], "no less than a page");
        let none = cut_pages(&KeyRange::new(None, place(0)), 1, 1, (1.0, i64::MAX));
        assert_eq!(none, (Vec::new(), true));
    }

    #[test]
    fn the_last_chunk_reaches_to_the_end_of_the_range() {
        let range = KeyRange::new(None, place(1000));
        let (cuts, is_whole) = cut_pages(&range, 100, 9, (25.0, 6));
        assert_eq!((places(&cuts), is_whole), (vec![("(4,0)", 100), ("(1000,0)", 50)], true));
        // The heap was cut off meanwhile.
        let rest = KeyRange::new(Some(place(8)), place(1000));
        let (cuts, is_whole) = cut_pages(&rest, 100, 9, (25.0, 6));
        assert_eq!((places(&cuts), is_whole), (vec![("(1000,0)", 25)], true));
    }

    #[test]
    fn a_list_covers_all_keys_up_to_the_ceiling() {
        let key = |text: &str| Bound(vec![text.to_owned()]);
        let keys: Vec<Bound> = (10..62).map(|i| key(&i.to_string())).collect();
        let cuts = list(&keys, 2, &key("99"));
        let only: Vec<_> = cuts.iter().map(|cut| cut.only.as_deref().unwrap_or("")).collect();
        assert!(only[0].starts_with(r#"[["10"],["11"]"#), "{only:?}");
        assert_eq!(only[1..], [r#"[["60"],["61"]]"#]);
        assert_eq!(cuts.iter().map(|cut| &cut.upto).collect::<Vec<_>>(), [&key("59"), &key("99")]);
        let none = list(&[], 2, &key("z"));
        assert_eq!((none.len(), none[0].only.as_deref()), (1, Some("[]")));
        assert_eq!(none[0].upto, key("z"));
    }
}
