//! A declared backfill, `backfills/NAME.toml`.
//!
//! [`Spec::parse`] turns the file's text into a [`Spec`], or into a report of every problem in it, each with its line and
//! caret. SQL inside is checked only lexically (it cannot leave its parentheses); whether it means anything is the
//! server's judgement, made by [`crate::plan`] and shown at the same lines. Pure.

pub mod from_sql;

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::calendar::{self, Calendar};
use crate::diagnostic::{Diagnostic, Report};
use crate::document::{self, Section};
use crate::settings::Layer;
use crate::signal;
use crate::sql::{self, Expr};
use crate::undo::UndoMode;
use crate::vacuum;

/// How a rule writes a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Only where the column is NULL today.
    Fill,
    /// Whatever the column holds today.
    Set,
}

/// One column that a rule writes.
#[derive(Clone, Debug)]
pub struct Write {
    /// The column's name, as the catalog spells it.
    pub column: Expr,
    /// `fill` or `set`.
    pub verb: Verb,
    /// The new value.
    pub value: Expr,
}

/// A `[[rule]]`: for each column, the first rule that writes it and whose `when` holds decides.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The rows it is for; all, when not given.
    pub when: Option<Expr>,
    /// What it writes; never empty.
    pub writes: Vec<Write>,
}

/// `order`: how the table is gone through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// As it suits the table.
    #[default]
    Auto,
    /// Slices in key order.
    Key,
    /// By place in the heap, and what was moved meanwhile by key.
    Physical,
    /// Slices in key order, passed over several times, each time for the rows of one stripe.
    Striped,
}

/// `order` and `stripes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// The order.
    pub kind: Kind,
    /// How many stripes; as it suits the table when not given.
    pub stripes: Option<i16>,
}

/// Most stripes: each is one more pass over the rows.
const STRIPES_MAX: u64 = 64;

/// A declared backfill.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The file's name without `.toml`.
    pub name: String,
    /// The path as the user would type it.
    pub path: String,
    /// The file's text.
    pub source: String,
    /// What it is for, in the author's words.
    pub description: Option<String>,
    /// The table, as an SQL name.
    pub table: Expr,
    /// The columns of the unique index to cut by; the primary key when not given.
    pub key: Option<Vec<Expr>>,
    /// A join source usable in `when`, `fill` and `set`.
    pub from: Option<Expr>,
    /// The rules, in the order that decides.
    pub rules: Vec<Rule>,
    /// `[verify] remaining`: the author's own condition for a row still to do.
    pub remaining: Option<Expr>,
    /// `[undo]`: how a run can be taken back.
    pub undo: Undo,
    /// Whether expressions may be volatile: another attempt at a chunk may then write other values.
    pub allow_volatile: bool,
    /// `order` and `stripes`.
    pub order: Order,
    /// `[limits]`.
    pub limits: Layer,
    /// `[[throttle.window]]`; none when the project's hold.
    pub calendar: Option<Calendar>,
    /// `[health]`; none when the project's hold.
    pub health: Option<signal::Settings>,
    /// `[vacuum]`; none when the project's holds.
    pub vacuum: Option<vacuum::Settings>,
}

/// `[undo]`.
#[derive(Clone, Debug, Default)]
pub struct Undo {
    /// By what.
    pub mode: UndoMode,
    /// The rules of the way back; empty unless the mode is `statement`.
    pub rules: Vec<Rule>,
}

impl Spec {
    /// Reads the text of `path`; all problems at once.
    pub fn parse(name: &str, path: &str, source: &str) -> Result<Spec, Report> {
        let read = |root: &Section<'_>| read_spec(root, name, path, source);
        document::read(source, read).map_err(|problems| Report::new(path, source, problems))
    }

    /// SHA-256 of the text, as hex; line ends and trailing blanks do not count.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for line in self.source.lines() {
            hasher.update(line.trim_end());
            hasher.update("\n");
        }
        hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Every written column once, in order of first appearance, with its verb.
    pub fn columns(&self) -> Vec<(&Expr, Verb)> {
        let mut columns: Vec<(&Expr, Verb)> = Vec::new();
        for write in self.rules.iter().flat_map(|rule| &rule.writes) {
            if !columns.iter().any(|(column, _)| column.text == write.column.text) {
                columns.push((&write.column, write.verb));
            }
        }
        columns
    }

    /// Whether it writes only where there is nothing, so that a second run finds nothing to do.
    pub fn only_fills(&self) -> bool {
        self.columns().iter().all(|(_, verb)| *verb == Verb::Fill)
    }

    /// The way back as a spec of its own, when the author gave rules for it.
    pub fn way_back(&self) -> Option<Spec> {
        let way_back = || Spec {
            rules: self.undo.rules.clone(),
            remaining: None,
            undo: Undo { mode: UndoMode::None, rules: Vec::new() },
            ..self.clone()
        };
        (self.undo.mode == UndoMode::Statement).then(way_back)
    }

    /// A report of problems found later, at this spec's lines.
    pub fn report(&self, problems: Vec<Diagnostic>) -> Report {
        Report::new(&self.path, &self.source, problems)
    }
}

/// Whether a name can be a file name, a lock name and a word on a command line without quoting.
pub fn check_name(name: &str) -> Result<(), String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > 100 || !name.chars().all(valid) || name.starts_with('-') {
        return Err(format!(
            "`{name}` is not a backfill's name: use letters, digits, `_` and `-`, at most 100"
        ));
    }
    Ok(())
}

fn read_spec(root: &Section<'_>, name: &str, path: &str, source: &str) -> Option<Spec> {
    let description = root.text("description").map(|e| e.text);
    let table = root.text("table");
    if table.is_none() {
        let problem = Diagnostic::new("`table` is missing", root.span(), "no table named");
        root.problem(problem.help("add `table = \"public.my_table\"`"));
    }
    let key = root.texts("key");
    let from = root.text("from").inspect(|from| check_sql(root, from));
    let rules = root.sections("rule", read_rule);
    if !root.has("rule") {
        let problem = Diagnostic::new("no rule", root.span(), "nothing to write");
        root.problem(problem.help("add a `[[rule]]` with `fill` or `set`"));
    }
    check_verbs(root, &rules);
    let remaining = root.section("verify", |verify| {
        let remaining = verify.text("remaining").inspect(|e| check_sql(verify, e));
        if remaining.is_none() {
            let problem =
                Diagnostic::new("`remaining` is missing", verify.span(), "nothing to check");
            verify
                .problem(problem.help("add `remaining = \"SQL condition of a row still to do\"`"));
        }
        remaining
    });
    let undo = root.section("undo", |undo| read_undo(undo, &rules)).unwrap_or_default();
    let limits = Layer::read(root);
    let calendar = calendar::read::calendar(root);
    let health = signal::Settings::read(root);
    let vacuum = vacuum::Settings::read(root);
    let order = read_order(root);
    let allow_volatile = root.boolean("allow_volatile").unwrap_or(false);
    Some(Spec {
        name: name.to_owned(),
        path: path.to_owned(),
        source: source.to_owned(),
        description,
        table: table?,
        key,
        from,
        rules,
        remaining,
        undo,
        allow_volatile,
        order,
        limits,
        calendar,
        health,
        vacuum,
    })
}

fn read_order(root: &Section<'_>) -> Order {
    let read = |text: &str| match text {
        "auto" => Ok(Kind::Auto),
        "key" => Ok(Kind::Key),
        "striped" => Ok(Kind::Striped),
        "physical" => Ok(Kind::Physical),
        other => Err(format!("`{other}` is no order")),
    };
    let kind = root
        .parsed("order", "one of `auto`, `key`, `striped` and `physical`", read)
        .unwrap_or_default();
    let stripes = root.integer("stripes", 2..=STRIPES_MAX).map(|n| n as i16);
    if stripes.is_some() && kind == Kind::Key {
        let problem = Diagnostic::new(
            "`stripes` with `order = \"key\"`",
            root.span(),
            "no stripes in key order",
        );
        root.problem(problem.help("leave one of them out"));
    }
    Order { kind, stripes }
}

/// The way back may only set what the way there writes: anything else would not be taking back.
fn read_undo(undo: &Section<'_>, rules: &[Rule]) -> Option<Undo> {
    let read = |text: &str| text.parse::<UndoMode>().map_err(|error| error.to_string());
    let mode =
        undo.parsed("mode", "one of `capture`, `statement` and `none`", read).unwrap_or_default();
    let back = undo.sections("rule", read_rule);
    let written =
        |name: &str| rules.iter().flat_map(|rule| &rule.writes).any(|w| w.column.text == name);
    for write in back.iter().flat_map(|rule| &rule.writes) {
        let (message, help) = match write.verb {
            Verb::Fill => {
                ("an undo rule fills".to_owned(), "use `set`: it says what the column gets back")
            }
            Verb::Set if !written(&write.column.text) => {
                let message =
                    format!("column `{}` is not written by this backfill", write.column.text);
                (message, "an undo rule can only set what the rules write")
            }
            Verb::Set => continue,
        };
        undo.problem(Diagnostic::new(message, write.column.span.clone(), "not here").help(help));
    }
    let problem = match (mode, undo.has("rule")) {
        (UndoMode::Statement, false) => Some((
            "no undo rule",
            "add `[[undo.rule]]` with `when` and `set`, or leave `mode` out to keep before-images",
        )),
        (UndoMode::Capture | UndoMode::None, true) => Some((
            "undo rules without `mode = \"statement\"`",
            "add `mode = \"statement\"` to [undo]",
        )),
        _ => None,
    };
    if let Some((message, help)) = problem {
        undo.problem(Diagnostic::new(message, undo.span(), "here").help(help));
    }
    Some(Undo { mode, rules: back })
}

fn read_rule(rule: &Section<'_>) -> Option<Rule> {
    let when = rule.text("when").inspect(|when| check_sql(rule, when));
    let mut writes = Vec::new();
    for (key, verb) in [("fill", Verb::Fill), ("set", Verb::Set)] {
        for (column, value) in rule.entries(key) {
            check_sql(rule, &value);
            writes.push(Write { column, verb, value });
        }
    }
    if writes.is_empty() {
        let problem =
            Diagnostic::new("the rule writes nothing", rule.span(), "no `fill`, no `set`");
        rule.problem(problem.help("add `fill = { column = \"SQL expression\" }`"));
        return None;
    }
    Some(Rule { when, writes })
}

fn check_sql(section: &Section<'_>, expr: &Expr) {
    if let Err(problem) = sql::check_expression(&expr.text) {
        let span = expr.locate(problem.offset);
        section.problem(Diagnostic::new("the SQL does not hold together", span, problem.message));
    }
}

/// A column is either filled or set: mixed, "only where it is NULL" and "whatever it holds" would decide by rule order
/// which rows count as done, and no reader would guess how.
fn check_verbs(root: &Section<'_>, rules: &[Rule]) {
    let mut verbs: BTreeMap<&str, Verb> = BTreeMap::new();
    for rule in rules {
        let mut in_rule: Vec<&str> = Vec::new();
        for write in &rule.writes {
            let name = write.column.text.as_str();
            let first = *verbs.entry(name).or_insert(write.verb);
            if in_rule.contains(&name) || first != write.verb {
                let message = format!("column `{name}` is both filled and set");
                let problem = Diagnostic::new(message, write.column.span.clone(), "the other verb");
                root.problem(problem.help("use one of `fill` and `set` for a column"));
            }
            in_rule.push(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
description = "phases"
table = "public.skills"
[[rule]]
when = "category = 'development'"
fill = { governance_phases = "ARRAY['build']" }
[[rule]]
set = { quota = "quota * 2" }
[limits]
workers = 4
"#;

    #[test]
    fn a_good_spec_is_read() {
        let spec = Spec::parse("phases", "backfills/phases.toml", GOOD).unwrap();
        assert_eq!(spec.table.text, "public.skills");
        assert_eq!(spec.rules.len(), 2);
        let columns: Vec<_> = spec.columns().iter().map(|(c, v)| (c.text.clone(), *v)).collect();
        assert_eq!(
            columns,
            [("governance_phases".into(), Verb::Fill), ("quota".into(), Verb::Set)]
        );
        assert_eq!(spec.limits.workers, Some(4));
        assert_eq!(
            spec.digest(),
            Spec::parse("x", "y", &GOOD.replace('\n', "  \r\n")).unwrap().digest()
        );
    }

    #[test]
    fn all_problems_come_at_once_with_their_places() {
        let source = "tabel = \"t\"\n[[rule]]\nwhen = \"(a\"\nfill = { c = \"1\" }\nset = { c = \"2\" }\n[[rule]]\nwhen = \"true\"\n";
        let report = Spec::parse("x", "backfills/x.toml", source).unwrap_err();
        let found: Vec<(usize, usize, &str)> =
            report.located().map(|l| (l.line, l.column, l.message)).collect();
        assert_eq!(
            found,
            [
                (1, 1, "`table` is missing"),
                (1, 1, "unknown key `tabel`"),
                (3, 9, "the SQL does not hold together"),
                (5, 9, "column `c` is both filled and set"),
                (6, 1, "the rule writes nothing"),
            ]
        );
        assert!(report.render(false).contains("backfills/x.toml:3:9"), "{}", report.render(false));
        assert!(report.render(false).contains("did you mean `table`?"));
    }

    #[test]
    fn names_are_plain_words() {
        assert!(check_name("governance_phases").is_ok());
        for bad in ["", "../x", "a b", "-x", "é"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
