//! The key that chunks are cut by, and ranges of it.
//!
//! Keys are opaque here: a [`Bound`] is the server's own text for each key column and goes back as `$n::type`; only the
//! server compares them, with the column's own type and collation. A [`KeyRange`] is half-open, `(after, upto]`.
//!
//! Pure: knows no database.

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

/// The keys greater than `after` (all, when there is none) and not greater than `upto`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// Exclusive lower end; none at the beginning of the table.
    pub after: Option<Bound>,
    /// Inclusive upper end.
    pub upto: Bound,
}

impl KeyRange {
    /// The parameters for [`Key::range_sql`]: `after` (when there is one), then `upto`.
    pub fn params(&self) -> Vec<&str> {
        let after = self.after.iter().flat_map(|bound| &bound.0);
        after.chain(&self.upto.0).map(String::as_str).collect()
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

    /// The names for messages: `id` or `tenant, id`.
    pub fn plain(&self) -> String {
        self.join(|column| column.name.as_str().to_owned())
    }

    /// The predicate of a range over the columns of `table`. Parameters are numbered from `first`: the columns of
    /// `after` when `has_after`, then those of `upto`.
    pub fn range_sql(&self, table: &Ident, has_after: bool, first: usize) -> String {
        let width = self.columns.len();
        let mut terms = Vec::new();
        let mut next = first;
        if has_after {
            terms.push(self.compare_sql(table, End::After, next));
            next += width;
        }
        terms.push(self.compare_sql(table, End::Upto, next));
        terms.join(" AND ")
    }

    /// How many parameters [`Key::range_sql`] takes.
    pub fn range_params(&self, has_after: bool) -> usize {
        self.columns.len() * if has_after { 2 } else { 1 }
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
        };
        Key { columns: columns.iter().map(column).collect() }
    }

    #[test]
    fn one_column_is_a_plain_comparison() {
        let key = key(&[("id", "int8")]);
        assert_eq!(
            key.range_sql(&Ident::new("t"), true, 1),
            r#""t"."id" > $1::int8 AND "t"."id" <= $2::int8"#
        );
        assert_eq!(key.range_sql(&Ident::new("t"), false, 3), r#""t"."id" <= $3::int8"#);
    }

    #[test]
    fn several_columns_are_a_row_comparison_with_a_leading_bound() {
        let key = key(&[("a", "int4"), ("b", "text")]);
        assert_eq!(
            key.range_sql(&Ident::new("t"), true, 1),
            r#"("t"."a", "t"."b") > ($1::int4, $2::text) AND "t"."a" >= $1::int4 AND ("t"."a", "t"."b") <= ($3::int4, $4::text) AND "t"."a" <= $3::int4"#
        );
        assert_eq!(key.range_params(true), 4);
    }
}
