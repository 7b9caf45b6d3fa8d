//! `migrate revision` and `migrate merge`: write files, change nothing else.

use std::path::{Path, PathBuf};

use super::super::context::Context;
use super::super::failure::{Exit, Failure, Kind};
use super::super::{print, print_json};
use super::standing::read_tree;

/// One file to be written.
pub(super) struct NewFile {
    /// In words; the slug is made of it.
    pub title: String,
    /// Everything behind the line `-- revises`.
    pub body: String,
}

/// What a revision without a pattern begins as.
const EMPTY: &str = "\n-- up\n\n-- down\n";

/// `backfill migrate revision -m MESSAGE`.
pub(super) fn revision(
    ctx: &Context,
    message: &str,
    backfill: Option<&str>,
) -> Result<Exit, Failure> {
    let body = match backfill {
        None => EMPTY.to_owned(),
        Some(name) => {
            crate::spec::check_name(name).map_err(Failure::usage)?;
            format!("-- backfill: {name}\n")
        }
    };
    let written = write(ctx, None, &[NewFile { title: message.to_owned(), body }])?;
    tell(ctx, &written);
    if let Some(name) = backfill.filter(|name| ctx.spec(name).is_err()) {
        print(&format!("next: backfill new {name}"));
    }
    Ok(Exit::Done)
}

/// `backfill migrate merge -m MESSAGE`.
pub(super) fn merge(ctx: &Context, message: &str) -> Result<Exit, Failure> {
    let tree = read_tree(&ctx.directory)?;
    let heads = tree.heads();
    if heads.len() < 2 {
        return Err(Failure::refused("the history has one head; there is nothing to join")
            .hint("see it with `backfill migrate heads`"));
    }
    let parents = heads.iter().map(|head| head.id.as_str()).collect::<Vec<_>>().join(", ");
    let file = NewFile { title: message.to_owned(), body: String::new() };
    tell(ctx, &write(ctx, Some(&parents), &[file])?);
    Ok(Exit::Done)
}

pub(super) fn tell(ctx: &Context, written: &[PathBuf]) {
    if ctx.json {
        print_json(&serde_json::json!({ "written": written }));
    } else {
        written.iter().for_each(|path| print(&format!("wrote {}", path.display())));
    }
}

/// Writes files, each building on the one before, the first on the head of the history (or on `parents`).
pub(super) fn write(
    ctx: &Context,
    parents: Option<&str>,
    files: &[NewFile],
) -> Result<Vec<PathBuf>, Failure> {
    let tree = read_tree(&ctx.directory)?;
    let heads = tree.heads();
    let mut revises = match (parents, heads.as_slice()) {
        (Some(parents), _) => parents.to_owned(),
        (None, []) => "base".to_owned(),
        (None, [head]) => head.id.clone(),
        (None, several) => {
            let ids: Vec<&str> = several.iter().map(|head| head.id.as_str()).collect();
            return Err(Failure::refused(format!(
                "the history has {} heads: {}",
                several.len(),
                ids.join(", ")
            ))
            .hint("join them first: backfill migrate merge -m \"…\""));
        }
    };
    let directory = ctx.directory.join("migrations");
    std::fs::create_dir_all(&directory).map_err(|error| unwritable(&directory, &error))?;
    let mut stamp = jiff::Zoned::now();
    let newest =
        heads.iter().map(|head| head.timestamp.as_str()).max().unwrap_or_default().to_owned();
    let mut written = Vec::new();
    for file in files {
        let mut time = stamp.strftime("%Y%m%d%H%M%S").to_string();
        // A file from a clock ahead of this one must not come to stand behind its own successor.
        if time <= newest && newest.len() == time.len() {
            time = newest
                .parse::<u64>()
                .map_or(time, |newest| (newest + 1 + written.len() as u64).to_string());
        }
        let id = loop {
            let id = format!("{:04x}", fastrand::u16(..));
            if tree.get(&id).is_none() {
                break id;
            }
        };
        let path = directory.join(format!("{time}_{id}_{}.sql", slug(&file.title)));
        let text = format!("-- {}\n-- revises: {revises}\n{}", file.title, file.body);
        std::fs::write(&path, text).map_err(|error| unwritable(&path, &error))?;
        written.push(path.strip_prefix("./").map(Path::to_owned).unwrap_or(path));
        revises = id;
        stamp = stamp.checked_add(jiff::Span::new().seconds(1)).unwrap_or(stamp);
    }
    Ok(written)
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Kind::Failed, format!("write {}: {error}", path.display()))
}

/// A title as part of a file's name.
fn slug(title: &str) -> String {
    const LONGEST: usize = 60;
    let mut slug = String::new();
    for c in title.to_lowercase().chars() {
        match c.is_alphanumeric() {
            true => slug.push(c),
            false if !slug.is_empty() && !slug.ends_with('_') => slug.push('_'),
            false => {}
        }
    }
    let cut: String = slug.chars().take(LONGEST).collect();
    let slug = cut.trim_end_matches('_').to_owned();
    if slug.is_empty() { "revision".to_owned() } else { slug }
}
