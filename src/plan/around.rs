//! What stands around the table and touches a run: told beforehand, or refused.

use tokio_postgres::Client;

use super::checks::{Refusal, capture_refusal, publication_refusal, table_warnings};
use super::{Accepted, Plan, PlanError, surroundings};
use crate::sql::Ident;
use crate::undo::UndoMode;

impl Plan {
    /// Fills in what stands around the table, and refuses what it forbids.
    pub(super) async fn look_around(
        &mut self,
        client: &Client,
        schema: &Ident,
        accepted: Accepted,
    ) -> Result<(), PlanError> {
        let lookup = |error| PlanError::Statement("look around the table", error);
        let table = &self.table;
        let (oid, version) = (table.oid, self.server.version_num);
        let attnum = |name: &str| table.column(name).map(|column| column.attnum);
        let mut written: Vec<i16> = self.written.iter().filter_map(|name| attnum(name)).collect();
        let key: Vec<i16> =
            self.key.columns.iter().filter_map(|c| attnum(c.name.as_str())).collect();
        let mut refusals = Vec::new();
        let publications =
            surroundings::publications_of_state(client, schema, version).await.map_err(lookup)?;
        if !publications.is_empty() && !accepted.subscribers_prepared {
            refusals.push(publication_refusal(&publications));
        } else if !publications.is_empty() && self.undo == UndoMode::Capture {
            refusals.push(capture_refusal(&publications));
        }
        for column in
            surroundings::collation_drift(client, oid, &key, version).await.map_err(lookup)?
        {
            let what = format!(
                "the collation of key column `{column}` has changed since its index was built"
            );
            let mend = format!(
                "REINDEX INDEX CONCURRENTLY {}; then refresh the collation's version",
                self.index
            );
            refusals.push(Refusal::new(what, "the index's order can no longer be trusted", mend));
        }
        if !refusals.is_empty() {
            return Err(PlanError::Refused(refusals));
        }
        let mut warnings = Vec::new();
        let mut generated = Vec::new();
        for (attnum, name) in
            surroundings::generated_from(client, oid, &written).await.map_err(lookup)?
        {
            written.push(attnum);
            warnings
                .push(format!("generated column `{name}` is computed anew in every row written"));
            generated.push(name);
        }
        let names = self.written.iter().map(String::as_str);
        let names: Vec<&str> = names.chain(generated.iter().map(String::as_str)).collect();
        // A leaf may have an index that its parent does not.
        let blockers = [table, self.met()].map(|table| table.hot_blockers(&names));
        self.hot_blockers =
            blockers.into_iter().find(|found| !found.is_empty()).unwrap_or_default();
        let triggers = surroundings::triggers(client, oid, &names).await.map_err(lookup)?;
        self.has_triggers = !triggers.is_empty();
        for (trigger, function) in triggers {
            warnings.push(format!("trigger {trigger} ({function}) fires for every row written"));
        }
        for constraint in surroundings::foreign_keys(client, oid, &written).await.map_err(lookup)? {
            warnings.push(format!("foreign key {constraint} is checked for every row written"));
        }
        if !self.published.is_empty() {
            let names = self.published.join(", ");
            warnings
                .push(format!("publication {names} carries every row written to its subscribers"));
        }
        if !self.published.is_empty() && table.replica_identity == "f" {
            warnings.push(
                "REPLICA IDENTITY FULL: every row written carries its whole old version in WAL"
                    .to_owned(),
            );
        }
        if let Some((seconds, pid, user)) =
            surroundings::oldest_transaction(client).await.map_err(lookup)?
            && seconds > 120.0
        {
            let minutes = (seconds / 60.0) as u64;
            warnings.push(format!(
                "backend {pid} ({user}) has a transaction open for {minutes} min: no dead row can be vacuumed meanwhile"
            ));
        }
        warnings.extend(self.leaf_warning());
        warnings.extend(table_warnings(table));
        self.warnings = warnings;
        Ok(())
    }
}
