//! Cuts SQL text into its statements. Pure.
//!
//! The server would split the text itself, but several statements sent at once run in one implicit transaction, where CONCURRENTLY is
//! an error. So they are cut here, by tokens alone: whatever the server can parse goes through, known to this program or not.

use std::ops::Range;

use squawk_lexer::{LiteralKind, TokenKind, tokenize};

/// A token that is neither space nor comment, with the bytes it occupies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// As it is compared: identifiers and keywords folded as the server folds them, everything else as written.
    pub text: String,
    /// Bytes of the text it was cut from.
    pub span: Range<usize>,
    /// Whether it can be a name or a keyword.
    pub is_name: bool,
    /// Whether it was written in double quotes, which no keyword is.
    pub is_quoted: bool,
}

/// One statement, without its semicolon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its bytes, from its first word to its last.
    pub span: Range<usize>,
    /// Its words.
    pub words: Vec<Word>,
}

/// Text that is cut off in the middle of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unterminated {
    /// What was begun.
    pub what: &'static str,
    /// Where it begins.
    pub span: Range<usize>,
}

/// Cuts the text at the semicolons that end a statement: those outside of parentheses, quotes, comments, and the body of a routine
/// written as BEGIN ATOMIC … END.
pub fn split(text: &str) -> Result<Vec<Piece>, Unterminated> {
    let mut pieces = Vec::new();
    let mut words: Vec<Word> = Vec::new();
    let mut nesting = Nesting::default();
    let mut offset = 0;
    for token in tokenize(text) {
        let span = offset..offset + token.len as usize;
        offset = span.end;
        if let Some(what) = unterminated(token.kind) {
            return Err(Unterminated { what, span: span.start..text.len() });
        }
        match token.kind {
            TokenKind::Eof => break,
            TokenKind::Whitespace
            | TokenKind::LineComment
            | TokenKind::BlockComment { terminated: true } => {}
            TokenKind::Semi if nesting.is_outside() => close(&mut pieces, &mut words),
            kind => {
                let word = word(kind, &text[span.clone()], span);
                nesting.see(&word, words.last());
                words.push(word);
            }
        }
    }
    if let Some(begin) = nesting.open_body {
        return Err(Unterminated { what: "BEGIN ATOMIC without its END", span: begin });
    }
    close(&mut pieces, &mut words);
    Ok(pieces)
}

/// The words of a text, or none where it is cut off in the middle of something.
pub fn words(text: &str) -> Vec<Word> {
    let pieces = split(text).unwrap_or_default();
    pieces.into_iter().flat_map(|piece| piece.words).collect()
}

/// Where comments to the end of a line stand; those inside of strings are none.
pub fn line_comments(text: &str) -> Vec<Range<usize>> {
    let (mut found, mut offset) = (Vec::new(), 0);
    for token in tokenize(text) {
        let span = offset..offset + token.len as usize;
        offset = span.end;
        if token.kind == TokenKind::LineComment {
            found.push(span);
        }
    }
    found
}

/// The text as the server reads it: without comments, with one space between two words. Two texts that differ in nothing else are equal.
pub fn normalised(text: &str) -> String {
    match split(text) {
        Ok(pieces) => {
            let whole = |piece: &Piece| {
                piece
                    .words
                    .iter()
                    .map(|word| &text[word.span.clone()])
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            pieces.iter().map(whole).collect::<Vec<_>>().join(";\n")
        }
        Err(_) => text.to_owned(),
    }
}

fn close(pieces: &mut Vec<Piece>, words: &mut Vec<Word>) {
    let words = std::mem::take(words);
    if let (Some(first), Some(last)) = (words.first(), words.last()) {
        pieces.push(Piece { span: first.span.start..last.span.end, words });
    }
}

/// What a semicolon does not end a statement within.
#[derive(Debug, Default)]
struct Nesting {
    parentheses: usize,
    /// BEGIN ATOMIC and every CASE inside of it, each ended by an END.
    blocks: usize,
    open_body: Option<Range<usize>>,
}

impl Nesting {
    fn is_outside(&self) -> bool {
        self.parentheses == 0 && self.blocks == 0
    }

    fn see(&mut self, word: &Word, before: Option<&Word>) {
        match word.text.as_str() {
            "(" => self.parentheses += 1,
            ")" => self.parentheses = self.parentheses.saturating_sub(1),
            _ if word.is_quoted => {}
            "atomic" if before.is_some_and(|before| before.is("begin")) => {
                self.blocks += 1;
                self.open_body.get_or_insert_with(|| word.span.clone());
            }
            "case" if self.blocks > 0 => self.blocks += 1,
            "end" if self.blocks > 0 => {
                self.blocks -= 1;
                if self.blocks == 0 {
                    self.open_body = None;
                }
            }
            _ => {}
        }
    }
}

impl Word {
    /// Whether it is this keyword, given in lower case.
    pub fn is(&self, keyword: &str) -> bool {
        !self.is_quoted && self.text == keyword
    }
}

fn word(kind: TokenKind, written: &str, span: Range<usize>) -> Word {
    match kind {
        TokenKind::Ident => {
            Word { text: written.to_ascii_lowercase(), span, is_name: true, is_quoted: false }
        }
        TokenKind::QuotedIdent { uescape: false, .. } => {
            let inner = written
                .strip_prefix('"')
                .and_then(|rest| rest.strip_suffix('"'))
                .unwrap_or(written);
            let text = inner.replace("\"\"", "\"");
            Word { text, span, is_name: true, is_quoted: true }
        }
        _ => Word { text: written.to_owned(), span, is_name: false, is_quoted: false },
    }
}

fn unterminated(kind: TokenKind) -> Option<&'static str> {
    match kind {
        TokenKind::BlockComment { terminated: false } => Some("an unterminated comment"),
        TokenKind::QuotedIdent { terminated: false, .. } => Some("an unterminated quoted name"),
        TokenKind::Literal { kind } => match kind {
            LiteralKind::DollarQuotedString { terminated: false } => {
                Some("an unterminated dollar-quoted string")
            }
            LiteralKind::Str { terminated: false }
            | LiteralKind::NationalStr { terminated: false }
            | LiteralKind::ByteStr { terminated: false }
            | LiteralKind::BitStr { terminated: false }
            | LiteralKind::EscStr { terminated: false } => Some("an unterminated string"),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<&str> {
        split(text).unwrap().into_iter().map(|piece| &text[piece.span]).collect()
    }

    #[test]
    fn semicolons_end_statements_where_the_server_says_so() {
        assert_eq!(cut("a; b ;; c"), ["a", "b", "c"]);
        assert_eq!(
            cut("a ';' b; \"x;y\"; E'\\';' ; c -- ; d\n; /* ; /* ; */ ; */ e"),
            ["a ';' b", "\"x;y\"", "E'\\';'", "c", "e"]
        );
        assert_eq!(
            cut("do $$ begin a; end $$; do $b$ $$;$$ $b$"),
            ["do $$ begin a; end $$", "do $b$ $$;$$ $b$"]
        );
        assert_eq!(
            cut("create rule r as on update to t do also (a; b); c"),
            ["create rule r as on update to t do also (a; b)", "c"]
        );
    }

    #[test]
    fn a_body_of_sql_is_one_statement() {
        let text = "create function f() returns int begin atomic select case when a then 1 end; select 2; end; select 3";
        assert_eq!(cut(text).len(), 2);
        // Outside of a routine, BEGIN and END are statements and CASE is an expression.
        assert_eq!(
            cut("begin; select case when a then b end; end"),
            ["begin", "select case when a then b end", "end"]
        );
    }

    #[test]
    fn what_is_cut_off_is_told() {
        let what = |text| split(text).unwrap_err();
        assert_eq!(what("a; select 'x").span, 10..12);
        assert_eq!(what("a; do $x$ b").what, "an unterminated dollar-quoted string");
        assert_eq!(what("/* a /* b */").what, "an unterminated comment");
        assert_eq!(what("create function f() begin atomic select 1;").span.start, 26);
    }

    #[test]
    fn comments_and_space_make_no_difference() {
        assert_eq!(normalised("a  -- x\n b;\r\n c"), normalised("a b;c;"));
        assert_ne!(normalised("a b"), normalised("ab"));
        assert_ne!(normalised("select 'a  b'"), normalised("select 'a b'"));
    }

    #[test]
    fn names_are_folded_as_the_server_folds_them() {
        let text = words("Alter TABLE \"Odd\"\"Name\"");
        let plain: Vec<&str> = text.iter().map(|word| word.text.as_str()).collect();
        assert_eq!(plain, ["alter", "table", "Odd\"Name"]);
        assert!(text[1].is("table") && !words("\"table\"")[0].is("table"));
    }
}
