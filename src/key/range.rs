//! Ranges of a key, and the conditions of a statement over one. Pure.
//!
//! A range of several columns is a comparison of whole keys, and that is where an index scan begins; but it does not end there. The server
//! stops at the end of the leading value: with a tenant of a hundred million rows, every chunk would read what is left of the tenant. So a
//! statement that must not read on is sent for [`Part`]s of the range, each of which compares single columns.

use super::{Bound, Key, KeyColumn, Spread};
use crate::sql::Ident;

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
    /// The only keys of the slice that are looked at, as a JSON array with an array of texts for each; none for all of them.
    pub only: Option<String>,
}

/// Which conditions a range has, which decides the text of its statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Whether it has a lower end.
    pub has_after: bool,
    /// Whether it is a stripe, and how that is found.
    pub stripe: Striped,
    /// Which part of the range.
    pub part: Part,
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

/// A part of a range. The parts of a range are disjoint and together the range, whatever the server finds equal: ends count as equal
/// in a column only where their texts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it, by comparing whole keys.
    Whole,
    /// Those keys of it that are listed.
    Only,
    /// All of it, where the ends differ in the last column alone.
    Last,
    /// Keys that begin like the lower end in one column more than the ends share, which are so many.
    Begin(usize),
    /// Keys between the ends in the first column that these do not share, of this index.
    Middle(usize),
    /// Keys that begin like the upper end in so many columns, the second number, and lie below it in the next one. The ends share the
    /// first number of columns.
    End(usize, usize),
}

impl Part {
    /// Its place among the parts of a range, in the order of the key.
    pub fn ordinal(self) -> usize {
        match self {
            Part::Whole | Part::Only | Part::Last => 0,
            Part::Begin(_) => 1,
            Part::Middle(_) => 2,
            Part::End(_, like) => 2 + like,
        }
    }
}

impl Form {
    /// A whole slice without a lower end.
    pub const FIRST: Form = Form { has_after: false, stripe: Striped::No, part: Part::Whole };
    /// A whole slice with both ends.
    pub const WHOLE: Form = Form { has_after: true, stripe: Striped::No, part: Part::Whole };

    /// All forms for a key of so many columns.
    pub fn all(width: usize) -> Vec<Form> {
        let mut parts = vec![(false, Part::Whole), (true, Part::Whole)];
        if width > 1 {
            parts.extend([(true, Part::Last), (false, Part::Middle(0))]);
            parts.extend((1..width).map(|like| (false, Part::End(0, like))));
            for shared in 0..width - 1 {
                parts.extend([(true, Part::Begin(shared)), (true, Part::Middle(shared))]);
                parts.extend((shared + 1..width).map(|like| (true, Part::End(shared, like))));
            }
        }
        let stripes = [Striped::No, Striped::Scanned];
        let mut forms: Vec<Form> = stripes
            .into_iter()
            .flat_map(|stripe| {
                parts.iter().map(move |(has_after, part)| Form {
                    has_after: *has_after,
                    stripe,
                    part: *part,
                })
            })
            .collect();
        if width == 1 {
            forms.push(Form { stripe: Striped::Listed, ..Form::WHOLE });
        }
        let only = |has_after| Form { has_after, stripe: Striped::No, part: Part::Only };
        forms.extend([only(false), only(true)]);
        forms
    }

    /// The whole slice, as a whole.
    pub fn whole(self) -> Form {
        Form { part: Part::Whole, ..self.unstriped() }
    }

    /// This part of the whole slice.
    pub fn unstriped(self) -> Form {
        Form { stripe: Striped::No, ..self }
    }
}

impl KeyRange {
    /// A whole slice.
    pub fn new(after: Option<Bound>, upto: Bound) -> KeyRange {
        KeyRange { after, upto, stripe: None, only: None }
    }

    /// Which conditions it has as a whole.
    pub fn form(&self) -> Form {
        let has_after = self.after.is_some();
        let stripe = match self.stripe {
            None => Striped::No,
            Some(stripe) if stripe.is_dense && has_after => Striped::Listed,
            Some(_) => Striped::Scanned,
        };
        let part = if self.only.is_some() { Part::Only } else { Part::Whole };
        Form { has_after, stripe, part }
    }

    /// The forms of its parts, in the order of the key. All of them take the parameters of the whole.
    pub fn parts(&self) -> Vec<Form> {
        let (form, width) = (self.form(), self.upto.0.len());
        if width == 1 || self.only.is_some() {
            return vec![form];
        }
        let part = |part: Part| Form { part, ..form };
        let Some(after) = &self.after else {
            let ends = (1..width).map(|like| Part::End(0, like));
            return [Part::Middle(0)].into_iter().chain(ends).map(part).collect();
        };
        let same = after.0.iter().zip(&self.upto.0).take_while(|(a, b)| a == b).count();
        if same >= width - 1 {
            return vec![part(Part::Last)];
        }
        let ends = (same + 1..width).map(|like| Part::End(same, like));
        [Part::Begin(same), Part::Middle(same)].into_iter().chain(ends).map(part).collect()
    }

    /// The parameters for [`Key::range_sql`]: `after` (when there is one), `upto`, the stripe (when it is one), and the listed keys (when
    /// there are any).
    pub fn params(&self) -> Vec<String> {
        let bounds = self.after.iter().chain([&self.upto]).flat_map(|bound| bound.0.clone());
        let stripe = self.stripe.map(|stripe| [stripe.k.to_string(), stripe.j.to_string()]);
        bounds.chain(stripe.into_iter().flatten()).chain(self.only.clone()).collect()
    }
}

/// Where the ends of a range stand among the parameters, and whose columns they are compared with.
struct Ends<'k> {
    key: &'k Key,
    table: &'k Ident,
    /// The first parameter of the lower end.
    after: Option<usize>,
    /// The first parameter of the upper end.
    upto: usize,
}

impl Ends<'_> {
    /// A comparison of one column with a parameter of an end.
    fn column(&self, i: usize, operator: &str, end: usize) -> String {
        let column = &self.key.columns[i];
        format!("{}.{} {operator} ${}::{}", self.table, column.name, end + i, column.type_sql)
    }

    fn lower(&self, i: usize, operator: &str) -> Option<String> {
        self.after.map(|after| self.column(i, operator, after))
    }

    fn upper(&self, i: usize, operator: &str) -> String {
        self.column(i, operator, self.upto)
    }

    /// A comparison of the columns from `from` on, plus a plain bound on the first of them: the row form alone prunes no partition and is
    /// estimated on its first column only.
    fn rows(&self, from: usize, (strict, loose): (&str, &str), end: usize) -> String {
        let columns = &self.key.columns[from..];
        let first = self.column(from, if columns.len() == 1 { strict } else { loose }, end);
        if columns.len() == 1 {
            return first;
        }
        let names = columns.iter().map(|column| format!("{}.{}", self.table, column.name));
        let values =
            columns.iter().enumerate().map(|(i, c)| format!("${}::{}", end + from + i, c.type_sql));
        let list = |items: Vec<String>| items.join(", ");
        format!("({}) {strict} ({}) AND {first}", list(names.collect()), list(values.collect()))
    }

    fn terms(&self, part: Part) -> Vec<String> {
        let width = self.key.columns.len();
        let after = self.after.unwrap_or_default();
        let upto = || self.rows(0, ("<=", "<="), self.upto);
        let equal = |columns: usize, end: usize| {
            (0..columns).map(|i| self.column(i, "=", end)).collect::<Vec<_>>()
        };
        match part {
            Part::Whole | Part::Only => {
                let lower = self.after.map(|after| self.rows(0, (">", ">="), after));
                lower.into_iter().chain([upto()]).collect()
            }
            Part::Last => {
                let last = width - 1;
                let ends = self.lower(last, ">").into_iter().chain([self.upper(last, "<=")]);
                equal(last, after).into_iter().chain(ends).collect()
            }
            Part::Begin(shared) => {
                let behind = self.rows(shared + 1, (">", ">="), after);
                equal(shared + 1, after).into_iter().chain([behind, upto()]).collect()
            }
            Part::Middle(at) => {
                let ends = self.lower(at, ">").into_iter().chain([self.upper(at, "<")]);
                equal(at, self.upto).into_iter().chain(ends).collect()
            }
            Part::End(shared, like) => {
                let operator = if like == width - 1 { "<=" } else { "<" };
                let ends = [self.upper(like, operator)];
                let ends = ends.into_iter().chain(self.lower(shared, ">"));
                equal(like, self.upto).into_iter().chain(ends).collect()
            }
        }
    }
}

impl Key {
    /// The predicate of a range, or of a part of one, over the columns of `table`. Parameters are numbered from `first`: the columns of
    /// `after`, those of `upto`, then the number of stripes and the stripe, then the listed keys, as far as the form has them.
    pub fn range_sql(&self, table: &Ident, form: Form, first: usize) -> String {
        let width = self.columns.len();
        let upto = first + if form.has_after { width } else { 0 };
        let ends = Ends { key: self, table, after: form.has_after.then_some(first), upto };
        let mut terms = ends.terms(form.part);
        if form.stripe != Striped::No {
            terms.push(self.stripe_sql(table, upto + width));
        }
        if form.stripe == Striped::Listed {
            terms.push(self.list_sql(table, first));
        }
        if form.part == Part::Only {
            terms.push(self.only_sql(table, upto + width));
        }
        terms.join(" AND ")
    }

    /// The predicate of all keys behind a lower end, whose parameters are numbered from `first`.
    pub fn behind_sql(&self, table: &Ident, first: usize) -> String {
        Ends { key: self, table, after: Some(first), upto: first }.rows(0, (">", ">="), first)
    }

    /// How many parameters [`Key::range_sql`] takes.
    pub fn range_params(&self, form: Form) -> usize {
        let stripe = if form.stripe == Striped::No { 0 } else { 2 };
        let only = usize::from(form.part == Part::Only);
        self.columns.len() * if form.has_after { 2 } else { 1 } + stripe + only
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

    /// The keys that a parameter lists.
    fn only_sql(&self, table: &Ident, param: usize) -> String {
        let value = |(i, column): (usize, &KeyColumn)| {
            format!("(backfill_key OPERATOR(pg_catalog.->>) {i})::{}", column.type_sql)
        };
        let values: Vec<String> = self.columns.iter().enumerate().map(value).collect();
        let listed = |values: &str| {
            format!(
                "SELECT {values} FROM pg_catalog.jsonb_array_elements(${param}::pg_catalog.text::pg_catalog.jsonb) AS backfill_listed (backfill_key)"
            )
        };
        let are_listed =
            format!("({}) IN ({})", self.columns_sql(table), listed(&values.join(", ")));
        match self.lists_by_index() {
            true => {
                let column = &self.columns[0].name;
                format!("{table}.{column} = ANY (ARRAY({})) AND {are_listed}", listed(&values[0]))
            }
            false => are_listed,
        }
    }

    /// Whether listed keys are found in the index without any join, however the planner is to join: by an array of them. An array of arrays
    /// would be taken for all of their elements.
    pub fn lists_by_index(&self) -> bool {
        match self.columns.as_slice() {
            [KeyColumn { spread: Some(Spread::Hash(function)), .. }] => {
                !function.contains("hash_array")
            }
            [KeyColumn { spread: Some(Spread::Remainder), .. }] => true,
            _ => false,
        }
    }

    /// Each column's hash is the seed of the next one's, as far as there are hashes. Without its sign, because a remainder keeps that.
    fn stripe_sql(&self, table: &Ident, first: usize) -> String {
        let (k, j) =
            (format!("${first}::pg_catalog.int8"), format!("${}::pg_catalog.int8", first + 1));
        if self.is_by_remainder() {
            let value = format!("{table}.{}::pg_catalog.int8", self.columns[0].name);
            return format!("{} OPERATOR(pg_catalog.=) {j}", Key::remainder_sql(&value, &k));
        }
        if let [KeyColumn { name, spread: Some(Spread::Item), .. }] = self.columns.as_slice() {
            // A place is sent as four bytes of its page and two of its item there, which has no other cheap way out.
            let item = format!("pg_catalog.get_byte(pg_catalog.tidsend({table}.{name}), 5)");
            return format!("{item} OPERATOR(pg_catalog.%) {k} OPERATOR(pg_catalog.=) {j}");
        }
        let hash = self.columns.iter().fold("0".to_owned(), |seed, column| match &column.spread {
            Some(spread) => format!("{}({table}.{}, {seed})", spread.as_str(), column.name),
            None => seed,
        });
        let hash = format!("({hash} OPERATOR(pg_catalog.&) {})", i64::MAX);
        format!("{hash} OPERATOR(pg_catalog.%) {k} OPERATOR(pg_catalog.=) {j}")
    }
}

#[cfg(test)]
mod tests;
