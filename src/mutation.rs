//! Guards that can be taken out one by one, in debug builds alone, so that tests can show what each of them is there for.
//!
//! `BACKFILL_WITHOUT` names those to take out, with commas between them. A release build has no such switch.

/// A guard of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A chunk that is done is not done again: the claim sees it, and the mark refuses it.
    Claim,
    /// Whose epoch is over claims, settles and cuts nothing.
    Epoch,
    /// Each runner begins an epoch of its own.
    NewEpoch,
    /// What is locked, saved and written are the same rows.
    Accounting,
    /// A row is given back only if it still holds what the run wrote.
    Comparison,
    /// A run goes on only with the spec that it began with.
    Digest,
    /// A run ends at the greatest key of when it began.
    Ceiling,
    /// One runner works on a run.
    SingleRunner,
    /// What the program asks for itself is resolved in `pg_catalog` alone.
    OwnPath,
}

const WORDS: [(Guard, &str); 9] = [
    (Guard::Claim, "claim"),
    (Guard::Epoch, "epoch"),
    (Guard::NewEpoch, "new_epoch"),
    (Guard::Accounting, "accounting"),
    (Guard::Comparison, "comparison"),
    (Guard::Digest, "digest"),
    (Guard::Ceiling, "ceiling"),
    (Guard::SingleRunner, "single_runner"),
    (Guard::OwnPath, "own_path"),
];

impl Guard {
    /// Whether it is taken out.
    pub fn is_out(self) -> bool {
        if !cfg!(debug_assertions) {
            return false;
        }
        let Ok(out) = std::env::var("BACKFILL_WITHOUT") else { return false };
        let is_it =
            |word: &str| WORDS.iter().any(|(guard, known)| *guard == self && *known == word);
        out.split(',').any(is_it)
    }
}

/// A statement on the state tables, less the guards in it that are taken out.
pub fn statement(mut sql: String) -> String {
    if Guard::Claim.is_out() {
        sql = sql.replace("and c.state <> 'done' and r.run_id", "and r.run_id");
    }
    if Guard::NewEpoch.is_out() {
        sql = sql.replace("epoch = epoch + 1", "epoch = epoch");
    }
    if Guard::Epoch.is_out() {
        for n in 1..10 {
            let any = format!("${n}::int4 is not null");
            sql = sql.replace(&format!("r.epoch = ${n}"), &any);
            sql = sql.replace(&format!("and epoch = ${n}"), &format!("and {any}"));
        }
    }
    sql
}
