//! The key that chunks are cut by, and ranges of it.
//!
//! Keys are opaque here: a [`Bound`] is the server's own text for each key column and goes back as `$n::type`; only the
//! server compares them, with the column's own type and collation. A [`KeyRange`] is half-open, `(after, upto]`.
//!
//! Pure: knows no database.

mod leaf;
mod range;

pub use leaf::{LEAF, Leaf, Leaves, Place};
pub use range::{Form, KeyRange, Part, Stripe, Striped};

use crate::sql::Ident;

/// One column of the key, in index order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyColumn {
    /// Its name.
    pub name: Ident,
    /// Its type as SQL without a length or precision (a cast to `varchar(3)` would cut the value short).
    pub type_sql: String,
    /// Its type as people write it, for messages.
    pub type_name: String,
    /// What tells its rows apart into stripes; none when nothing does.
    pub spread: Option<Spread>,
}

/// What decides the stripe of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spread {
    /// The function that hashes the column's type with a seed, as SQL. The server promises its results for good, because hash partitions
    /// lie by them.
    Hash(String),
    /// Where a row stands on its page.
    Item,
    /// The remainder of an integer. Neighbours on a page then fall into different stripes, where a hash leaves that to chance.
    Remainder,
}

impl Spread {
    /// The word that state tables keep.
    pub fn as_str(&self) -> &str {
        match self {
            Spread::Hash(function) => function,
            Spread::Item => "ctid",
            Spread::Remainder => "%",
        }
    }

    /// Reads it back.
    pub fn parse(word: String) -> Spread {
        match word.as_str() {
            "%" => Spread::Remainder,
            "ctid" => Spread::Item,
            _ => Spread::Hash(word),
        }
    }
}

/// The columns of the unique index that chunks are cut by. All NOT NULL, one sort direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// In index order; never empty.
    pub columns: Vec<KeyColumn>,
}

/// A key value: the server's text for each key column, in index order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound(pub Vec<String>);

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_slice() {
            [one] => write!(f, "{one}"),
            many => write!(f, "({})", many.join(", ")),
        }
    }
}

impl Key {
    /// Places in the heap, for ranges of them.
    pub fn places() -> Key {
        let place = KeyColumn {
            name: Ident::new("ctid"),
            type_sql: "pg_catalog.tid".to_owned(),
            type_name: "tid".to_owned(),
            spread: Some(Spread::Item),
        };
        Key { columns: vec![place] }
    }

    /// Whether it is places in the heap, which stand in for a key that there is not.
    pub fn is_places(&self) -> bool {
        self.columns.first().is_some_and(|column| column.spread == Some(Spread::Item))
    }

    /// `"t"."a", "t"."b"`: the columns qualified by the target's name.
    pub fn columns_sql(&self, table: &Ident) -> String {
        self.join(|column| format!("{table}.{}", column.name))
    }

    /// The columns as the server's text, `"t"."a"::text, …`, for values that come here.
    pub fn columns_text_sql(&self, table: &Ident) -> String {
        self.join(|column| format!("{table}.{}::text", column.name))
    }

    /// An array of the columns' text, `ARRAY["t"."a"::text, …]`: one value for a whole key.
    pub fn array_sql(&self, table: &Ident) -> String {
        format!("ARRAY[{}]", self.columns_text_sql(table))
    }

    /// `ORDER BY` list, descending when asked.
    pub fn order_sql(&self, table: &Ident, descending: bool) -> String {
        let direction = if descending { " DESC" } else { "" };
        self.join(|column| format!("{table}.{}{direction}", column.name))
    }

    /// Whether it has the same columns of the same types.
    pub fn is_same(&self, other: &Key) -> bool {
        let same = |(a, b): (&KeyColumn, &KeyColumn)| {
            (&a.name, &a.type_sql, &a.type_name) == (&b.name, &b.type_sql, &b.type_name)
        };
        self.columns.len() == other.columns.len()
            && self.columns.iter().zip(&other.columns).all(same)
    }

    /// The names for messages: `id` or `tenant, id`.
    pub fn plain(&self) -> String {
        self.join(|column| column.name.as_str().to_owned())
    }

    /// Whether its rows can be told apart into stripes: by the last column at least, in which neighbours differ.
    pub fn is_spread(&self) -> bool {
        self.columns.last().is_some_and(|column| column.spread.is_some())
    }

    /// Whether remainders decide.
    pub fn is_by_remainder(&self) -> bool {
        self.columns.len() == 1 && self.columns[0].spread == Some(Spread::Remainder)
    }

    fn join(&self, render: impl Fn(&KeyColumn) -> String) -> String {
        self.columns.iter().map(render).collect::<Vec<_>>().join(", ")
    }
}
