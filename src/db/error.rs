//! Server errors by class: the one place that reads an SQLSTATE.
//!
//! Decisions are made by code, never by message (messages are translated). The class says what the engine does next; COMMIT's
//! own errors go through the same table, because deferred constraints speak only there.

use std::time::Duration;

use tokio_postgres::Error;

/// What an error means for the chunk that met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The application was in the way; try again after a short wait.
    Contention,
    /// The chunk is too big for its time or memory; halve it.
    TooBig,
    /// Somebody cancelled the statement from outside; do not fight a DBA.
    Cancelled,
    /// The connection is gone; reconnect, and let the claim tell what had been committed.
    Connection,
    /// This server is not a writable primary.
    ReadOnly,
    /// The server has run out of something; hold until it has it again.
    Resources,
    /// A row's data is at fault; find the row and set it aside.
    Data,
    /// Nothing that waiting or splitting could mend.
    Fatal,
}

/// Sorts an error. `elapsed` and `timeout` tell a statement timeout from an operator's cancel: both arrive as 57014.
pub fn classify(error: &Error, elapsed: Duration, timeout: Duration) -> Class {
    let Some(db) = error.as_db_error() else { return Class::Connection };
    let is_timeout = elapsed.as_secs_f64() >= timeout.as_secs_f64() * 0.9;
    classify_code(db.code().code(), is_timeout)
}

fn classify_code(code: &str, is_timeout: bool) -> Class {
    match code {
        "40001" | "40P01" | "55P03" => Class::Contention,
        "57014" if is_timeout => Class::TooBig,
        "57014" => Class::Cancelled,
        "25P04" | "53200" | "54000" | "53400" => Class::TooBig,
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "40003" | "26000" | "08P01" => {
            Class::Connection
        }
        "25006" => Class::ReadOnly,
        "53000" | "53100" | "53300" | "57P04" => Class::Resources,
        "40002" => Class::Data,
        _ => match &code[..2] {
            "08" => Class::Connection,
            "21" | "22" | "23" | "27" | "2F" | "38" | "39" | "44" | "P0" => Class::Data,
            _ => Class::Fatal,
        },
    }
}

/// The error in one line: SQLSTATE, message, detail and hint; without the detail's values when there are none.
pub fn message(error: &Error) -> String {
    let Some(db) = error.as_db_error() else {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        return text;
    };
    let mut text = format!("{} (SQLSTATE {})", db.message(), db.code().code());
    for part in [db.detail(), db.hint()].into_iter().flatten() {
        text = format!("{text}; {part}");
    }
    text
}

/// Whether the server finds fault with the statement, rather than that something came between.
pub fn is_about_the_statement(error: &Error) -> bool {
    let Some(code) = sqlstate(error) else { return false };
    matches!(classify_code(code, false), Class::Data | Class::Fatal)
}

/// The SQLSTATE, when the server spoke.
pub fn sqlstate(error: &Error) -> Option<&str> {
    error.as_db_error().map(|db| db.code().code())
}

/// The character position in the statement, from 1, when the server named one.
pub fn position(error: &Error) -> Option<u32> {
    match error.as_db_error()?.position()? {
        tokio_postgres::error::ErrorPosition::Original(at) => Some(*at),
        tokio_postgres::error::ErrorPosition::Internal { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_code_has_its_class() {
        let table = [
            (Class::Contention, "40001 40P01 55P03"),
            (Class::TooBig, "25P04 53200 54000 53400"),
            (Class::Cancelled, "57014"),
            (
                Class::Connection,
                "08000 08001 08003 08004 08006 08007 57P01 57P02 57P03 57P05 25P03 40003 26000",
            ),
            (Class::ReadOnly, "25006"),
            (Class::Resources, "53100 53300 53000 57P04"),
            (Class::Data, "21000 22012 23502 23503 23505 23514 P0001 40002 44000"),
            (Class::Fatal, "42601 42703 28000 3D000 0A000 55000 XX000 XX001 XX002"),
        ];
        for (class, codes) in table {
            for code in codes.split(' ') {
                assert_eq!(classify_code(code, false), class, "{code}");
            }
        }
        assert_eq!(classify_code("57014", true), Class::TooBig);
    }
}
