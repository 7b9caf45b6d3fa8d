//! Values that files, flags and variables share, each with its unit. Pure.

use std::time::Duration;

/// Help for a duration that cannot be read.
pub const DURATION_HELP: &str = "write it as `500ms` or `2s`";

/// Most workers a run may have; a server that wants more than this for a backfill is not a server one backfills at noon.
pub const WORKERS_MAX: u64 = 64;

/// Reads `500ms`, `2s`, `1m 30s`, `14d`; a day is 24 hours. A bare number is refused: nobody should have to guess its unit.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let unreadable = |_| "a duration needs a number and a unit".to_owned();
    let span: jiff::Span = text.trim().parse().map_err(unreadable)?;
    let signed = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(unreadable)?;
    Duration::try_from(signed).map_err(|_| "a duration cannot be negative".to_owned())
}

/// Reads a chunk time: from 1 ms to 60 s.
///
/// Below, there is no time for a single row; above, one chunk holds row locks longer than any application waits.
pub fn parse_chunk_time(text: &str) -> Result<Duration, String> {
    parse_from(Duration::from_millis(1), text)
}

/// Reads a lock timeout: from 10 ms to 60 s.
///
/// Below, a chunk would give way to every small transaction.
pub fn parse_lock_timeout(text: &str) -> Result<Duration, String> {
    parse_from(Duration::from_millis(10), text)
}

fn parse_from(shortest: Duration, text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    let range = shortest..=Duration::from_secs(60);
    let label = || format!("must be from {}ms to 60s", shortest.as_millis());
    range.contains(&time).then_some(time).ok_or_else(label)
}

/// Reads a number of workers, from 1 to [`WORKERS_MAX`].
pub fn parse_workers(text: &str) -> Result<u32, String> {
    let range = 1..=WORKERS_MAX as u32;
    let number = text.trim().parse().ok().filter(|n| range.contains(n));
    number.ok_or_else(|| format!("must be a number from 1 to {WORKERS_MAX}"))
}

/// Reads a size in bytes: `64 MB`, `1.5 GB`, `512kB`.
pub fn parse_bytes(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let units = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("KB", 1e3), ("B", 1.0)];
    let found = units.iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?, size)));
    let (number, size) = found.ok_or("a size needs its unit, such as `64 MB`")?;
    let value: f64 = number
        .trim()
        .replace('_', "")
        .parse()
        .map_err(|_| format!("`{}` is no number", number.trim()))?;
    match value.is_finite() && value > 0.0 {
        true => Ok(value * size),
        false => Err("a size must be greater than zero".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_need_a_unit() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("14d"), Ok(Duration::from_secs(14 * 86_400)));
        for bad in ["5", "-1d", "1 month", ""] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert!(parse_chunk_time("1ms").is_ok() && parse_lock_timeout("1ms").is_err());
        assert!(parse_chunk_time("900us").is_err() && parse_lock_timeout("10ms").is_ok());
        assert!(parse_chunk_time("-1s").is_err());
        assert_eq!(parse_bytes("64 MB"), Ok(64e6));
        assert_eq!(parse_bytes("1.5GB"), Ok(1.5e9));
        for bad in ["64", "-1 MB", "x MB", "nan B"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
