//! Pasted UPDATE statements on one table, turned into the text of a spec.
//!
//! The parser only finds places in the author's own text, which goes into the spec letter for letter; whether it means anything is for
//! the server to say at plan time. One statement becomes one rule. A condition `column IS NULL` on the column that is written becomes
//! `fill`. Statements run one after another, rules all at once: where that would make a difference, the conversion refuses.

use std::fmt::Write as _;
use std::ops::Range;

use squawk_lexer::{TokenKind, tokenize};
use squawk_syntax::SourceFile;
use squawk_syntax::ast::{AstNode, SetColumn, Stmt, Update, WhereClauseOrCurrentOf};

use crate::diagnostic::{Diagnostic, Report};

/// What the pasted text is called in messages.
const PATH: &str = "--from-sql";

/// A piece of the pasted text.
#[derive(Clone, Debug)]
struct Piece {
    text: String,
    span: Range<usize>,
}

impl Piece {
    fn of(node: &impl AstNode) -> Piece {
        let range = node.syntax().text_range();
        let span = usize::from(range.start())..usize::from(range.end());
        let whole = node.syntax().text().to_string();
        let text = whole.trim().to_owned();
        let start = span.start + whole.len() - whole.trim_start().len();
        Piece { span: start..start + text.len(), text }
    }
}

/// One statement, taken apart.
struct Statement {
    table: Piece,
    from: Option<Piece>,
    condition: Option<Piece>,
    writes: Vec<(Piece, Piece)>,
    span: Range<usize>,
}

/// A rule to be written.
struct Rule {
    verb: &'static str,
    when: Option<String>,
    writes: Vec<(Piece, Piece)>,
}

/// The text of a spec named `name`, or the reasons why there can be none.
pub fn convert(name: &str, sql: &str) -> Result<String, Report> {
    let report = |problems| Report::new(PATH, sql, problems);
    let statements = parse(sql).map_err(report)?;
    let problems = check(&statements);
    if !problems.is_empty() {
        return Err(report(problems));
    }
    let rules = rules(&statements).map_err(report)?;
    Ok(render(name, &statements[0], &rules))
}

fn parse(sql: &str) -> Result<Vec<Statement>, Vec<Diagnostic>> {
    let parsed = SourceFile::parse(sql);
    let mut problems: Vec<Diagnostic> = parsed
        .errors()
        .iter()
        .map(|error| {
            let span = usize::from(error.range().start())..usize::from(error.range().end());
            Diagnostic::new("the SQL cannot be read", span, error.message())
        })
        .collect();
    let mut statements = Vec::new();
    if problems.is_empty() {
        for stmt in parsed.tree().stmts() {
            match stmt {
                Stmt::Update(update) => match take_apart(&update) {
                    Ok(statement) => statements.push(statement),
                    Err(problem) => problems.push(problem),
                },
                Stmt::EmptyStmt(_) => {}
                other => {
                    let span = Piece::of(&other).span;
                    let problem =
                        Diagnostic::new("only UPDATE can become a rule", span, "another statement");
                    problems.push(problem.help("schema changes belong in migrations/"));
                }
            }
        }
        if statements.is_empty() && problems.is_empty() {
            let problem =
                Diagnostic::new("there is no UPDATE statement", 0..sql.len(), "nothing to convert");
            problems.push(problem);
        }
    }
    if problems.is_empty() { Ok(statements) } else { Err(problems) }
}

fn take_apart(update: &Update) -> Result<Statement, Diagnostic> {
    let refuse = |span: Range<usize>, what: &str, help: &str| {
        Err(Diagnostic::new(format!("{what} cannot become a rule"), span, "not possible here")
            .help(help))
    };
    let whole = Piece::of(update);
    let missing =
        || Diagnostic::new("the UPDATE is not complete", whole.span.clone(), "a part is missing");
    if let Some(with) = update.with_clause() {
        return refuse(
            Piece::of(&with).span,
            "WITH",
            "put the query into `from = \"(…) AS name\"`",
        );
    }
    if let Some(returning) = update.returning_clause() {
        return refuse(Piece::of(&returning).span, "RETURNING", "leave it out");
    }
    if let Some(alias) = update.alias() {
        let help = "leave the alias out and write the table's own name in the expressions";
        return refuse(Piece::of(&alias).span, "an alias of the table", help);
    }
    let table = update.relation_name().ok_or_else(missing)?;
    if table.only_token().is_some() || table.star_token().is_some() {
        return refuse(Piece::of(&table).span, "ONLY", "name the table itself");
    }
    let condition = match update.where_clause_or_current_of() {
        None => None,
        Some(WhereClauseOrCurrentOf::WhereClause(clause)) => {
            Some(Piece::of(&clause.expr().ok_or_else(missing)?))
        }
        Some(WhereClauseOrCurrentOf::WhereCurrentOf(clause)) => {
            return refuse(
                Piece::of(&clause).span,
                "WHERE CURRENT OF",
                "name the rows by a condition",
            );
        }
    };
    let from = update.from_clause().map(|clause| {
        let mut piece = Piece::of(&clause);
        let keyword = "from".len();
        let rest = piece.text[keyword..].trim_start();
        piece.span = piece.span.end - rest.len()..piece.span.end;
        piece.text = rest.to_owned();
        piece
    });
    let mut writes = Vec::new();
    let columns = update.set_clause().and_then(|set| set.set_column_list()).ok_or_else(missing)?;
    for column in columns.set_columns() {
        let span = Piece::of(&column).span;
        let Some(pairs) = pairs(&column) else {
            let help = "give each whole column one expression: `SET a = …, b = …`";
            return refuse(span, "this assignment", help);
        };
        writes.extend(pairs);
    }
    Ok(Statement { table: Piece::of(&table), from, condition, writes, span: whole.span })
}

/// Columns and their values; None for subscripts, DEFAULT and sub-selects.
fn pairs(column: &SetColumn) -> Option<Vec<(Piece, Piece)>> {
    let (targets, values) = match column {
        SetColumn::SetSingleColumn(one) => (vec![one.column_target()?], vec![one.set_expr()?]),
        SetColumn::SetMultipleColumns(many) => (
            many.column_target_list()?.column_targets().collect(),
            many.set_expr_list()?.set_exprs().collect(),
        ),
    };
    if targets.len() != values.len() {
        return None;
    }
    targets
        .iter()
        .zip(&values)
        .map(|(target, value)| {
            let is_whole = target.accessors().next().is_none();
            Some((Piece::of(&target.name().filter(|_| is_whole)?), Piece::of(&value.expr()?)))
        })
        .collect()
}

/// What keeps several statements from being the rules of one spec.
fn check(statements: &[Statement]) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    let first = &statements[0];
    for (i, statement) in statements.iter().enumerate().skip(1) {
        if unquote(&statement.table.text) != unquote(&first.table.text) {
            let span = statement.table.span.clone();
            let problem =
                Diagnostic::new("the statements are on several tables", span, "another table");
            problems.push(problem.help("make one spec for each table"));
        }
        let source = |s: &Statement| s.from.as_ref().map(|from| from.text.clone());
        if source(statement) != source(first) {
            let span =
                statement.from.as_ref().map_or(statement.span.clone(), |from| from.span.clone());
            let problem =
                Diagnostic::new("the statements do not share one FROM", span, "another FROM");
            problems
                .push(problem.help("a spec has one `from` for all its rules; make several specs"));
        }
        let before = statements[..i].iter().flat_map(|earlier| &earlier.writes);
        for (column, _) in before {
            if let Some(span) = reads(statement, &unquote(&column.text)) {
                let message = format!(
                    "a later statement reads `{}`, which an earlier one writes",
                    column.text
                );
                let problem = Diagnostic::new(message, span, "would see the old value in a rule");
                problems.push(problem.help(
                    "rules see the row as it was before; make two specs and run them in order",
                ));
            }
        }
    }
    problems
}

/// Where a statement reads a column, apart from `column IS NULL` on a column that it fills.
fn reads(statement: &Statement, column: &str) -> Option<Range<usize>> {
    let fills = split(statement);
    let values = statement.writes.iter().map(|(_, value)| (value.text.as_str(), value.span.start));
    let condition = match (&fills, &statement.condition) {
        (Some(rest), Some(condition)) => rest.as_deref().map(|rest| (rest, condition.span.start)),
        (_, condition) => condition.as_ref().map(|piece| (piece.text.as_str(), piece.span.start)),
    };
    let condition: Vec<(&str, usize)> = condition.into_iter().collect();
    for (text, start) in values.chain(condition) {
        let mut offset = 0;
        for token in tokenize(text) {
            let length = token.len as usize;
            let word = &text[offset..offset + length];
            let is_name = matches!(token.kind, TokenKind::Ident | TokenKind::QuotedIdent { .. });
            if is_name && unquote(word) == column {
                return Some(start + offset..start + offset + length);
            }
            offset += length;
        }
    }
    None
}

/// Whether a statement fills: the condition without `column IS NULL` (None inside when nothing is left), for a statement that
/// writes that one column.
fn split(statement: &Statement) -> Option<Option<String>> {
    let ([(column, _)], Some(condition)) = (statement.writes.as_slice(), &statement.condition)
    else {
        return None;
    };
    let parts = conjuncts(&condition.text)?;
    let name = unquote(&column.text);
    let table = unquote(statement.table.text.rsplit('.').next().unwrap_or_default());
    let is_null = |part: &&str| {
        let words: Vec<&str> = part.split_whitespace().collect();
        let [subject, is, null] = words.as_slice() else { return false };
        // The row's own column only: `c.name IS NULL` of a join source is another condition.
        let (qualifier, subject) = subject.rsplit_once('.').unwrap_or(("", subject));
        let is_own = qualifier.is_empty() || unquote(qualifier) == table;
        is_own
            && unquote(subject) == name
            && is.eq_ignore_ascii_case("is")
            && null.eq_ignore_ascii_case("null")
    };
    if !parts.iter().any(|part| is_null(&part.as_str())) {
        return None;
    }
    let rest: Vec<String> = parts.into_iter().filter(|part| !is_null(&part.as_str())).collect();
    Some((!rest.is_empty()).then(|| rest.join("\n AND ")))
}

/// The parts of a condition joined by AND at its top level; None when OR stands there too.
fn conjuncts(text: &str) -> Option<Vec<String>> {
    let mut parts = vec![String::new()];
    let (mut depth, mut offset) = (0_i32, 0);
    let mut is_between = false;
    for token in tokenize(text) {
        let length = token.len as usize;
        let word = &text[offset..offset + length];
        offset += length;
        let keyword =
            if token.kind == TokenKind::Ident { word.to_ascii_lowercase() } else { String::new() };
        match (token.kind, keyword.as_str()) {
            (TokenKind::OpenParen | TokenKind::OpenBracket, _) | (_, "case") => depth += 1,
            (TokenKind::CloseParen | TokenKind::CloseBracket, _) | (_, "end") => depth -= 1,
            (_, "between") if depth == 0 => is_between = true,
            (_, "or") if depth == 0 => return None,
            (_, "and") if depth == 0 && !is_between => {
                parts.push(String::new());
                continue;
            }
            (_, "and") if depth == 0 => is_between = false,
            _ => {}
        }
        if let Some(last) = parts.last_mut() {
            last.push_str(word);
        }
    }
    Some(parts.into_iter().map(|part| part.trim().to_owned()).collect())
}

/// Rules in the order that decides. Of two `fill`s of a column the first wins in both worlds; of two `set`s the last statement wins, and
/// the first rule does, so those are turned round.
fn rules(statements: &[Statement]) -> Result<Vec<Rule>, Vec<Diagnostic>> {
    let mut fills = Vec::new();
    let mut sets = Vec::new();
    for statement in statements {
        let writes = statement.writes.clone();
        match split(statement) {
            Some(when) => fills.push(Rule { verb: "fill", when, writes }),
            None => {
                let when = statement.condition.as_ref().map(|condition| condition.text.clone());
                sets.push(Rule { verb: "set", when, writes });
            }
        }
    }
    let columns = |rules: &[Rule]| -> Vec<(String, Range<usize>)> {
        let all = rules.iter().flat_map(|rule| &rule.writes);
        all.map(|(column, _)| (unquote(&column.text), column.span.clone())).collect()
    };
    let filled = columns(&fills);
    let both = columns(&sets)
        .into_iter()
        .filter(|(name, _)| filled.iter().any(|(other, _)| other == name));
    let problems: Vec<Diagnostic> = both
        .map(|(name, span)| {
            let message = format!("column `{name}` is filled by one statement and set by another");
            Diagnostic::new(message, span, "set here").help("make two specs and run them in order")
        })
        .collect();
    yield_where_null(&mut fills);
    sets.reverse();
    fills.extend(sets);
    if problems.is_empty() { Ok(fills) } else { Err(problems) }
}

/// A statement that fills NULL leaves the row to the next one; a rule decides. So a rule whose value may be NULL holds only where it is
/// not, when another fills the same column after it.
fn yield_where_null(fills: &mut [Rule]) {
    for i in 0..fills.len() {
        let column = unquote(&fills[i].writes[0].0.text);
        let value = fills[i].writes[0].1.text.clone();
        let is_followed =
            fills[i + 1..].iter().any(|rule| unquote(&rule.writes[0].0.text) == column);
        if is_followed && !is_plainly_not_null(&value) {
            let when =
                fills[i].when.take().map(|when| format!("({when}\n) AND ")).unwrap_or_default();
            fills[i].when = Some(format!("{when}({value}\n) IS NOT NULL"));
        }
    }
}

/// Whether a value is a literal or an array constructor.
fn is_plainly_not_null(value: &str) -> bool {
    let Some(first) = tokenize(value).next() else { return false };
    let word = &value[..first.len as usize];
    match first.kind {
        TokenKind::Literal { .. } => value.len() == word.len(),
        TokenKind::Ident => word.eq_ignore_ascii_case("array") && value.ends_with(']'),
        _ => false,
    }
}

fn render(name: &str, first: &Statement, rules: &[Rule]) -> String {
    let mut text =
        format!("description = {}\n", quoted(&format!("{name}, from UPDATE statements")));
    let _ = writeln!(text, "table = {}", quoted(&first.table.text));
    if let Some(from) = &first.from {
        let _ = writeln!(text, "from = {}", quoted(&from.text));
    }
    for rule in rules {
        text.push_str("\n[[rule]]\n");
        if let Some(when) = &rule.when {
            let _ = writeln!(text, "when = {}", quoted(when));
        }
        let write = |(column, value): &(Piece, Piece)| {
            format!("{} = {}", quoted(&unquote(&column.text)), quoted(&value.text))
        };
        let writes: Vec<String> = rule.writes.iter().map(write).collect();
        let _ = writeln!(text, "{} = {{ {} }}", rule.verb, writes.join(", "));
    }
    text
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A name as the catalog spells it: without quotes, and in lower case when it had none.
fn unquote(name: &str) -> String {
    match name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => name.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Spec, Verb};

    fn spec(sql: &str) -> Spec {
        let text = convert("x", sql).unwrap_or_else(|report| panic!("{}", report.render(false)));
        Spec::parse("x", "x.toml", &text).unwrap()
    }

    fn refused(sql: &str) -> String {
        convert("x", sql).unwrap_err().render(false)
    }

    #[test]
    fn a_null_check_on_the_written_column_becomes_fill() {
        let spec = spec(
            "UPDATE public.skills SET governance_phases = ARRAY['build'] -- why\n WHERE governance_phases IS NULL AND category IN ('a', 'b');
             UPDATE public.skills SET governance_phases = ARRAY['prove'] WHERE skills.governance_phases is null;",
        );
        assert_eq!(spec.table.text, "public.skills");
        let rules: Vec<_> = spec
            .rules
            .iter()
            .map(|r| (r.when.as_ref().map(|w| w.text.as_str()), r.writes[0].verb))
            .collect();
        assert_eq!(rules, [(Some("category IN ('a', 'b')"), Verb::Fill), (None, Verb::Fill)]);
    }

    #[test]
    fn what_a_statement_leaves_to_the_next_a_rule_leaves_too() {
        let spec = spec(
            "UPDATE t SET p = q WHERE p IS NULL AND a = 1 -- why\n AND b; UPDATE t SET p = 'x' WHERE p IS NULL",
        );
        assert_eq!(
            spec.rules[0].when.as_ref().unwrap().text,
            "(a = 1 -- why\n AND b\n) AND (q\n) IS NOT NULL"
        );
        assert!(spec.rules[1].when.is_none());
    }

    #[test]
    fn a_null_check_on_the_join_source_is_no_fill() {
        let spec = spec("UPDATE t SET p = c.x FROM cats AS c WHERE c.p IS NULL AND c.id = t.cat");
        assert_eq!(spec.rules[0].writes[0].verb, Verb::Set);
        assert!(spec.rules[0].when.as_ref().unwrap().text.contains("c.p IS NULL"));
    }

    #[test]
    fn of_two_sets_the_last_statement_decides() {
        let spec =
            spec("UPDATE t SET (a, b) = (1, 2); UPDATE t SET a = 3 WHERE c BETWEEN 1 AND 2 AND d;");
        assert_eq!(spec.rules[0].when.as_ref().unwrap().text, "c BETWEEN 1 AND 2 AND d");
        assert_eq!(spec.rules[1].writes.len(), 2);
    }

    #[test]
    fn a_join_source_is_kept() {
        let spec = spec("UPDATE t SET a = c.x FROM cats AS c WHERE c.id = t.cat");
        assert_eq!(spec.from.unwrap().text, "cats AS c");
    }

    #[test]
    fn what_would_mean_something_else_is_refused() {
        assert!(refused("UPDATE t SET a = 1; UPDATE u SET a = 1").contains("several tables"));
        assert!(refused("UPDATE t SET a = 1; UPDATE t SET b = a").contains("reads `a`"));
        assert!(refused("UPDATE t AS x SET a = 1").contains("alias"));
        assert!(refused("UPDATE t SET a = 1 RETURNING a").contains("RETURNING"));
        assert!(refused("UPDATE t SET a[1] = 1").contains("whole column"));
        assert!(refused("DELETE FROM t").contains("only UPDATE"));
        assert!(refused("UPDATE t SET a = ").contains("cannot be read"));
        assert!(
            refused("UPDATE t SET a = 1 WHERE a IS NULL; UPDATE t SET a = 2")
                .contains("filled by one")
        );
        assert!(refused("").contains("no UPDATE"));
    }
}
