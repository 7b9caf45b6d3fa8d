//! What a revision demands of a backfill: `NAME@LEVEL [for DURATION]`. Pure.

use std::ops::Range;
use std::time::Duration;

use crate::units::parse_duration;

/// How far a backfill has to be; each level holds more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A run of it exists.
    Started,
    /// Its run has come to its end, and no row was set aside.
    Finished,
    /// The data shows that no row is left to do.
    Verified,
    /// A constraint in force shows that no row can be left to do.
    Proved,
}

/// The levels with their words.
const LEVELS: [(Level, &str); 4] = [
    (Level::Started, "started"),
    (Level::Finished, "finished"),
    (Level::Verified, "verified"),
    (Level::Proved, "proved"),
];

impl Level {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        LEVELS.iter().find(|(level, _)| *level == self).map_or("", |(_, word)| word)
    }

    /// By its word; `proved-by-constraint` is the long form of `proved`.
    pub fn parse(word: &str) -> Option<Level> {
        let word = if word == "proved-by-constraint" { "proved" } else { word };
        LEVELS.iter().find(|(_, known)| *known == word).map(|(level, _)| *level)
    }
}

/// A demand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The backfill.
    pub name: String,
    /// How far it has to be.
    pub level: Level,
    /// For how long its run has to be over.
    pub soak: Duration,
    /// That time as it was written.
    soak_text: String,
    /// Its bytes in the file.
    pub span: Range<usize>,
}

impl Requirement {
    /// Reads `NAME@LEVEL [for DURATION]`; without a level it is [`Level::Verified`].
    pub fn parse(text: &str, span: Range<usize>) -> Result<Requirement, String> {
        let (demand, soak_text) = text.split_once(" for ").unwrap_or((text, ""));
        let (demand, soak_text) = (demand.trim(), soak_text.trim().to_owned());
        let soak = match soak_text.as_str() {
            "" => Duration::ZERO,
            soak => parse_duration(soak)?,
        };
        let (name, level) = demand.split_once('@').unwrap_or((demand, "verified"));
        let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(format!("`{name}` is not the name of a backfill"));
        }
        let level = Level::parse(level).ok_or_else(|| {
            format!("`{level}` is no level; there are started, finished, verified and proved")
        })?;
        Ok(Requirement { name: name.to_owned(), level, soak, soak_text, span })
    }

    /// As it is written in a file.
    pub fn show(&self) -> String {
        let soak = if self.soak_text.is_empty() { "" } else { " for " };
        let soak = format!("{soak}{}", self.soak_text);
        format!("{}@{}{soak}", self.name, self.level.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demands_are_read_as_they_are_written() {
        let read =
            |text| Requirement::parse(text, 0..1).map(|r| (r.name, r.level, r.soak.as_secs()));
        assert_eq!(read("a_b@verified for 1d"), Ok(("a_b".to_owned(), Level::Verified, 86_400)));
        assert_eq!(read("a"), Ok(("a".to_owned(), Level::Verified, 0)));
        assert_eq!(read("a@proved-by-constraint"), Ok(("a".to_owned(), Level::Proved, 0)));
        assert!(
            read("a@done").is_err() && read("@verified").is_err() && read("a b@started").is_err()
        );
        assert!(read("a@verified for 3").is_err());
        assert!(Level::Started < Level::Finished && Level::Verified < Level::Proved);
    }
}
