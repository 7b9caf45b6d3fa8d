//! SQL text: identifiers, statement text that remembers where it came from, and the lexical check of expressions.
//!
//! Statements are put together from three things only: the engine's own fixed text, quoted identifiers
//! ([`Ident`], [`QualifiedName`]), and expressions that the author of a spec wrote ([`Expr`]). Values never become text; they
//! travel as parameters. [`SqlText`] keeps for every expression the place in the spec it was read from, so that an error
//! position reported by the server can be shown at the author's own line.
//!
//! Pure: knows no database and no file.

use std::fmt;
use std::ops::Range;

use squawk_lexer::{LiteralKind, TokenKind, tokenize};

/// An identifier exactly as the catalog spells it; displayed quoted, so any spelling is safe in a statement.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ident(String);

impl Ident {
    /// Takes the catalog's spelling (unquoted, case as stored).
    pub fn new(catalog_name: impl Into<String>) -> Ident {
        Ident(catalog_name.into())
    }

    /// The catalog's spelling, for messages and for comparison with catalog columns.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Ident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('"', "\"\""))
    }
}

/// Whether a text has a name in it that is not a part of a longer one.
pub fn holds_word(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '"');
    behind_words(text, name, is_part).next().is_some()
}

/// What stands behind each place where a text has a word by itself: neither before nor behind it is there a character that `is_part` of
/// words.
pub fn behind_words<'t>(
    text: &'t str,
    word: &'t str,
    is_part: impl Fn(char) -> bool + 't,
) -> impl Iterator<Item = &'t str> {
    text.match_indices(word).filter_map(move |(at, _)| {
        let (before, behind) = (&text[..at], &text[at + word.len()..]);
        let is_alone = !before.ends_with(&is_part) && !behind.starts_with(&is_part);
        is_alone.then_some(behind)
    })
}

/// A schema-qualified relation, type or function name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QualifiedName {
    /// The schema that holds it.
    pub schema: Ident,
    /// Its name within the schema.
    pub name: Ident,
}

impl QualifiedName {
    /// Joins two catalog spellings.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> QualifiedName {
        QualifiedName { schema: Ident::new(schema), name: Ident::new(name) }
    }

    /// `schema.name` without quotes, for messages.
    pub fn plain(&self) -> String {
        format!("{}.{}", self.schema.as_str(), self.name.as_str())
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// A piece of text from a spec file, with the bytes it occupies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expr {
    /// The text as the server shall read it.
    pub text: String,
    /// The value's bytes in the spec, quotes included.
    pub span: Range<usize>,
    /// Where `text` begins in the spec, when it stands there letter for letter (no escapes).
    pub text_start: Option<usize>,
}

impl Expr {
    /// Maps a byte offset in the text to the bytes of the spec to point at.
    pub fn locate(&self, offset: usize) -> Range<usize> {
        match self.text_start {
            Some(start) => {
                let rest = &self.text[offset.min(self.text.len())..];
                let word =
                    rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                start + offset..start + offset + word.max(1).min(rest.len().max(1))
            }
            None => self.span.clone(),
        }
    }
}

/// Statement text under construction, with the origin of every expression in it.
#[derive(Clone, Debug, Default)]
pub struct SqlText {
    text: String,
    origins: Vec<(Range<usize>, Expr)>,
}

impl SqlText {
    /// Appends the engine's own text or a quoted identifier.
    pub fn push(&mut self, fixed: &str) -> &mut SqlText {
        self.text.push_str(fixed);
        self
    }

    /// Appends an author's expression in parentheses.
    ///
    /// Behind a `--` comment the closing parenthesis stands on a line of its own, so that the comment cannot swallow it.
    pub fn push_expr(&mut self, expr: &Expr) -> &mut SqlText {
        self.text.push('(');
        self.push_raw(expr);
        self.text.push_str(if expr.text.contains("--") { "\n)" } else { ")" });
        self
    }

    /// Appends an author's text as it stands (a `FROM` source, a column name given as `text`).
    pub fn push_raw(&mut self, expr: &Expr) -> &mut SqlText {
        let start = self.text.len();
        self.text.push_str(&expr.text);
        self.origins.push((start..self.text.len(), expr.clone()));
        self
    }

    /// Appends another text with its origins.
    pub fn append(&mut self, other: &SqlText) -> &mut SqlText {
        let shift = self.text.len();
        self.text.push_str(&other.text);
        let moved = other.origins.iter().map(|(r, e)| (r.start + shift..r.end + shift, e.clone()));
        self.origins.extend(moved);
        self
    }

    /// The finished statement.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The bytes of the spec that a server error position points at; `position` counts characters from 1, as the server does.
    /// None when the position lies in the engine's own text.
    pub fn origin_of(&self, position: u32) -> Option<Range<usize>> {
        let index = usize::try_from(position).ok()?.checked_sub(1)?;
        let offset = self.text.char_indices().nth(index).map_or(self.text.len(), |(at, _)| at);
        let found =
            self.origins.iter().find(|(range, _)| range.start <= offset && offset <= range.end);
        found.map(|(range, expr)| expr.locate(offset - range.start))
    }
}

/// What is wrong with an expression before the server has seen it, at a byte offset of its text.
#[derive(Debug, PartialEq, Eq)]
pub struct LexicalProblem {
    /// Byte offset in the expression's text.
    pub offset: usize,
    /// One sentence fragment.
    pub message: &'static str,
}

/// Refuses text that would not stay inside the parentheses it is put in: unbalanced parentheses, a semicolon, an
/// unterminated string or comment, a parameter. Everything else is for the server to judge.
pub fn check_expression(text: &str) -> Result<(), LexicalProblem> {
    let mut open: Vec<usize> = Vec::new();
    let mut offset = 0;
    let mut is_empty = true;
    for token in tokenize(text) {
        let problem = |message| Err(LexicalProblem { offset, message });
        match token.kind {
            TokenKind::Eof => break,
            TokenKind::Whitespace | TokenKind::LineComment => {}
            TokenKind::BlockComment { terminated: false } => {
                return problem("unterminated comment");
            }
            TokenKind::BlockComment { .. } => {}
            TokenKind::Semi => {
                return problem("a semicolon ends the statement; give one expression");
            }
            TokenKind::PositionalParam { .. } => {
                return problem("parameters are not available here");
            }
            TokenKind::QuotedIdent { terminated: false, .. } => {
                return problem("unterminated quoted identifier");
            }
            TokenKind::Literal { kind } if is_unterminated(kind) => {
                return problem("unterminated string");
            }
            TokenKind::OpenParen => open.push(offset),
            TokenKind::CloseParen if open.pop().is_none() => {
                return problem("this parenthesis was never opened");
            }
            _ => is_empty = false,
        }
        offset += token.len as usize;
    }
    if let Some(offset) = open.pop() {
        return Err(LexicalProblem { offset, message: "this parenthesis is never closed" });
    }
    if is_empty {
        return Err(LexicalProblem { offset: 0, message: "the expression is empty" });
    }
    Ok(())
}

fn is_unterminated(kind: LiteralKind) -> bool {
    match kind {
        LiteralKind::Str { terminated }
        | LiteralKind::NationalStr { terminated }
        | LiteralKind::ByteStr { terminated }
        | LiteralKind::BitStr { terminated }
        | LiteralKind::DollarQuotedString { terminated }
        | LiteralKind::EscStr { terminated } => !terminated,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_quoted_whatever_they_hold() {
        assert_eq!(Ident::new("we\"ird").to_string(), "\"we\"\"ird\"");
        assert_eq!(QualifiedName::new("S", "select").to_string(), "\"S\".\"select\"");
    }

    #[test]
    fn expressions_cannot_leave_their_parentheses() {
        let offset = |text| check_expression(text).map_err(|p| p.offset);
        assert_eq!(offset("a = ')' AND b = $$)$$ -- )"), Ok(()));
        assert_eq!(offset("true) OR (true"), Err(4));
        assert_eq!(offset("(a"), Err(0));
        assert_eq!(offset("a; DROP TABLE t"), Err(1));
        assert_eq!(offset("a = 'x"), Err(4));
        assert_eq!(offset("a /* x"), Err(2));
        assert_eq!(offset("a = $1"), Err(4));
        assert_eq!(offset("  -- nothing"), Err(0));
    }

    #[test]
    fn server_positions_lead_back_to_the_spec() {
        let expr = Expr { text: "é = nope".into(), span: 99..110, text_start: Some(100) };
        let mut sql = SqlText::default();
        sql.push("WHERE ").push_expr(&expr);
        // W=1 … space=6, ( = 7, é = 8, so `nope` begins at character 12.
        assert_eq!(sql.origin_of(12), Some(105..109));
        assert_eq!(sql.origin_of(1), None);
    }
}
