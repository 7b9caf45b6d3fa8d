//! `[health]` in a spec or in `backfill.toml`. Pure.

use super::{KINDS, Kind, Query, Settings, Thresholds, UNKNOWN_AFTER};
use crate::diagnostic::Diagnostic;
use crate::document::Section;
use crate::sql::Expr;
use crate::units::{DURATION_HELP, parse_duration};

impl Settings {
    /// Reads `[health]`; none when it is not there.
    pub fn read(root: &Section<'_>) -> Option<Settings> {
        root.section("health", |health| {
            let mut settings = Settings::default();
            settings.signals.clear();
            if health.boolean("enabled") == Some(false) {
                // What else the section says is read all the same, so that mistakes in it are told.
                read_signals(health, &mut settings);
                return Some(Settings {
                    signals: Vec::new(),
                    query: None,
                    flag_file: None,
                    http: None,
                    ..settings
                });
            }
            read_signals(health, &mut settings);
            Some(settings)
        })
    }
}

fn read_signals(health: &Section<'_>, settings: &mut Settings) {
    for kind in KINDS {
        let thresholds = match kind {
            Kind::Query => read_query(health, settings),
            Kind::FlagFile => {
                settings.flag_file = health.text("flag_file").map(|path| path.text);
                settings.flag_file.as_ref().map(|_| Thresholds::default())
            }
            Kind::Http => {
                settings.http =
                    health.parsed("http", "such as \"http://10.0.0.5:8080/backfill\"", read_url);
                settings.http.as_ref().map(|_| Thresholds::default())
            }
            _ => read_thresholds(health, kind),
        };
        settings.signals.extend(thresholds.map(|thresholds| (kind, thresholds)));
    }
    settings.accepts_blind = health.boolean("accept_blind").unwrap_or(false);
    let unknown = health.parsed("unknown", "write \"hold\" or \"ignore\"", |word| match word {
        "hold" => Ok(false),
        "ignore" => Ok(true),
        _ => Err("neither `hold` nor `ignore`".to_owned()),
    });
    settings.ignores_unknown = unknown.unwrap_or(false);
    let after = health.parsed("unknown_after", DURATION_HELP, parse_duration);
    settings.unknown_after = after.unwrap_or(UNKNOWN_AFTER);
}

fn read_url(text: &str) -> Result<String, String> {
    let is_url = text.starts_with("http://") || text.starts_with("https://");
    is_url.then(|| text.to_owned()).ok_or_else(|| "neither http:// nor https://".to_owned())
}

/// `"on"`, `"off"`, or a table of thresholds; the defaults when nothing is said.
fn read_thresholds(health: &Section<'_>, kind: Kind) -> Option<Thresholds> {
    let defaults = Some(kind.defaults());
    if !health.has(kind.name()) {
        health.know(kind.name());
        return defaults.filter(|_| !kind.is_extra());
    }
    if !health.is_table(kind.name()) {
        let help = "write \"on\", \"off\", or a table such as { hot = … }";
        let is_on = health.parsed(kind.name(), help, |word| match word {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err("neither `on` nor `off` nor a table".to_owned()),
        });
        // What cannot be read has been told already.
        return defaults.filter(|_| is_on.unwrap_or(true));
    }
    health.section(kind.name(), |section| Some(read_levels(section, kind, kind.defaults())))
}

fn read_levels(section: &Section<'_>, kind: Kind, defaults: Thresholds) -> Thresholds {
    let level = |name: &'static str, default: Option<f64>| {
        if !section.has(name) {
            section.know(name);
            return default;
        }
        let text = section.scalar(name)?;
        if text.text == "off" {
            return None;
        }
        match kind.read(&text.text) {
            Ok(value) => Some(value),
            Err(label) => {
                let message = format!("`{name}` cannot be read");
                section.problem(Diagnostic::new(message, text.span, label).help(kind.help()));
                default
            }
        }
    };
    let found = Thresholds {
        warm: level("warm", defaults.warm),
        hot: level("hot", defaults.hot),
        hold: level("hold", defaults.hold),
    };
    let given: Vec<f64> = [found.warm, found.hot, found.hold].into_iter().flatten().collect();
    if given.windows(2).any(|pair| pair[0] > pair[1]) {
        let problem = Diagnostic::new(
            "the thresholds are out of order",
            section.span(),
            "warm, hot and hold must rise",
        );
        section.problem(
            problem.help("those that are not given keep their defaults; \"off\" leaves one out"),
        );
    }
    found
}

fn read_query(health: &Section<'_>, settings: &mut Settings) -> Option<Thresholds> {
    health.section("query", |query| {
        let sql: Option<Expr> = query.text("sql");
        if sql.is_none() {
            let problem = Diagnostic::new("a query without SQL", query.span(), "no `sql`");
            query.problem(problem.help("add `sql = \"SELECT …\"`, one number"));
        }
        let thresholds = read_levels(query, Kind::Query, Thresholds::default());
        if thresholds == Thresholds::default() {
            let problem = Diagnostic::new(
                "a query without thresholds",
                query.span(),
                "nothing would come of it",
            );
            query.problem(problem.help("add `warm`, `hot` or `hold`"));
        }
        let name = query.text("name").map_or_else(|| "query".to_owned(), |name| name.text);
        settings.query = Some(Query { name, sql: sql?.text });
        Some(thresholds)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document;

    fn read(text: &str) -> Result<Settings, Vec<Diagnostic>> {
        document::read(text, |root| Some(Settings::read(root).unwrap_or_default()))
    }

    #[test]
    fn signals_are_turned_off_and_given_thresholds() {
        let text = "[health]\nsessions = \"off\"\nreplica_lag = { hot = \"100 MB\" }\nhorizon = { hold = \"off\" }\n\
                    query = { name = \"queue\", sql = \"select 1\", hold = 10 }\nflag_file = \"/tmp/stop\"\nunknown = \"ignore\"\n";
        let settings = read(text).unwrap();
        assert!(!settings.has(Kind::Sessions) && settings.has(Kind::Archiver));
        let lag = settings.thresholds(Kind::ReplicaLag).unwrap();
        assert_eq!(lag, Thresholds { warm: Some(32e6), hot: Some(100e6), hold: Some(256e6) });
        assert_eq!(settings.thresholds(Kind::Horizon).unwrap().hold, None);
        assert_eq!(settings.thresholds(Kind::Query).unwrap().hold, Some(10.0));
        assert!(settings.ignores_unknown);
        assert!(!settings.has(Kind::Latency));
        let latency = |text: &str| {
            read(&format!("[health]\nlatency = {text}\n")).unwrap().thresholds(Kind::Latency)
        };
        assert_eq!(latency("\"on\""), Some(Kind::Latency.defaults()));
        assert_eq!(latency("\"off\""), None);
        assert_eq!(latency("{ hot = 50 }").unwrap().hot, Some(50.0));
        assert_eq!(settings.query.unwrap().name, "queue");
        assert_eq!(read("").unwrap(), Settings::default());
        assert!(read("[health]\nenabled = false\n").unwrap().signals.is_empty());
    }

    #[test]
    fn mistakes_are_told_at_their_place() {
        for (line, message) in [
            ("replica_lag = { hot = \"64\" }", "`hot` cannot be read"),
            ("replica_lag = \"of\"", "`replica_lag` cannot be read"),
            ("replica_lag = { warm = \"1 GB\" }", "the thresholds are out of order"),
            ("horizon = { warm = 5 }", "`warm` cannot be read"),
            ("query = { sql = \"select 1\" }", "a query without thresholds"),
            ("query = { hold = 1 }", "a query without SQL"),
            ("http = \"ftp://x\"", "`http` cannot be read"),
            ("unknown = \"maybe\"", "`unknown` cannot be read"),
            ("replica_lagg = \"off\"", "unknown key `replica_lagg`"),
        ] {
            let problems = read(&format!("[health]\n{line}\n")).unwrap_err();
            assert_eq!(problems[0].message, message, "{line}");
        }
    }
}
