//! What became of the leaves of a run.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::{Param, Result, Store};
use crate::key::Place;
use crate::sql::QualifiedName;

/// A leaf that was no part of the table any more when its turn came.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Passed {
    /// Its number in the run.
    #[serde(skip)]
    pub number: usize,
    /// Its name, if it is still a table.
    pub table: String,
    /// Its chunks, all done without a look.
    pub chunks: i64,
    /// Whether it is a part of the table again, so that its rows are left to do.
    pub is_part_again: bool,
    /// Whether it is still there, as a part or not.
    pub is_there: bool,
}

impl Store {
    /// Where statements on a leaf of the run go, and its oid when it is still a part of the table.
    pub async fn find_leaf(
        &self,
        client: &Client,
        run_id: i64,
        number: usize,
    ) -> Result<(Place, Option<u32>)> {
        let nth = number as i32;
        let params: [Param<'_>; 2] = [(&run_id, Type::INT8), (&nth, Type::INT4)];
        let rows = self.rows(client, "look for a partition", &self.sql.find_leaf, &params).await?;
        Ok(rows.first().map_or((Place::Gone(number), None), |row| {
            let name = QualifiedName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            (Place::Leaf(number, name), Some(row.get(2)))
        }))
    }

    /// Partitions with something in them that were not there or were empty when a run began which went leaf by leaf.
    pub async fn new_leaves(&self, client: &Client, run_id: i64) -> Result<Vec<String>> {
        let params: [Param<'_>; 1] = [(&run_id, Type::INT8)];
        let rows =
            self.rows(client, "look for new partitions", &self.sql.new_leaves, &params).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Partitions that hold rows of leaves that are no part of the table any more: nobody can tell whether they are done, or done twice.
    pub async fn strays(&self, client: &Client, run_id: i64) -> Result<Vec<String>> {
        let params: [Param<'_>; 1] = [(&run_id, Type::INT8)];
        let rows =
            self.rows(client, "look for rows that were moved", &self.sql.strays, &params).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Takes somebody's word for the rows that may have been moved, and for what was passed over.
    pub async fn accept_moved(&self, client: &Client, run_id: i64) -> Result<()> {
        let params: [Param<'_>; 1] = [(&run_id, Type::INT8)];
        let sql = &self.sql.accept_moved;
        self.rows(client, "accept what was passed over", sql, &params).await.map(drop)
    }

    /// Leaves of a run that were passed over, in its order.
    pub async fn passed_leaves(&self, client: &Client, run_id: i64) -> Result<Vec<Passed>> {
        let params: [Param<'_>; 1] = [(&run_id, Type::INT8)];
        let sql = &self.sql.passed_leaves;
        let rows = self.rows(client, "look for partitions passed over", sql, &params).await?;
        let read = |row: &tokio_postgres::Row| Passed {
            number: row.get::<_, i32>(0) as usize,
            table: row.get(1),
            chunks: row.get(2),
            is_part_again: row.get(3),
            is_there: row.get(4),
        };
        Ok(rows.iter().map(read).collect())
    }
}
