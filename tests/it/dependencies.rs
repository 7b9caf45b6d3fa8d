//! What the program is built from: licences, sources, and crates that must not be among them.

use std::process::Command;

use serde_json::Value;

/// Permissive ones, by their SPDX names: what is built with them may be given away under any terms.
const LICENCES: [&str; 10] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// With the reason.
const BANNED: [(&str, &str); 5] = [
    ("openssl-sys", "TLS is rustls: a binary must not depend on the machine's OpenSSL"),
    ("native-tls", "TLS is rustls: the same everywhere"),
    ("aws-lc-sys", "needs cmake; ring needs a C compiler alone"),
    ("pq-sys", "the server is spoken to by tokio-postgres alone"),
    ("time", "dates and zones are jiff's: two libraries would disagree"),
];

/// The packages that the binary and the tests are built from on this machine.
fn packages() -> Vec<Value> {
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let version = run("rustc", &["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let arguments = ["metadata", "--format-version", "1", "--locked", "--filter-platform", host];
    let metadata: Value = serde_json::from_str(&run("cargo", &arguments)).unwrap();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let is_used = |package: &Value| nodes.iter().any(|node| node["id"] == package["id"]);
    metadata["packages"].as_array().unwrap().iter().filter(|p| is_used(p)).cloned().collect()
}

/// Whether one of the alternatives of every part is ours to take.
fn is_permitted(licence: &str) -> bool {
    let plain = licence.replace(['(', ')'], "").replace('/', " OR ");
    plain.split(" AND ").all(|part| part.split(" OR ").any(|name| LICENCES.contains(&name.trim())))
}

#[test]
fn licences_and_sources_are_known_and_nothing_banned_is_used() {
    let packages = packages();
    assert!(packages.len() > 100, "{} packages are not all", packages.len());
    let mut found = Vec::new();
    for package in &packages {
        let name = package["name"].as_str().unwrap();
        let licence = package["license"].as_str().unwrap_or("none");
        if !is_permitted(licence) {
            found.push(format!("{name} has licence {licence}"));
        }
        let is_ours = name == env!("CARGO_PKG_NAME");
        if !is_ours && !package["source"].as_str().is_some_and(|s| s.starts_with("registry+")) {
            found.push(format!("{name} does not come from the registry"));
        }
        if let Some((_, why)) = BANNED.iter().find(|(banned, _)| *banned == name) {
            found.push(format!("{name}: {why}"));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_licence_is_permitted_when_every_part_of_it_is() {
    for good in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR ISC", "(MIT OR GPL-3.0) AND Unicode-3.0"] {
        assert!(is_permitted(good), "{good}");
    }
    for bad in ["none", "GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0 WITH LLVM-exception"] {
        assert!(!is_permitted(bad), "{bad}");
    }
}
