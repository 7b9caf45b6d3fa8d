//! The key that chunks are cut by, and ranges of it.
//!
//! Keys are opaque here: a [`Bound`] is the server's own text for each key column and goes back as `$n::type`; only the
//! server compares them, with the column's own type and collation. A [`KeyRange`] is half-open, `(after, upto]`.
//!
//! Pure: knows no database.

mod leaf;

pub use leaf::{LEAF, Leaf, Leaves, Place};

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
    /// The remainder of an integer. Neighbours on a page then fall into different stripes, where a hash leaves that to chance.
    Remainder,
}

impl Spread {
    /// The word that state tables keep.
    pub fn as_str(&self) -> &str {
        match self {
            Spread::Hash(function) => function,
            Spread::Remainder => "%",
        }
    }

    /// Reads it back.
    pub fn parse(word: String) -> Spread {
        if word == "%" { Spread::Remainder } else { Spread::Hash(word) }
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

/// Those rows whose key hashes to `j` of `k`, or leaves that remainder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stripe {
    /// Which of them, from 0.
    pub j: i16,
    /// How many there are; at least 2.
    pub k: i16,
    /// Whether its keys lie so close that it is cheaper to list those there may be than to look at all of the slice.
    pub is_dense: bool,
}

/// The keys greater than `after` (all, when there is none) and not greater than `upto`, or one stripe of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// Exclusive lower end; none at the beginning of the table.
    pub after: Option<Bound>,
    /// Inclusive upper end.
    pub upto: Bound,
    /// The stripe; none for all rows of the slice.
    pub stripe: Option<Stripe>,
}

/// Which conditions a range has, which decides the text of its statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Whether it has a lower end.
    pub has_after: bool,
    /// Whether it is a stripe, and how that is found.
    pub stripe: Striped,
}

/// Whether a range is a stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Striped {
    /// The whole slice.
    No,
    /// Found by looking at every row of the slice.
    Scanned,
    /// Found by a list of the keys there may be.
    Listed,
}

impl Form {
    /// A whole slice without a lower end.
    pub const FIRST: Form = Form { has_after: false, stripe: Striped::No };
    /// A whole slice with both ends.
    pub const WHOLE: Form = Form { has_after: true, stripe: Striped::No };

    /// All forms.
    pub const ALL: [Form; 5] = [
        Form::FIRST,
        Form::WHOLE,
        Form { has_after: false, stripe: Striped::Scanned },
        Form { has_after: true, stripe: Striped::Scanned },
        Form { has_after: true, stripe: Striped::Listed },
    ];

    /// The whole slice.
    pub fn whole(self) -> Form {
        Form { stripe: Striped::No, ..self }
    }
}

impl KeyRange {
    /// A whole slice.
    pub fn new(after: Option<Bound>, upto: Bound) -> KeyRange {
        KeyRange { after, upto, stripe: None }
    }

    /// Which conditions it has.
    pub fn form(&self) -> Form {
        let has_after = self.after.is_some();
        let stripe = match self.stripe {
            None => Striped::No,
            Some(stripe) if stripe.is_dense && has_after => Striped::Listed,
            Some(_) => Striped::Scanned,
        };
        Form { has_after, stripe }
    }

    /// The parameters for [`Key::range_sql`]: `after` (when there is one), `upto`, and the stripe (when it is one).
    pub fn params(&self) -> Vec<String> {
        let bounds = self.after.iter().chain([&self.upto]).flat_map(|bound| bound.0.clone());
        let stripe = self.stripe.map(|stripe| [stripe.k.to_string(), stripe.j.to_string()]);
        bounds.chain(stripe.into_iter().flatten()).collect()
    }
}

/// Which end of a range a comparison stands for.
#[derive(Clone, Copy)]
enum End {
    After,
    Upto,
}

impl Key {
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

    /// The predicate of a range over the columns of `table`. Parameters are numbered from `first`: the columns of
    /// `after`, those of `upto`, then the number of stripes and the stripe, as far as the form has them.
    pub fn range_sql(&self, table: &Ident, form: Form, first: usize) -> String {
        let width = self.columns.len();
        let mut terms = Vec::new();
        let mut next = first;
        if form.has_after {
            terms.push(self.compare_sql(table, End::After, next));
            next += width;
        }
        terms.push(self.compare_sql(table, End::Upto, next));
        if form.stripe != Striped::No {
            terms.push(self.stripe_sql(table, next + width));
        }
        if form.stripe == Striped::Listed {
            terms.push(self.list_sql(table, first));
        }
        terms.join(" AND ")
    }

    /// Whether its rows can be told apart into stripes: by the last column at least, in which neighbours differ.
    pub fn is_spread(&self) -> bool {
        self.columns.last().is_some_and(|column| column.spread.is_some())
    }

    /// Whether remainders decide.
    pub fn is_by_remainder(&self) -> bool {
        self.columns.len() == 1 && self.columns[0].spread == Some(Spread::Remainder)
    }

    /// The remainder that is never negative, of an expression in `int8`.
    fn remainder_sql(value: &str, k: &str) -> String {
        format!(
            "(({value} OPERATOR(pg_catalog.%) {k}) OPERATOR(pg_catalog.+) {k}) OPERATOR(pg_catalog.%) {k}"
        )
    }

    /// The keys of a stripe that there may be in a slice with both ends, as a list for the index. They are the same as those of
    /// [`Key::stripe_sql`], and only the quicker way to them.
    fn list_sql(&self, table: &Ident, first: usize) -> String {
        let column = &self.columns[0];
        let value = |n: usize| format!("${n}::pg_catalog.int8");
        let (after, upto, k, j) =
            (value(first), value(first + 1), value(first + 2), value(first + 3));
        let start = format!("({after} OPERATOR(pg_catalog.+) 1)");
        let step = Key::remainder_sql(
            &format!("({j} OPERATOR(pg_catalog.-) ({start} OPERATOR(pg_catalog.%) {k}))"),
            &k,
        );
        format!(
            "{table}.{} OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT backfill_key::{} FROM pg_catalog.generate_series({start} OPERATOR(pg_catalog.+) ({step}), {upto}, {k}) AS backfill_key))",
            column.name, column.type_sql
        )
    }

    /// Each column's hash is the seed of the next one's, as far as there are hashes. Without its sign, because a remainder keeps that.
    fn stripe_sql(&self, table: &Ident, first: usize) -> String {
        let (k, j) =
            (format!("${first}::pg_catalog.int8"), format!("${}::pg_catalog.int8", first + 1));
        if self.is_by_remainder() {
            let value = format!("{table}.{}::pg_catalog.int8", self.columns[0].name);
            return format!("{} OPERATOR(pg_catalog.=) {j}", Key::remainder_sql(&value, &k));
        }
        let hash = self.columns.iter().fold("0".to_owned(), |seed, column| match &column.spread {
            Some(spread) => format!("{}({table}.{}, {seed})", spread.as_str(), column.name),
            None => seed,
        });
        let hash = format!("({hash} OPERATOR(pg_catalog.&) {})", i64::MAX);
        format!("{hash} OPERATOR(pg_catalog.%) {k} OPERATOR(pg_catalog.=) {j}")
    }

    /// How many parameters [`Key::range_sql`] takes.
    pub fn range_params(&self, form: Form) -> usize {
        let stripe = if form.stripe == Striped::No { 0 } else { 2 };
        self.columns.len() * if form.has_after { 2 } else { 1 } + stripe
    }

    /// `key > $first…`: everything behind a bound.
    pub fn behind_sql(&self, table: &Ident, first: usize) -> String {
        self.compare_sql(table, End::After, first)
    }

    /// A row comparison, plus a plain bound on the leading column: the row form alone prunes no partition and is
    /// estimated on its first column only.
    fn compare_sql(&self, table: &Ident, end: End, first: usize) -> String {
        let (strict, loose) = match end {
            End::After => (">", ">="),
            End::Upto => ("<=", "<="),
        };
        let value = |i: usize| format!("${}::{}", first + i, self.columns[i].type_sql);
        let leading = format!("{table}.{}", self.columns[0].name);
        if self.columns.len() == 1 {
            return format!("{leading} {strict} {}", value(0));
        }
        let values: Vec<String> = (0..self.columns.len()).map(value).collect();
        let columns = self.columns_sql(table);
        format!("({columns}) {strict} ({}) AND {leading} {loose} {}", values.join(", "), value(0))
    }

    fn join(&self, render: impl Fn(&KeyColumn) -> String) -> String {
        self.columns.iter().map(render).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(columns: &[(&str, &str)]) -> Key {
        let column = |(name, ty): &(&str, &str)| KeyColumn {
            name: Ident::new(*name),
            type_sql: (*ty).to_owned(),
            type_name: (*ty).to_owned(),
            spread: Some(Spread::Hash(format!("pg_catalog.hash{ty}extended"))),
        };
        Key { columns: columns.iter().map(column).collect() }
    }

    #[test]
    fn one_column_is_a_plain_comparison() {
        let key = key(&[("id", "int8")]);
        assert_eq!(
            key.range_sql(&Ident::new("t"), Form::WHOLE, 1),
            r#""t"."id" > $1::int8 AND "t"."id" <= $2::int8"#
        );
        assert_eq!(key.range_sql(&Ident::new("t"), Form::FIRST, 3), r#""t"."id" <= $3::int8"#);
    }

    #[test]
    fn several_columns_are_a_row_comparison_with_a_leading_bound() {
        let key = key(&[("a", "int4"), ("b", "text")]);
        assert_eq!(
            key.range_sql(&Ident::new("t"), Form::WHOLE, 1),
            r#"("t"."a", "t"."b") > ($1::int4, $2::text) AND "t"."a" >= $1::int4 AND ("t"."a", "t"."b") <= ($3::int4, $4::text) AND "t"."a" <= $3::int4"#
        );
        assert_eq!(key.range_params(Form::WHOLE), 4);
    }

    #[test]
    fn a_stripe_hashes_all_columns() {
        let form = Form { has_after: false, stripe: Striped::Scanned };
        let sql = key(&[("a", "int4"), ("b", "text")]).range_sql(&Ident::new("t"), form, 1);
        let expected = r#"(pg_catalog.hashtextextended("t"."b", pg_catalog.hashint4extended("t"."a", 0)) OPERATOR(pg_catalog.&) 9223372036854775807) OPERATOR(pg_catalog.%) $3::pg_catalog.int8 OPERATOR(pg_catalog.=) $4::pg_catalog.int8"#;
        assert!(sql.ends_with(expected), "{sql}");
        let range = KeyRange {
            stripe: Some(Stripe { j: 2, k: 8, is_dense: true }),
            ..KeyRange::new(None, Bound(vec!["7".into(), "x".into()]))
        };
        assert_eq!((range.form(), range.params().join(" ")), (form, "7 x 8 2".to_owned()));
    }
}
