//! Whether an expression depends on when it is asked. Told from its text, and rather once too often. Pure.

use crate::sql::holds_word;

/// Words that a date or a time is read from as the clock has it when the statement is parsed.
const LITERALS: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

/// Functions that ask the clock, and are not volatile.
const FUNCTIONS: [&str; 8] = [
    "current_date",
    "current_time",
    "current_timestamp",
    "localtime",
    "localtimestamp",
    "transaction_timestamp",
    "statement_timestamp",
    "age",
];

/// Whether it may yield something else later, with the same data.
pub(super) fn tells_time(text: &str) -> bool {
    let text = text.to_lowercase();
    LITERALS.iter().chain(&FUNCTIONS).any(|word| holds_word(&text, word))
}

/// Whether it may hold a literal that is the clock's when it is parsed, and so a constant to the server.
pub(super) fn has_clock_literal(text: &str) -> bool {
    let text: String = text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    let text = text.replace("now()", "").replace("now ()", "");
    LITERALS.iter().any(|word| holds_word(&text, word))
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
        for text in ["known", "today_count + 1", "page(a)", "a"] {
            assert!(!tells_time(text), "{text}");
        }
        assert!(!has_clock_literal("done_at < now() - interval '1 day'"));
        assert!(!has_clock_literal("coalesce(a, NOW( ))".replace("( )", "()").as_str()));
        assert!(has_clock_literal("done_at < 'now'"));
        assert!(has_clock_literal("now() > ' Yesterday'"));
    }
}
