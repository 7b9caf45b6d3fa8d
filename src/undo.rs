//! The words for taking a run back. Pure.

use std::str::FromStr;

use serde::Serialize;

/// How a run can be taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UndoMode {
    /// By before-images, written in each chunk's transaction.
    #[default]
    Capture,
    /// By rules that the spec gives; nothing is kept, and what the application changed since is not noticed.
    Statement,
    /// Not at all.
    None,
}

/// What a reverse run does about a row that no longer holds what the backfill wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Conflicts {
    /// Leave it alone and note its key.
    #[default]
    Skip,
    /// Leave its whole chunk alone and stop.
    Stop,
    /// Overwrite it and note its key.
    Force,
}

/// A word that is none of these.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not known here")]
pub struct UnknownWord(String);

impl UndoMode {
    /// The word used in specs, SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            UndoMode::Capture => "capture",
            UndoMode::Statement => "statement",
            UndoMode::None => "none",
        }
    }
}

impl FromStr for UndoMode {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<UndoMode, UnknownWord> {
        let all = [UndoMode::Capture, UndoMode::Statement, UndoMode::None];
        let found = all.into_iter().find(|mode| mode.as_str() == word);
        found.ok_or_else(|| UnknownWord(word.to_owned()))
    }
}

impl Conflicts {
    /// The word used on the command line, in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Conflicts::Skip => "skip",
            Conflicts::Stop => "stop",
            Conflicts::Force => "force",
        }
    }
}

impl FromStr for Conflicts {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Conflicts, UnknownWord> {
        let all = [Conflicts::Skip, Conflicts::Stop, Conflicts::Force];
        let found = all.into_iter().find(|policy| policy.as_str() == word);
        found.ok_or_else(|| UnknownWord(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back() {
        for mode in [UndoMode::Capture, UndoMode::Statement, UndoMode::None] {
            assert_eq!(mode.as_str().parse(), Ok(mode));
        }
        for policy in [Conflicts::Skip, Conflicts::Stop, Conflicts::Force] {
            assert_eq!(policy.as_str().parse(), Ok(policy));
        }
        assert!("maybe".parse::<UndoMode>().is_err());
    }
}
