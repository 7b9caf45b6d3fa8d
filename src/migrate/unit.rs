//! Which statements of a revision share a transaction. Pure.

use std::ops::Range;

use super::class::{Outside, Way};
use super::file::{Grouping, Statement};

/// Neighbouring statements that succeed or fail together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Which statements, counted from 0.
    pub range: Range<usize>,
    /// How they are run.
    pub kind: Kind,
}

/// How a unit is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In one transaction, with short lock timeouts, from the start again when a lock is not to be had.
    Quick,
    /// In a transaction, for as long as it takes.
    Long,
    /// One statement outside of any transaction.
    Outside(Outside),
}

/// Groups statements.
pub fn units(statements: &[Statement], grouping: Grouping) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    let mut is_open = false;
    for (i, statement) in statements.iter().enumerate() {
        let apart = match &statement.way {
            Way::Outside(outside) => Some(Kind::Outside(outside.clone())),
            // Of a statement that is not known nobody can say whether it was done, when it is interrupted.
            _ if grouping == Grouping::Outside => Some(Kind::Outside(Outside::Unknown)),
            Way::Long if grouping != Grouping::File => Some(Kind::Long),
            _ => None,
        };
        match (apart, units.last_mut()) {
            (Some(kind), _) => {
                units.push(Unit { range: i..i + 1, kind });
                is_open = false;
            }
            (None, Some(last)) if is_open => last.range.end = i + 1,
            (None, _) => {
                units.push(Unit { range: i..i + 1, kind: Kind::Quick });
                is_open = true;
            }
        }
        is_open &= match grouping {
            Grouping::Auto => statement.way != Way::TogetherLast,
            Grouping::None | Grouping::Outside => false,
            Grouping::File => true,
        };
    }
    units
}

#[cfg(test)]
mod tests {
    use super::super::file::statements;
    use super::*;

    fn ranges(text: &str, grouping: Grouping) -> Vec<(Range<usize>, bool)> {
        let units = units(&statements(text).unwrap(), grouping);
        units.into_iter().map(|unit| (unit.range, unit.kind == Kind::Quick)).collect()
    }

    #[test]
    fn neighbours_share_a_transaction_where_they_can() {
        let text = "select 1; select 2; create index concurrently i on t (a); alter table t validate constraint c; select 5";
        let expected = [(0..2, true), (2..3, false), (3..4, false), (4..5, true)];
        assert_eq!(ranges(text, Grouping::Auto), expected);
        assert_eq!(ranges("select 1; select 2", Grouping::None), [(0..1, true), (1..2, true)]);
        assert_eq!(ranges("call p(); call q()", Grouping::Outside), [(0..1, false), (1..2, false)]);
        assert_eq!(
            ranges("select 1; alter table t validate constraint c", Grouping::File),
            [(0..2, true)]
        );
    }

    #[test]
    fn an_enums_new_value_is_committed_before_it_is_used() {
        let text = "alter type mood add value 'x'; insert into t values ('x')";
        assert_eq!(ranges(text, Grouping::Auto), [(0..1, true), (1..2, true)]);
    }
}
