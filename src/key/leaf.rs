//! Ranges of a run that goes through a partitioned table leaf by leaf, or through a table twice.
//!
//! The bounds of such a run begin with the number of a leaf, so its chunks are one chain from the first leaf to the last, each in one
//! leaf: the first chunk of a leaf begins where the last one of the leaf before it ends.
//!
//! A run in physical order has two leaves that are the table itself: one to walk, whose bounds are places in the heap, and one to sweep, by
//! key, for what was moved out of the walk's way. Pure.

use std::borrow::Cow;

use super::{Bound, KeyRange};
use crate::sql::QualifiedName;

/// A partition that holds rows itself, or a table on one of its ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// `pg_class.oid`.
    pub oid: u32,
    /// The greatest key when the run began, or where the heap ended; none when it was empty.
    pub ceiling: Option<Bound>,
    /// Whether it is walked: its bounds are places, not keys.
    pub is_walked: bool,
}

/// The leaves of a table when a run began, in its order. They are numbered from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaves(pub Vec<Leaf>);

impl Leaves {
    /// A leaf by its number.
    pub fn get(&self, number: usize) -> Option<&Leaf> {
        self.0.get(number.checked_sub(1)?)
    }

    /// Whether a leaf is walked.
    pub fn is_walked(&self, number: usize) -> bool {
        self.get(number).is_some_and(|leaf| leaf.is_walked)
    }

    /// How many are walked: the first ones.
    pub fn walked(&self) -> usize {
        self.0.iter().filter(|leaf| leaf.is_walked).count()
    }

    /// The end of the last leaf that has one.
    pub fn ceiling(&self) -> Option<Bound> {
        let numbered = self.0.iter().enumerate().rev();
        numbered.into_iter().find_map(|(i, leaf)| Some(leaf.ceiling.as_ref()?.in_leaf(i + 1)))
    }

    /// What is to be cut behind a bound: a leaf and the keys of it that are left. None behind the last.
    pub fn next(&self, after: Option<&Bound>) -> Option<(usize, KeyRange)> {
        let (begun, key) = after.and_then(Bound::split_leaf).unzip();
        let begun = begun.unwrap_or(1);
        (1..).zip(&self.0).skip_while(|(number, _)| *number < begun).find_map(|(number, leaf)| {
            let ceiling = leaf.ceiling.clone()?;
            let after = key.clone().filter(|_| number == begun);
            let is_cut = after.as_ref() == Some(&ceiling);
            (!is_cut).then(|| (number, KeyRange::new(after, ceiling)))
        })
    }
}

impl Bound {
    /// The bound of a run that goes leaf by leaf.
    pub fn in_leaf(&self, number: usize) -> Bound {
        Bound([number.to_string()].into_iter().chain(self.0.iter().cloned()).collect())
    }

    fn split_leaf(&self) -> Option<(usize, Bound)> {
        let (number, key) = self.0.split_first()?;
        Some((number.parse().ok()?, Bound(key.to_vec())))
    }
}

impl KeyRange {
    /// The leaf of a range whose bounds name leaves.
    pub fn leaf(&self) -> Option<usize> {
        self.upto.split_leaf().map(|(number, _)| number)
    }

    /// The keys of a range whose bounds name leaves; a leaf is begun without a lower end.
    pub fn within_leaf(&self) -> KeyRange {
        let after = self.after.as_ref().and_then(Bound::split_leaf);
        let Some((number, upto)) = self.upto.split_leaf() else { return self.clone() };
        let after = after.filter(|(other, _)| *other == number).map(|(_, key)| key);
        KeyRange { after, upto, stripe: self.stripe, only: self.only.clone() }
    }
}

/// Stands for the leaf's name in the statements of a run that goes leaf by leaf. No SQL text can hold it.
pub const LEAF: &str = "\0";

/// Where a chunk's statements go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// To the table.
    Table,
    /// To this leaf of it.
    Leaf(usize, QualifiedName),
    /// Nowhere: the leaf is dropped or detached, and with it its rows.
    Gone(usize),
}

impl Place {
    /// The text of a statement for this place; none where it would go nowhere.
    pub fn text<'a>(&self, sql: &'a str) -> Option<Cow<'a, str>> {
        match self {
            _ if !sql.contains(LEAF) => Some(Cow::Borrowed(sql)),
            Place::Leaf(_, name) => Some(Cow::Owned(sql.replace(LEAF, &name.to_string()))),
            Place::Table | Place::Gone(_) => None,
        }
    }

    /// The number of the leaf; none for the table as a whole.
    pub fn leaf(&self) -> Option<usize> {
        match self {
            Place::Table => None,
            Place::Leaf(number, _) | Place::Gone(number) => Some(*number),
        }
    }

    /// A key of this place as a bound of the run.
    pub fn bound(&self, key: &Bound) -> Bound {
        match self {
            Place::Table => key.clone(),
            Place::Leaf(number, _) | Place::Gone(number) => key.in_leaf(*number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(texts: &[&str]) -> Bound {
        Bound(texts.iter().map(|text| (*text).to_owned()).collect())
    }

    fn leaves(ceilings: &[Option<&str>]) -> Leaves {
        let leaf = |ceiling: &Option<&str>| Leaf {
            oid: 1,
            ceiling: ceiling.map(|c| bound(&[c])),
            is_walked: false,
        };
        Leaves(ceilings.iter().map(leaf).collect())
    }

    #[test]
    fn empty_leaves_are_passed_over_and_the_chain_has_an_end() {
        let leaves = leaves(&[None, Some("9"), None, Some("5"), None]);
        assert_eq!(leaves.ceiling(), Some(bound(&["4", "5"])));
        let all =
            |after: Option<&[&str]>, upto: &str| KeyRange::new(after.map(bound), bound(&[upto]));
        assert_eq!(leaves.next(None), Some((2, all(None, "9"))));
        assert_eq!(leaves.next(Some(&bound(&["2", "7"]))), Some((2, all(Some(&["7"]), "9"))));
        assert_eq!(leaves.next(Some(&bound(&["2", "9"]))), Some((4, all(None, "5"))));
        assert_eq!(leaves.next(Some(&bound(&["4", "5"]))), None);
        assert_eq!(self::leaves(&[None]).ceiling(), None);
    }

    #[test]
    fn a_leaf_begins_without_a_lower_end() {
        let across = KeyRange::new(Some(bound(&["2", "9"])), bound(&["4", "3"]));
        assert_eq!(
            (across.leaf(), across.within_leaf()),
            (Some(4), KeyRange::new(None, bound(&["3"])))
        );
        let inside = KeyRange::new(Some(bound(&["4", "3"])), bound(&["4", "5"]));
        assert_eq!(inside.within_leaf(), KeyRange::new(Some(bound(&["3"])), bound(&["5"])));
    }

    #[test]
    fn a_statement_goes_to_the_leaf_or_nowhere() {
        let sql = format!("UPDATE {LEAF} AS t");
        let leaf = Place::Leaf(1, QualifiedName::new("s", "p"));
        assert_eq!(leaf.text(&sql).as_deref(), Some(r#"UPDATE "s"."p" AS t"#));
        assert_eq!(Place::Gone(1).text(&sql), None);
        assert_eq!(Place::Gone(1).text("SELECT 1").as_deref(), Some("SELECT 1"));
        assert_eq!(Place::Gone(3).bound(&bound(&["x"])), bound(&["3", "x"]));
    }
}
