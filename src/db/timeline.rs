//! The server's timeline. Every promotion begins a new one, so that an old primary that comes back can be told from the one that took its
//! place.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::Client;

/// The newest timeline that was met.
#[derive(Debug, Default)]
pub(super) struct Newest(AtomicU32);

impl Newest {
    /// It, once one was met.
    pub(super) fn get(&self) -> Option<u32> {
        Some(self.0.load(Ordering::Relaxed)).filter(|newest| *newest > 0)
    }

    /// Takes a server's timeline in; the newer one where the server has been replaced.
    pub(super) fn supersedes(&self, found: u32) -> Option<u32> {
        let newest = self.0.fetch_max(found, Ordering::Relaxed);
        (newest > found).then_some(newest)
    }
}

/// The timeline that a primary writes; none of a standby, and none where the server does not tell.
pub(super) async fn of(client: &Client) -> Option<u32> {
    let sql = "select case when not pg_catalog.pg_is_in_recovery()
                           then pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8) end";
    let rows = super::ask_as_is(client, sql, &[]).await.ok()?;
    let name: Option<String> = rows.first()?.try_get(0).ok()?;
    u32::from_str_radix(&name?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_that_was_left_is_superseded() {
        let newest = Newest::default();
        assert_eq!(newest.get(), None);
        assert_eq!(
            [1, 1, 3, 2, 3].map(|found| newest.supersedes(found)),
            [None, None, None, Some(3), None]
        );
        assert_eq!(newest.get(), Some(3));
    }
}
