//! What must hold after each part of a history, and is looked at.

use std::time::{Duration, Instant};

use crate::campaign::{Campaign, Verdict};
use crate::history::{History, Key};

impl Campaign {
    /// Counts the rows that break a promise.
    pub fn check(&mut self, promises: &[(&'static str, String)]) -> Verdict {
        for (promise, sql) in promises {
            let broken = self.rows(sql)?;
            if broken[0][0] != "0" {
                return Err(format!("{promise}: {} rows\n  {sql}", broken[0][0]));
            }
        }
        let rows: u64 = self.rows("select count(*) from t")?[0][0].parse().unwrap_or(0);
        self.rows_checked += rows;
        Ok(())
    }

    /// The chunk map is whole, every before-image is there, and no row is aside but those that cannot be written.
    pub fn check_run(&mut self, history: &History) -> Verdict {
        let newest = "(select max(run_id) from backfill.run)";
        let mut promises = vec![
            (
                "chunks are not done",
                format!(
                    "select count(*) from backfill.chunk where run_id = {newest} and state <> 'done'"
                ),
            ),
            (
                "rows are aside that could be written",
                format!(
                    "select case when {} = 0 then count(*) else 0 end from backfill.quarantine",
                    history.poison
                ),
            ),
        ];
        promises.push((
            "tables are left behind",
            "select count(*) from pg_class c where c.relnamespace = 'backfill'::regnamespace and c.relkind = 'r'
                and c.relname not in ('meta', 'run', 'chunk', 'quarantine', 'conflict', 'log', 'revision', 'revision_step', 'revision_log', 'gate')
                and not exists (select from backfill.run r where c.relname = 'before_image_' || r.run_id and r.undo = 'capture')"
                .to_owned(),
        ));
        let images = self.rows(&format!(
            "select 'backfill.before_image_' || run_id from backfill.run where run_id = {newest} and undo = 'capture'"
        ))?;
        if let Some(images) = images.first() {
            let told = format!(
                "select abs((select coalesce(sum(rows), 0) from {} where side <> 'new')
                          - (select coalesce(sum(rows_done), 0) from backfill.chunk where run_id = {newest}))",
                images[0]
            );
            promises.push(("before-images are missing or too many", told));
        }
        self.check(&promises)?;
        // What is filled shows in the rows; of what is added to, the map of the chunks has to say that each key lies in one, and is done.
        let is_told_by_map =
            history.adds() && history.poison == 0 && history.key != Key::Partitioned;
        if is_told_by_map && self.start(&["verify", "job"], false, None).wait()? != Some(0) {
            return Err("a key lies in no chunk, or in several".to_owned());
        }
        Ok(())
    }

    /// Nothing of the program is left on the server.
    pub fn check_leftovers(&mut self) -> Verdict {
        let deadline = Instant::now() + Duration::from_secs(20);
        let left = "select count(*) from pg_stat_activity where datname = current_database() and application_name like 'backfill%'";
        let locks = "select count(*) from pg_locks where locktype = 'advisory'
                      and database = (select oid from pg_database where datname = current_database())";
        for (what, sql) in [("connections", left), ("locks", locks)] {
            while self.rows(sql)?[0][0] != "0" {
                if Instant::now() > deadline {
                    return Err(format!("{what} are left behind"));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }
}
