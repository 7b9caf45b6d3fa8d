//! Whether an expression depends on when it is asked. Told from its text, and rather once too often. Pure.

use crate::spec::Spec;
use crate::sql::behind_words;

/// Words that a date or a time is read from as the clock has it when the statement is parsed.
const LITERALS: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

/// Functions that ask the clock, and are not volatile.
const FUNCTIONS: [&str; 7] = [
    "current_date",
    "current_time",
    "current_timestamp",
    "localtime",
    "localtimestamp",
    "transaction_timestamp",
    "statement_timestamp",
];

/// Whether it may yield something else later, with the same data.
pub(super) fn tells_time(text: &str) -> bool {
    let text = text.to_lowercase();
    LITERALS.iter().chain(&FUNCTIONS).any(|word| behind(&text, word).next().is_some())
        || behind(&text, "age").any(|rest| rest.trim_start().starts_with('('))
}

/// Whether it may hold a literal that is the clock's when it is parsed, and so a constant to the server.
pub(super) fn has_clock_literal(text: &str) -> bool {
    let text: String = text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    let text = text.replace("now()", "").replace("now ()", "");
    LITERALS.iter().any(|word| behind(&text, word).next().is_some())
}

/// What stands behind a word, by itself: quotes of every kind around it do not hide it.
fn behind<'t>(text: &'t str, word: &'t str) -> impl Iterator<Item = &'t str> {
    behind_words(text, word, |c| c.is_alphanumeric() || c == '_')
}

/// The texts that a spec's rules are made of: conditions, values, the join source.
pub(super) fn texts(spec: &Spec) -> impl Iterator<Item = &str> {
    let exprs = spec
        .rules
        .iter()
        .flat_map(|rule| rule.when.iter().chain(rule.writes.iter().map(|write| &write.value)));
    exprs.chain(&spec.from).map(|expr| expr.text.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_found_in_calls_and_in_literals() {
        for text in
            ["now()", "a < 'NOW'", "current_date - 1", "'today 05:00'::timestamptz", "age(b)"]
        {
            assert!(tells_time(text), "{text}");
        }
        for text in ["at < $$now$$", "pg_catalog.\"now\"()", "$x$Today$x$::date", "AGE (b)"] {
            assert!(tells_time(text), "{text}");
        }
        assert!(has_clock_literal("at < $$now$$"));
        assert!(!tells_time("age / 2"));
        for text in ["known", "today_count + 1", "page(a)", "a"] {
            assert!(!tells_time(text), "{text}");
        }
        assert!(!has_clock_literal("done_at < now() - interval '1 day'"));
        assert!(!has_clock_literal("coalesce(a, NOW( ))".replace("( )", "()").as_str()));
        assert!(has_clock_literal("done_at < 'now'"));
        assert!(has_clock_literal("now() > ' Yesterday'"));
    }
}
