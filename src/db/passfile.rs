//! The password file and the connection service file, as libpq reads them.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::ConnInfoError;

/// What a password is looked up by.
pub struct Target<'a> {
    /// Host name, or `localhost` for a socket.
    pub host: &'a str,
    /// Port.
    pub port: &'a str,
    /// Database.
    pub database: &'a str,
    /// User.
    pub user: &'a str,
}

/// The first matching line's password. A file that others can read is not used, as in libpq, but said aloud.
pub fn password(path: &Path, target: &Target<'_>) -> Result<Option<String>, ConnInfoError> {
    let Ok(metadata) = std::fs::metadata(path) else { return Ok(None) };
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(ConnInfoError::PassfileOpen(path.display().to_string()));
    }
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(None) };
    Ok(text.lines().find_map(|line| match_line(line, target)))
}

fn match_line(line: &str, target: &Target<'_>) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let fields = split_fields(line);
    let [host, port, database, user, password] = fields.as_slice() else { return None };
    let matches = |field: &str, value: &str| field == "*" || field == value;
    let all = matches(host, target.host)
        && matches(port, target.port)
        && matches(database, target.database)
        && matches(user, target.user);
    all.then(|| password.clone())
}

/// Five fields separated by `:`; a backslash protects the next character.
fn split_fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let last = fields.len() - 1;
        match c {
            '\\' => fields[last].extend(chars.next()),
            ':' if fields.len() < 5 => fields.push(String::new()),
            c => fields[last].push(c),
        }
    }
    fields
}

/// The settings of `[service]` in a service file.
pub fn service(path: &Path, name: &str) -> Option<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut found = None;
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = section == name;
            if inside {
                found.get_or_insert_with(BTreeMap::new);
            }
        } else if inside
            && !line.starts_with('#')
            && let (Some((key, value)), Some(found)) = (line.split_once('='), found.as_mut())
        {
            found.insert(key.trim().to_owned(), value.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_lines_match_by_field_with_stars_and_escapes() {
        let target = Target { host: "db", port: "5432", database: "a:b", user: "me" };
        assert_eq!(match_line(r"db:5432:a\:b:me:se:cr\\et", &target), Some(r"se:cr\et".into()));
        assert_eq!(match_line("*:*:*:me:x", &target), Some("x".into()));
        assert_eq!(match_line("*:*:*:you:x", &target), None);
        assert_eq!(match_line("# *:*:*:*:x", &target), None);
    }
}
