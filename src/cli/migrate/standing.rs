//! Where a project's schema stands: the files of its revisions beside what the database has of them.

use std::collections::BTreeSet;
use std::path::Path;

use deadpool_postgres::Object;

use super::super::context::Context;
use super::super::failure::{Failure, Kind};
use crate::diagnostic::Report;
use crate::migrate::file::{self, Revision};
use crate::migrate::tree::{Tree, Unfound};
use crate::state::{GateRecord, Recorded, RevisionState};

/// Files and database side by side.
pub(in crate::cli) struct Standing {
    /// The files.
    pub tree: Tree,
    /// What the database has, in the order in which it was applied.
    pub recorded: Vec<Recorded>,
    /// What was demanded of backfills, and how that was met.
    pub gates: Vec<GateRecord>,
}

/// Reads the files of a directory; all problems of all files at once.
pub(in crate::cli) fn read_tree(project: &Path) -> Result<Tree, Failure> {
    let directory = project.join("migrations");
    let mut revisions = Vec::new();
    let mut reports = Vec::new();
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Tree::default()),
        Err(error) => return Err(Failure::usage(format!("read {}: {error}", directory.display()))),
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "sql"));
    paths.sort();
    for path in paths {
        let shown = path.strip_prefix("./").unwrap_or(&path).display().to_string();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let source = std::fs::read_to_string(&path)
            .map_err(|error| Failure::usage(format!("read {shown}: {error}")))?;
        match file::parse(&shown, &name, &source) {
            Ok(revision) => revisions.push(revision),
            Err(report) => reports.push(report),
        }
    }
    if reports.is_empty() {
        match Tree::new(revisions) {
            Ok(tree) => return Ok(tree),
            Err(problems) => reports = problems,
        }
    }
    Err(broken(reports))
}

/// Several files with problems, as one failure.
fn broken(reports: Vec<Report>) -> Failure {
    let count: usize = reports.iter().map(|report| report.problems.len()).sum();
    let mut failure = Failure::new(Kind::Usage, format!("the revisions have {count} problems"));
    failure.reports = reports.into_boxed_slice();
    failure
}

impl Standing {
    /// Reads both sides; a database without state tables has nothing applied.
    pub(in crate::cli) async fn read(ctx: &Context, client: &Object) -> Result<Standing, Failure> {
        let tree = read_tree(&ctx.directory)?;
        if !ctx.has_tables(client).await? {
            return Ok(Standing { tree, recorded: Vec::new(), gates: Vec::new() });
        }
        let recorded = ctx.store.revisions(client).await?;
        Ok(Standing { tree, recorded, gates: ctx.store.gates(client).await? })
    }

    /// By its id.
    pub(super) fn record(&self, id: &str) -> Option<&Recorded> {
        self.recorded.iter().find(|recorded| recorded.id == id)
    }

    /// The revisions that are applied.
    pub(super) fn applied(&self) -> BTreeSet<String> {
        let applied =
            self.recorded.iter().filter(|recorded| recorded.state == RevisionState::Applied);
        applied.map(|recorded| recorded.id.clone()).collect()
    }

    /// Applied revisions whose file says something else now.
    pub(super) fn edited(&self) -> Vec<&Revision> {
        let is_edited = |revision: &&Revision| {
            self.record(&revision.id).is_some_and(|recorded| {
                recorded.state == RevisionState::Applied
                    && recorded.origin == "ran"
                    && recorded.digest != revision.digest()
            })
        };
        self.tree.revisions.iter().filter(is_edited).collect()
    }

    /// Applied revisions without a file here.
    pub(super) fn without_file(&self) -> Vec<&Recorded> {
        self.recorded.iter().filter(|recorded| self.tree.get(&recorded.id).is_none()).collect()
    }

    /// The applied revisions that nothing applied builds on.
    pub(super) fn current(&self) -> Vec<&Recorded> {
        let built_on: BTreeSet<&str> =
            self.recorded.iter().flat_map(|r| &r.parents).map(String::as_str).collect();
        self.recorded.iter().filter(|recorded| !built_on.contains(recorded.id.as_str())).collect()
    }

    /// A revision by what was typed.
    pub(super) fn find(&self, typed: &str) -> Result<&Revision, Failure> {
        self.tree.find(typed).map_err(|unfound| match unfound {
            Unfound::No(near) => {
                let failure = Failure::usage(format!("there is no revision `{typed}`"));
                failure.hint(match near {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "list them with `backfill migrate history`".to_owned(),
                })
            }
            Unfound::Several(ids) => {
                Failure::usage(format!("`{typed}` begins several ids: {}", ids.join(", ")))
                    .hint("type more of it")
            }
        })
    }

    /// What must be mended before anything is applied.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if let Some(edited) = self.edited().first() {
            return Err(Failure::refused(format!("{} has been edited since it was applied", edited.path)).hint(format!(
                "restore the file and put the change into a new revision; or, when the database already is as the file \
                 says: backfill migrate resolve {} --restamp --reason \"…\"",
                edited.id
            )));
        }
        let half = self.recorded.iter().find(|recorded| recorded.state == RevisionState::Reverting);
        if let Some(half) = half {
            return Err(Failure::refused(format!("revision {} is half taken back", half.id))
                .hint("finish it with `backfill migrate downgrade -1`, then upgrade again"));
        }
        Ok(())
    }
}
