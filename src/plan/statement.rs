//! The SQL of a run: one UPDATE per chunk, the boundary walk, and the condition of a row still to do. Pure.
//!
//! All rules become one UPDATE, a `CASE` per column, so the table is passed once and every expression sees the row as it was
//! before. Each statement exists in a form for the first chunk, which has no lower bound, and for all others; for whole slices, and for
//! stripes of them.

use super::boundaries::Middle;
use super::capture::Keep;
use super::physical::walked_forms;
use crate::key::{Form, Key};
use crate::spec::{Spec, Verb, Write};
use crate::sql::{Expr, Ident, QualifiedName, SqlText};

/// What the statements need to know of a written column.
#[derive(Clone, Debug)]
pub struct Target {
    /// The column's name.
    pub name: Ident,
    /// Its type as SQL, of a domain what it is based on, without length or precision: the assignment itself then checks those, where a cast
    /// would cut silently.
    pub type_sql: String,
    /// Its type as SQL, with the precision to which the column rounds what it is assigned.
    pub held_sql: String,
    /// Its collation as SQL, when it has one: values are compared by that.
    pub collation: Option<String>,
}

/// A statement for chunks with and without a lower bound, and for stripes of them.
#[derive(Clone, Debug)]
pub struct ByRange {
    forms: Vec<(Form, String)>,
}

impl ByRange {
    /// Renders all forms for a key of so many columns.
    pub fn new(width: usize, render: impl Fn(Form) -> String) -> ByRange {
        ByRange::of(Form::all(width), render)
    }

    /// Renders these forms.
    pub fn of(forms: Vec<Form>, render: impl Fn(Form) -> String) -> ByRange {
        let forms = forms.into_iter();
        ByRange { forms: forms.map(|form| (form, render(form))).collect() }
    }

    /// The text for a range of this form.
    pub fn get(&self, form: Form) -> &str {
        self.forms.iter().find(|(known, _)| *known == form).map_or("", |(_, text)| text)
    }
}

/// Everything the engine sends to the target table.
#[derive(Clone, Debug)]
pub struct ChunkSql {
    /// The UPDATE. Parameters: the range. With [`ChunkSql::keep`] that runs in its place.
    pub update: ByRange,
    /// What runs when before-images are kept or given back.
    pub keep: Option<Keep>,
    /// Set where every join is to be made once a statement, never row by row: begin with [`super::IN_BULK`]. How many bytes of its source
    /// each statement then reads.
    pub joins_in_bulk: Option<i64>,
    /// Refuses an ambiguous join: the key of a row that several source rows match. Parameters: the range.
    pub ambiguous: Option<ByRange>,
    /// Boundaries of the next whole chunks. Parameters: the range from the last cut to the ceiling, entries a chunk, how many
    /// chunks. Columns: key, whether it is the ceiling.
    pub boundaries: ByRange,
    /// The last of the next entries. Parameters: the range, how many entries at most. Columns: key, entries, whether it is the
    /// ceiling.
    pub stretch: ByRange,
    /// The middle of a chunk.
    pub middle: Middle,
}

/// Builds the statements from a spec, the columns it writes and the key.
pub struct Builder<'a> {
    /// The spec.
    pub spec: &'a Spec,
    /// The table.
    pub table: &'a QualifiedName,
    /// The key to cut by.
    pub key: &'a Key,
    /// The written columns, in the order of [`Spec::columns`].
    pub targets: &'a [Target],
    /// The leaf of the table that they are for, as SQL; none for the table itself.
    pub leaf: Option<String>,
    /// As [`ChunkSql::joins_in_bulk`].
    pub joins_in_bulk: Option<i64>,
    /// Whether ranges are of places in the heap instead of keys.
    pub is_walk: bool,
    /// Row versions of this transaction and of later ones are in no range of places.
    pub older_than: Option<i64>,
}

impl<'a> Builder<'a> {
    /// For ranges of the key, of the table itself.
    pub fn new(
        spec: &'a Spec,
        table: &'a QualifiedName,
        key: &'a Key,
        targets: &'a [Target],
    ) -> Builder<'a> {
        Builder {
            spec,
            table,
            key,
            targets,
            leaf: None,
            joins_in_bulk: None,
            is_walk: false,
            older_than: None,
        }
    }
}

impl Builder<'_> {
    /// Renders a statement in all forms of the key.
    pub(super) fn by_range(&self, render: impl Fn(Form) -> String) -> ByRange {
        if self.is_walk {
            return ByRange::of(walked_forms(), render);
        }
        ByRange::new(self.key.columns.len(), render)
    }

    /// The predicate of a range, whose parameters come first.
    pub(super) fn range_sql(&self, form: Form) -> String {
        match self.is_walk {
            true => {
                let range = Key::places().range_sql(self.name(), form, 1);
                self.older_than.map_or(range.clone(), |xid| self.older_sql(&range, xid))
            }
            false => self.key.range_sql(self.name(), form, 1),
        }
    }

    /// How many parameters that takes.
    pub(super) fn range_params(&self, form: Form) -> usize {
        match self.is_walk {
            true => Key::places().range_params(form),
            false => self.key.range_params(form),
        }
    }

    /// All statements of a run.
    pub fn chunk_sql(&self) -> ChunkSql {
        let update = self.by_range(|form| self.update(form).as_str().to_owned());
        let ambiguous =
            self.spec.from.is_some().then(|| self.by_range(|form| self.ambiguous(form)));
        ChunkSql {
            update,
            keep: None,
            joins_in_bulk: self.joins_in_bulk,
            ambiguous,
            boundaries: self.boundaries(),
            stretch: self.stretch(),
            middle: self.middle(),
        }
    }

    /// The UPDATE of one chunk, with origins.
    pub fn update(&self, form: Form) -> SqlText {
        self.update_where(&self.range_sql(form))
    }

    /// The UPDATE of the rows for which this holds, as far as they need it.
    pub(super) fn update_where(&self, these: &str) -> SqlText {
        let mut sql = SqlText::default();
        sql.push(&format!("UPDATE {}\n   SET ", self.target()));
        for (i, target) in self.targets.iter().enumerate() {
            if i > 0 {
                sql.push(",\n       ");
            }
            sql.push(&format!("{} = ", target.name)).append(&self.assigned(target));
        }
        self.push_from(&mut sql);
        sql.push(&format!("\n WHERE {these}\n   AND ("));
        sql.append(&self.needed()).push(")");
        sql
    }

    /// The condition of a row that the UPDATE would write.
    pub fn needed(&self) -> SqlText {
        let mut terms: Vec<SqlText> = Vec::new();
        for (target, (_, verb)) in self.targets.iter().zip(self.spec.columns()) {
            let term = match verb {
                Verb::Fill => self.fill_needed(target),
                Verb::Set => self.any_when(target),
            };
            if !terms.iter().any(|seen| seen.as_str() == term.as_str()) {
                terms.push(term);
            }
        }
        join(&terms, "\n    OR ")
    }

    /// The condition of a row whose set columns do not hold what their rules say. Only meaningful when no rule reads what
    /// a rule writes.
    ///
    /// Compared with the value as the column rounds it. Compared as records: that goes by each type's own equality, where a comparison of the values themselves looks for an operator in the
    /// author's path, and for arrays, domains and varchar would find one that anybody made for exactly that type. Two ROWs side by side
    /// are taken apart into such comparisons; behind COALESCE they are not.
    pub fn differing(&self) -> SqlText {
        let mut terms: Vec<SqlText> = Vec::new();
        for (target, (_, verb)) in self.targets.iter().zip(self.spec.columns()) {
            match verb {
                Verb::Fill => terms.push(self.fill_needed(target)),
                Verb::Set => {
                    let mut term = self.any_when(target);
                    let held = self.column(target);
                    term.push(&format!(
                        " AND COALESCE(ROW({held})) IS DISTINCT FROM COALESCE(ROW("
                    ));
                    // A CASE without ELSE would be of a domain's base type, and records of different types are not compared.
                    let held = Target { type_sql: target.held_sql.clone(), ..target.clone() };
                    term.append(&self.decided(&held, Otherwise::Keep));
                    if let Some(collation) = &target.collation {
                        term.push(&format!(" COLLATE {collation}"));
                    }
                    terms.push(term.push("))").clone());
                }
            }
        }
        join(&terms, "\n    OR ")
    }

    /// A query that the server refuses when a written column is of a type without an equality of its own.
    pub fn equality(&self) -> SqlText {
        let nulls: Vec<String> =
            self.targets.iter().map(|target| format!("NULL::{}", target.type_sql)).collect();
        let nulls = nulls.join(", ");
        let mut sql = SqlText::default();
        sql.push(&format!("SELECT {nulls} INTERSECT SELECT {nulls}")).clone()
    }

    /// ` FROM table, source`, for look-ups that read like the UPDATE.
    pub fn from_target(&self) -> SqlText {
        let mut sql = SqlText::default();
        sql.push(&format!("\n  FROM {}", self.target()));
        if let Some(from) = &self.spec.from {
            sql.push(",\n       ").push_raw(from).push("\n");
        }
        sql
    }

    /// What stands behind UPDATE and FROM. Expressions know a leaf by the table's name.
    pub(super) fn target(&self) -> String {
        match &self.leaf {
            Some(leaf) => format!("{leaf} AS {}", self.table.name),
            None => self.table.to_string(),
        }
    }

    pub(super) fn name(&self) -> &Ident {
        &self.table.name
    }

    fn column(&self, target: &Target) -> String {
        format!("{}.{}", self.name(), target.name)
    }

    /// The rules that write a column, in deciding order; those behind one without a condition never decide.
    fn deciding(&self, target: &Target) -> Vec<(Option<&Expr>, &Write)> {
        let mut found = Vec::new();
        for rule in &self.spec.rules {
            for write in rule.writes.iter().filter(|w| w.column.text == target.name.as_str()) {
                found.push((rule.when.as_ref(), write));
                if rule.when.is_none() {
                    return found;
                }
            }
        }
        found
    }

    fn push_from(&self, sql: &mut SqlText) {
        if let Some(from) = &self.spec.from {
            sql.push("\n  FROM ").push_raw(from);
        }
    }

    /// The new value of a column for a row that the UPDATE touches.
    fn assigned(&self, target: &Target) -> SqlText {
        let (_, verb) = self.spec.columns()[self.index(target)];
        let is_only = self.targets.len() == 1;
        let deciding = self.deciding(target);
        // One rule and one column: the WHERE clause has already established that the rule applies, and without a CASE the value
        // meets the column by assignment, as in a hand-written UPDATE.
        if let ([(_, write)], true) = (deciding.as_slice(), is_only) {
            return SqlText::default().push_expr(&write.value).clone();
        }
        match verb {
            Verb::Fill if is_only => self.decided(target, Otherwise::Null),
            Verb::Fill => {
                let mut sql = SqlText::default();
                sql.push(&format!("COALESCE({}, ", self.column(target)));
                sql.append(&self.decided(target, Otherwise::Null)).push(")").clone()
            }
            Verb::Set => self.decided(target, Otherwise::Keep),
        }
    }

    fn index(&self, target: &Target) -> usize {
        self.targets.iter().position(|t| t.name == target.name).unwrap_or_default()
    }

    /// What the rules decide for a column, as a CASE.
    fn decided(&self, target: &Target, otherwise: Otherwise) -> SqlText {
        let mut sql = SqlText::default();
        let deciding = self.deciding(target);
        let cast = format!("::{}", target.type_sql);
        if let [(None, write)] = deciding.as_slice() {
            return sql.push_expr(&write.value).push(&cast).clone();
        }
        sql.push("CASE");
        let mut is_total = false;
        for (when, write) in deciding {
            match when {
                Some(when) => sql.push(" WHEN ").push_expr(when).push(" THEN "),
                None => {
                    is_total = true;
                    sql.push(" ELSE ")
                }
            };
            sql.push_expr(&write.value).push(&cast);
        }
        if !is_total && matches!(otherwise, Otherwise::Keep) {
            sql.push(&format!(" ELSE {}", self.column(target)));
        }
        sql.push(" END").clone()
    }

    /// A fill that would write NULL does nothing, and such a row is not one to do.
    fn fill_needed(&self, target: &Target) -> SqlText {
        let mut sql = SqlText::default();
        sql.push(&format!("{} IS NULL AND ", self.column(target)));
        // Beside the CASE, so that the planner sees the condition: it may be what the source is joined by.
        match self.deciding(target).as_slice() {
            [(Some(when), _)] => {
                sql.push_expr(when).push(" AND ");
            }
            // Several conditions may have the join in common.
            [(Some(_), _), ..] if self.spec.from.is_some() => {
                sql.append(&self.any_when(target)).push(" AND ");
            }
            _ => {}
        }
        // A CASE, because only that keeps the value from being computed for rows that the condition excludes. And not IS NOT NULL, which
        // for a composite value asks whether all its fields are.
        sql.append(&self.decided(target, Otherwise::Null)).push(" IS DISTINCT FROM NULL").clone()
    }

    fn any_when(&self, target: &Target) -> SqlText {
        let mut terms = Vec::new();
        for (when, _) in self.deciding(target) {
            match when {
                Some(when) => terms.push(SqlText::default().push_expr(when).clone()),
                None => return SqlText::default().push("TRUE").clone(),
            }
        }
        let mut sql = SqlText::default();
        sql.push("(").append(&join(&terms, " OR ")).push(")").clone()
    }

    fn ambiguous(&self, form: Form) -> String {
        let mut sql = SqlText::default();
        sql.push(&format!("SELECT {}", self.key.array_sql(self.name())))
            .append(&self.from_target());
        sql.push(&format!(" WHERE {}\n   AND (", self.range_sql(form)));
        let columns = self.key.columns_sql(self.name());
        sql.append(&self.needed())
            .push(&format!(")\n GROUP BY {columns} HAVING count(*) > 1 LIMIT 1"));
        sql.as_str().to_owned()
    }
}

/// What a CASE yields when no rule applies.
#[derive(Clone, Copy)]
enum Otherwise {
    Null,
    Keep,
}

fn join(terms: &[SqlText], separator: &str) -> SqlText {
    let mut sql = SqlText::default();
    for (i, term) in terms.iter().enumerate() {
        if i > 0 {
            sql.push(separator);
        }
        sql.push(if terms.len() > 1 { "(" } else { "" }).append(term);
        sql.push(if terms.len() > 1 { ")" } else { "" });
    }
    sql
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyColumn;

    fn build(rules: &str, types: &[(&str, &str)]) -> String {
        let spec = Spec::parse("x", "x.toml", &format!("table = \"t\"\n{rules}")).unwrap();
        let column = KeyColumn {
            name: Ident::new("id"),
            type_sql: "int8".into(),
            type_name: "bigint".into(),
            spread: None,
        };
        let key = Key { columns: vec![column] };
        let targets: Vec<Target> = types
            .iter()
            .map(|(name, ty)| Target {
                name: Ident::new(*name),
                type_sql: (*ty).to_owned(),
                held_sql: (*ty).to_owned(),
                collation: None,
            })
            .collect();
        let table = QualifiedName::new("public", "t");
        let builder = Builder::new(&spec, &table, &key, &targets);
        builder.update(Form::WHOLE).as_str().replace('\n', " ")
    }

    #[test]
    fn one_fill_rule_is_a_plain_assignment() {
        let sql =
            build("[[rule]]\nwhen = \"c = 1\"\nfill = { p = \"ARRAY['x']\" }", &[("p", "text[]")]);
        let expected = r#"UPDATE "public"."t"    SET "p" = (ARRAY['x'])  WHERE "t"."id" > $1::int8 AND "t"."id" <= $2::int8    AND ("t"."p" IS NULL AND (c = 1) AND CASE WHEN (c = 1) THEN (ARRAY['x'])::text[] END IS DISTINCT FROM NULL)"#;
        assert_eq!(sql, expected);
    }

    #[test]
    fn the_first_rule_that_applies_decides_each_column() {
        let rules = "[[rule]]\nwhen = \"a\"\nset = { n = \"1\" }\n[[rule]]\nset = { n = \"2\" }\n[[rule]]\nset = { n = \"3\" }";
        let sql = build(rules, &[("n", "int4")]);
        assert!(sql.contains("CASE WHEN (a) THEN (1)::int4 ELSE (2)::int4 END"), "{sql}");
        assert!(sql.ends_with("AND (TRUE)"), "{sql}");
    }

    #[test]
    fn columns_of_different_rules_keep_their_value_where_no_rule_applies() {
        let rules = "[[rule]]\nwhen = \"a\"\nset = { n = \"1\" }\n[[rule]]\nwhen = \"b\"\nfill = { p = \"2\" }";
        let sql = build(rules, &[("n", "int4"), ("p", "int4")]);
        assert!(sql.contains(r#""n" = CASE WHEN (a) THEN (1)::int4 ELSE "t"."n" END"#), "{sql}");
        assert!(
            sql.contains(r#""p" = COALESCE("t"."p", CASE WHEN (b) THEN (2)::int4 END)"#),
            "{sql}"
        );
    }
}
