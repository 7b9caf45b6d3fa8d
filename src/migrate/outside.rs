//! Statements that refuse a transaction: what an interruption leaves behind of them, and how it is mended.
//!
//! No lock timeout: it would leave an invalid index where patience would have built one. The lock that they wait for lets the application
//! read and write; who is waited for is told once a second.

use std::time::{Duration, Instant};

use tokio_postgres::types::Type;

use super::apply::{Applied, ApplyError, Event, Runner, Work, around};
use super::class::Outside;
use super::file::Statement;
use super::unit::Kind;
use crate::db;
use crate::db::error::sqlstate;

/// How often an index is built anew when it ends up invalid.
const ROUNDS: u32 = 3;

/// What the catalogs say about an index.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Index {
    Missing,
    /// Its quoted name.
    Invalid(String),
    Valid,
}

impl Runner<'_> {
    /// Runs one statement outside of a transaction, or finds that an interrupted runner had it done.
    pub(super) async fn outside(
        &self,
        work: &Work<'_>,
        i: usize,
        outside: &Outside,
        was_running: bool,
    ) -> Applied<()> {
        let statement = &work.statements[i];
        self.repeat_settings(work, i).await?;
        if was_running {
            self.wait_for_orphan(statement, outside).await?;
            if self.is_done_already(i, statement, outside).await? {
                self.reset().await?;
                self.mark(work, self.store, i, Some(Duration::ZERO)).await?;
                (self.tell)(Event::Found(statement));
                return Ok(());
            }
        }
        self.reset().await?;
        self.begin_record(work, self.store).await?;
        self.mark(work, self.store, i, None).await?;
        let begun = Instant::now();
        self.settings_before(work, i).await?;
        self.client
            .batch_execute("SET lock_timeout = 0; SET statement_timeout = 0")
            .await
            .map_err(around("set the timeouts"))?;
        let ran = match outside {
            Outside::CreateIndex { name, table } => {
                self.create_index(i, statement, (name, table)).await
            }
            Outside::Reindex if was_running => {
                self.drop_copies(i).await?;
                self.unmended(i, statement).await
            }
            _ => self.unmended(i, statement).await,
        };
        if !self.client.is_closed() {
            self.reset().await?;
        }
        match ran {
            Ok(()) => {
                self.mark(work, self.store, i, Some(begun.elapsed())).await?;
                (self.tell)(Event::Done(std::slice::from_ref(statement), begun.elapsed()));
                Ok(())
            }
            // The session of a dead runner was faster.
            Err(ApplyError::Statement(_, error))
                if was_running
                    && sqlstate(&error) == Some("42704")
                    && matches!(outside, Outside::DropIndex { .. }) =>
            {
                self.mark(work, self.store, i, Some(begun.elapsed())).await?;
                (self.tell)(Event::Found(statement));
                Ok(())
            }
            Err(error) => {
                // What failed is as if it had never been tried. Without a connection that cannot be said; the record stays.
                if !self.client.is_closed() && !leaves_doubt(&error, outside) {
                    self.forget(work, i).await?;
                }
                Err(error)
            }
        }
    }

    /// The backend of a runner that died goes on with what it was doing: it is waited for, and what it leaves is looked at then.
    async fn wait_for_orphan(&self, statement: &Statement, outside: &Outside) -> Applied<()> {
        let Outside::CreateIndex { table, .. } = outside else { return Ok(()) };
        let sql = "select pid from pg_catalog.pg_stat_progress_create_index
                    where relid = $1 and pid <> pg_catalog.pg_backend_pid() and datname = current_database()";
        loop {
            let found = db::find_relation(self.client, table).await;
            let oid = found.map_err(around("look up a table"))?;
            let rows = db::ask(self.client, sql, &[(&oid, Type::OID)]).await;
            let rows = rows.map_err(around("look for an index under construction"))?;
            let Some(pid) = rows.first().map(|row| row.get::<_, i32>(0)) else { return Ok(()) };
            if (self.is_stopped)() {
                return Err(ApplyError::Stopped(0));
            }
            let words = format!("process {pid} still builds an index on {table}; waiting for it");
            (self.tell)(Event::Progress(statement, words));
            tokio::time::sleep(super::watch::EVERY).await;
        }
    }

    async fn unmended(&self, i: usize, statement: &Statement) -> Applied<()> {
        let kind = Kind::Outside(Outside::Again);
        self.watched(statement, &kind, &mut Vec::new())
            .await
            .map_err(|error| ApplyError::Statement(i, error))
    }

    async fn forget(&self, work: &Work<'_>, i: usize) -> Applied<()> {
        self.store.drop_step(self.client, &work.revision.id, work.direction, i as i32).await?;
        if i == 0 && work.direction == crate::state::Direction::Up {
            self.store.drop_revision(self.client, &work.revision.id).await?;
        }
        Ok(())
    }

    /// Builds an index until it is valid; what is invalid goes first.
    async fn create_index(
        &self,
        i: usize,
        statement: &Statement,
        (name, table): (&str, &str),
    ) -> Applied<()> {
        let mut rounds = 0;
        loop {
            self.drop_invalid(i, name, table).await?;
            let built = self.unmended(i, statement).await;
            let is_last = rounds + 1 == ROUNDS;
            match built {
                Ok(()) if self.index(name, table).await? == Index::Valid => return Ok(()),
                Ok(()) if is_last => return Err(ApplyError::Invalid(i, name.to_owned())),
                Ok(()) => {}
                // Whoever cancels it wants an end now; dropping what is there would wait for the same writers.
                Err(ApplyError::Statement(_, error))
                    if self.client.is_closed() || sqlstate(&error) == Some("57014") =>
                {
                    return Err(ApplyError::Statement(i, error));
                }
                Err(ApplyError::Statement(_, error)) => {
                    // The next try begins without it, and so does whoever looks at the table meanwhile.
                    self.drop_invalid(i, name, table).await?;
                    if sqlstate(&error) != Some("40P01") || is_last {
                        return Err(ApplyError::Statement(i, error));
                    }
                }
                Err(other) => return Err(other),
            }
            rounds += 1;
        }
    }

    async fn drop_invalid(&self, i: usize, name: &str, table: &str) -> Applied<()> {
        if let Index::Invalid(quoted) = self.index(name, table).await? {
            (self.tell)(Event::Healed(&quoted));
            let drop = format!("DROP INDEX CONCURRENTLY {quoted}");
            self.client
                .batch_execute(&drop)
                .await
                .map_err(|error| ApplyError::Statement(i, error))?;
        }
        Ok(())
    }

    /// Removes the invalid copies that an interrupted REINDEX CONCURRENTLY left, and that every write still goes to; none of a table
    /// where somebody builds one at this moment.
    async fn drop_copies(&self, i: usize) -> Applied<()> {
        let sql = "select format('%I.%I', n.nspname, c.relname)
                     from pg_catalog.pg_index x
                     join pg_catalog.pg_class c on c.oid = x.indexrelid
                     join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                    where not x.indisvalid and c.relname ~ '_cc(new|old)[0-9]*$' and n.nspname !~ '^pg_'
                      and not exists (select from pg_catalog.pg_stat_progress_create_index p where p.relid = x.indrelid)";
        let rows =
            db::ask(self.client, sql, &[]).await.map_err(around("look for copies of indexes"))?;
        for name in rows.iter().map(|row| row.get::<_, String>(0)) {
            (self.tell)(Event::Healed(&name));
            let drop = format!("DROP INDEX CONCURRENTLY {name}");
            self.client
                .batch_execute(&drop)
                .await
                .map_err(|error| ApplyError::Statement(i, error))?;
        }
        Ok(())
    }

    /// An index by its name; a name without a schema is in that of its table.
    async fn index(&self, name: &str, table: &str) -> Applied<Index> {
        let sql = "select i.indisvalid and i.indisready, format('%I.%I', n.nspname, c.relname)
                     from pg_catalog.pg_class t
                     join pg_catalog.pg_index i on i.indrelid = t.oid
                     join pg_catalog.pg_class c on c.oid = i.indexrelid
                     join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                    where t.oid = $1 and c.relname = (parse_ident($2))[array_upper(parse_ident($2), 1)]";
        let found = db::find_relation(self.client, table).await;
        let oid = found.map_err(around("look up a table"))?;
        let params: [db::Param<'_>; 2] = [(&oid, Type::OID), (&name, Type::TEXT)];
        let rows = db::ask(self.client, sql, &params).await.map_err(around("look up an index"))?;
        Ok(match rows.first() {
            None => Index::Missing,
            Some(row) if row.get(0) => Index::Valid,
            Some(row) => Index::Invalid(row.get(1)),
        })
    }

    /// Whether a statement that was interrupted came to its end.
    async fn is_done_already(
        &self,
        i: usize,
        statement: &Statement,
        outside: &Outside,
    ) -> Applied<bool> {
        match outside {
            Outside::CreateIndex { name, table } => {
                Ok(self.index(name, table).await? == Index::Valid)
            }
            Outside::DropIndex { name } => {
                let found = db::find_relation(self.client, name).await;
                Ok(found.map_err(around("look up an index"))?.is_none())
            }
            Outside::Detach { table, partition } => {
                self.finish_detach(i, statement, (table, partition)).await
            }
            Outside::Again | Outside::Reindex => Ok(false),
            Outside::Unknown => Err(ApplyError::Unknown(i)),
        }
    }

    /// A partition that is half detached is detached to the end.
    async fn finish_detach(
        &self,
        i: usize,
        statement: &Statement,
        (table, partition): (&str, &str),
    ) -> Applied<bool> {
        let sql = "select (to_jsonb(h)->>'inhdetachpending')::boolean from pg_catalog.pg_inherits h
                    where h.inhrelid = $1 and h.inhparent = $2";
        let oid = async |name: &str| {
            let found = db::find_relation(self.client, name).await;
            found.map_err(around("look up a partition"))
        };
        let (inside, above) = (oid(partition).await?, oid(table).await?);
        let params: [db::Param<'_>; 2] = [(&inside, Type::OID), (&above, Type::OID)];
        let rows =
            db::ask(self.client, sql, &params).await.map_err(around("look up a partition"))?;
        let is_pending = rows.first().map(|row| row.get::<_, Option<bool>>(0) == Some(true));
        match is_pending {
            None => Ok(true),
            Some(false) => Ok(false),
            Some(true) if statement.words().iter().any(|word| word.is("finalize")) => Ok(false),
            Some(true) => {
                let finalize = format!("ALTER TABLE {table} DETACH PARTITION {partition} FINALIZE");
                self.client
                    .batch_execute(&finalize)
                    .await
                    .map_err(|error| ApplyError::Statement(i, error))?;
                Ok(true)
            }
        }
    }
}

/// Whether a failed statement may have left something behind that only its record can tell of.
fn leaves_doubt(error: &ApplyError, outside: &Outside) -> bool {
    let was_cancelled = matches!(error, ApplyError::Statement(_, error) if sqlstate(error).is_none_or(|state| state.starts_with("57")));
    was_cancelled || matches!(outside, Outside::Detach { .. })
}
