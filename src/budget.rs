//! How much a run may do in a second: rows, bytes of WAL, or both. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::event::{bytes, count};

/// A budget over all workers; what is not given is unlimited. Given numbers are finite and greater than zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// Rows a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_per_s: Option<f64>,
    /// Bytes of WAL a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_per_s: Option<f64>,
}

/// Help for a budget that cannot be read.
pub const BUDGET_HELP: &str =
    "write it as `2000 rows/s`, `1 MB/s wal`, or both: `2000 rows/s, 1 MB/s wal`";

impl Budget {
    /// No limit at all.
    pub const UNLIMITED: Budget = Budget { rows_per_s: None, wal_per_s: None };

    /// Rows a second only; unlimited unless finite and positive.
    pub fn rows(rate: f64) -> Budget {
        Budget {
            rows_per_s: Some(rate).filter(|rate| rate.is_finite() && *rate > 0.0),
            wal_per_s: None,
        }
    }

    /// Whether nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        *self == Budget::UNLIMITED
    }

    /// The stricter of the two in each respect.
    pub fn and(self, other: Budget) -> Budget {
        let less = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Budget {
            rows_per_s: less(self.rows_per_s, other.rows_per_s),
            wal_per_s: less(self.wal_per_s, other.wal_per_s),
        }
    }

    /// A part of it, for one of several that share it.
    pub fn share(self, of: u32) -> Budget {
        let part = |whole: f64| whole / f64::from(of.max(1));
        Budget { rows_per_s: self.rows_per_s.map(part), wal_per_s: self.wal_per_s.map(part) }
    }

    /// The rows a second that it comes to when a row costs so many bytes of WAL; infinite when unlimited.
    pub fn as_rows(&self, wal_per_row: f64) -> f64 {
        let by_wal = self.wal_per_s.map(|wal| wal / wal_per_row.max(1.0));
        self.rows_per_s.unwrap_or(f64::INFINITY).min(by_wal.unwrap_or(f64::INFINITY))
    }
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Budget, String> {
        let mut budget = Budget::UNLIMITED;
        for part in parts(text) {
            let part = part.trim();
            let (place, value) = match (part.strip_suffix("rows/s"), wal(part)) {
                (Some(number), _) => (&mut budget.rows_per_s, positive(number, 1.0)?),
                (None, Some((number, unit))) => (&mut budget.wal_per_s, positive(number, unit)?),
                (None, None) => {
                    return Err("a rate needs its unit, `rows/s` or `MB/s wal`".to_owned());
                }
            };
            if place.replace(value).is_some() {
                return Err("the same unit is given twice".to_owned());
            }
        }
        Ok(budget)
    }
}

/// Splits at `, ` and ` and `; a comma between digits belongs to the number.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(", ").flat_map(|part| part.split(" and "))
}

/// The number before a unit of WAL and what one of it is in bytes.
fn wal(text: &str) -> Option<(&str, f64)> {
    let rest = text.strip_suffix("wal")?.trim_end();
    let units = [("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3), ("KB/s", 1e3), ("B/s", 1.0)];
    units.iter().find_map(|(unit, size)| Some((rest.strip_suffix(unit)?, *size)))
}

fn positive(number: &str, unit: f64) -> Result<f64, String> {
    let plain: String = number.trim().chars().filter(|c| !matches!(c, '_' | ',')).collect();
    let value: f64 = plain.parse().map_err(|_| format!("`{}` is no number", number.trim()))?;
    match value.is_finite() && value > 0.0 {
        true => Ok(value * unit),
        false => Err("a rate must be greater than zero".to_owned()),
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows_per_s.map(|rate| {
            // Below ten a whole number would lie by more than a tenth.
            if rate < 10.0 {
                format!("{rate:.1} rows/s")
            } else {
                format!("{} rows/s", count(rate.round() as u64))
            }
        });
        let wal = self.wal_per_s.map(|rate| format!("{}/s wal", bytes(rate.round() as u64)));
        match (rows, wal) {
            (Some(rows), Some(wal)) => write!(f, "{rows} and {wal}"),
            (Some(one), None) | (None, Some(one)) => f.write_str(&one),
            (None, None) => f.write_str("no rate limit"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_need_their_unit_and_a_positive_number() {
        assert_eq!("2000 rows/s".parse(), Ok(Budget::rows(2000.0)));
        assert_eq!("50_000rows/s".parse(), Ok(Budget::rows(50_000.0)));
        assert_eq!("50,000 rows/s".parse(), Ok(Budget::rows(50_000.0)));
        let wal = Budget { rows_per_s: None, wal_per_s: Some(1.5e6) };
        assert_eq!("1.5 MB/s wal".parse(), Ok(wal));
        let both = Budget { rows_per_s: Some(2000.0), ..wal };
        assert_eq!("2,000 rows/s, 1.5 MB/s wal".parse(), Ok(both));
        assert_eq!(both.to_string().parse(), Ok(both));
        for bad in [
            "2000",
            "-1 rows/s",
            "0 rows/s",
            "x rows/s",
            "inf rows/s",
            "1 MB/s",
            "",
            "nan MB/s wal",
            "1 rows/s, 2 rows/s",
            "1 rows/s, 2",
        ] {
            assert!(bad.parse::<Budget>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_stricter_holds_in_each_respect() {
        let rows = Budget::rows(100.0);
        let both = Budget { rows_per_s: Some(200.0), wal_per_s: Some(1e6) };
        assert_eq!(rows.and(both), Budget { rows_per_s: Some(100.0), wal_per_s: Some(1e6) });
        assert_eq!(both.share(2), Budget { rows_per_s: Some(100.0), wal_per_s: Some(5e5) });
        assert_eq!(both.as_rows(10_000.0), 100.0);
        assert_eq!(Budget::UNLIMITED.as_rows(500.0), f64::INFINITY);
    }
}
