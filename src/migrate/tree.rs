//! The revisions of a project and their order: a history that may fork and be joined again. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::file::Revision;
use crate::diagnostic::{Diagnostic, Report};
use crate::document::nearest;

/// All revisions, each behind those that it builds on.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// In the order in which they are applied.
    pub revisions: Vec<Revision>,
}

/// Why a revision cannot be found by what was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfound {
    /// No id begins like that; the nearest one.
    No(Option<String>),
    /// Several do.
    Several(Vec<String>),
}

impl Tree {
    /// Puts revisions in order; every id that is taken twice, missing or circular is told at its line.
    pub fn new(revisions: Vec<Revision>) -> Result<Tree, Vec<Report>> {
        let mut reports = Vec::new();
        let mut by_id: BTreeMap<String, Revision> = BTreeMap::new();
        for revision in revisions {
            if let Some(other) = by_id.get(&revision.id) {
                let message = format!("the id {} is taken by {}", revision.id, other.path);
                let problem = Diagnostic::new(message, first_line(&revision), "in this file").help(
                    "give one of the two files another id, also where it is named in `revises`",
                );
                reports.push(Report::new(&revision.path, &revision.source, vec![problem]));
            } else {
                by_id.insert(revision.id.clone(), revision);
            }
        }
        let ids: Vec<&str> = by_id.keys().map(String::as_str).collect();
        for revision in by_id.values() {
            let missing = revision.revises.iter().filter(|(parent, _)| !by_id.contains_key(parent));
            let problems: Vec<Diagnostic> = missing
                .map(|(parent, span)| {
                    let problem = Diagnostic::new(format!("there is no revision `{parent}`"), span.clone(), "names it");
                    problem.help(match nearest(parent, &ids) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => "its file may be on another branch; `backfill migrate history` lists what is here".to_owned(),
                    })
                })
                .collect();
            if !problems.is_empty() {
                reports.push(Report::new(&revision.path, &revision.source, problems));
            }
        }
        if !reports.is_empty() {
            return Err(reports);
        }
        sort(by_id).map(|revisions| Tree { revisions }).map_err(|report| vec![report])
    }

    /// By its id.
    pub fn get(&self, id: &str) -> Option<&Revision> {
        self.revisions.iter().find(|revision| revision.id == id)
    }

    /// By its id or the beginning of it.
    pub fn find(&self, typed: &str) -> Result<&Revision, Unfound> {
        if let Some(exact) = self.get(typed) {
            return Ok(exact);
        }
        let found: Vec<&Revision> =
            self.revisions.iter().filter(|revision| revision.id.starts_with(typed)).collect();
        match found.as_slice() {
            [one] => Ok(one),
            [] => {
                let ids: Vec<&str> =
                    self.revisions.iter().map(|revision| revision.id.as_str()).collect();
                Err(Unfound::No(nearest(typed, &ids).map(str::to_owned)))
            }
            several => {
                Err(Unfound::Several(several.iter().map(|revision| revision.id.clone()).collect()))
            }
        }
    }

    /// The revisions that no other builds on.
    pub fn heads(&self) -> Vec<&Revision> {
        let built_on: BTreeSet<&str> = self.revisions.iter().flat_map(parents).collect();
        self.revisions.iter().filter(|revision| !built_on.contains(revision.id.as_str())).collect()
    }

    /// A revision and all that it builds on.
    pub fn with_ancestors(&self, id: &str) -> BTreeSet<String> {
        self.closure(id, |at| {
            self.get(at).into_iter().flat_map(parents).map(str::to_owned).collect()
        })
    }

    /// A revision and all that build on it.
    pub fn with_descendants(&self, id: &str) -> BTreeSet<String> {
        self.closure(id, |at| {
            let builds = |revision: &&Revision| parents(revision).any(|parent| parent == at);
            self.revisions.iter().filter(builds).map(|revision| revision.id.clone()).collect()
        })
    }

    fn closure(&self, id: &str, next: impl Fn(&str) -> Vec<String>) -> BTreeSet<String> {
        let (mut found, mut open) = (BTreeSet::new(), vec![id.to_owned()]);
        while let Some(at) = open.pop() {
            if found.insert(at.clone()) {
                open.extend(next(&at));
            }
        }
        found
    }

    /// The revisions that are to be applied to reach these, in order.
    pub fn pending(&self, applied: &BTreeSet<String>, targets: &[&str]) -> Vec<&Revision> {
        let wanted: BTreeSet<String> =
            targets.iter().flat_map(|id| self.with_ancestors(id)).collect();
        self.revisions
            .iter()
            .filter(|revision| wanted.contains(&revision.id) && !applied.contains(&revision.id))
            .collect()
    }

    /// Of those to be applied, the ones that something applied already builds on: they come too late.
    pub fn late<'t>(
        &'t self,
        applied: &BTreeSet<String>,
        pending: &[&'t Revision],
    ) -> Vec<&'t Revision> {
        let before: BTreeSet<String> =
            applied.iter().flat_map(|id| self.with_ancestors(id)).collect();
        pending.iter().filter(|revision| before.contains(&revision.id)).copied().collect()
    }
}

fn parents(revision: &Revision) -> impl Iterator<Item = &str> {
    revision.revises.iter().map(|(id, _)| id.as_str())
}

fn first_line(revision: &Revision) -> std::ops::Range<usize> {
    0..revision.source.find('\n').unwrap_or(revision.source.len())
}

/// Each behind those it builds on; where that leaves a choice, by time and id.
fn sort(mut left: BTreeMap<String, Revision>) -> Result<Vec<Revision>, Report> {
    let mut sorted: Vec<Revision> = Vec::new();
    while !left.is_empty() {
        let is_ready =
            |revision: &&Revision| parents(revision).all(|parent| !left.contains_key(parent));
        let next = left
            .values()
            .filter(is_ready)
            .min_by_key(|revision| (&revision.timestamp, &revision.id));
        let Some(id) = next.map(|revision| revision.id.clone()) else { break };
        sorted.extend(left.remove(&id));
    }
    match left.into_values().next() {
        None => Ok(sorted),
        Some(circular) => {
            let span = circular.revises.first().map_or(0..0, |(_, span)| span.clone());
            let problem = Diagnostic::new(
                "the revision builds on itself, through others",
                span,
                "leads back here",
            )
            .help("`revises` must name a revision that was there before");
            Err(Report::new(&circular.path, &circular.source, vec![problem]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::parse;
    use super::*;

    fn revision(time: &str, id: &str, revises: &str) -> Revision {
        let source = format!("-- revises: {revises}\n-- up\nselect 1;\n-- down\n");
        parse(&format!("{id}.sql"), &format!("{time}_{id}_x.sql"), &source).unwrap()
    }

    fn ids<'a>(revisions: impl IntoIterator<Item = &'a Revision>) -> Vec<&'a str> {
        revisions.into_iter().map(|revision| revision.id.as_str()).collect()
    }

    fn applied(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    fn forked() -> Tree {
        Tree::new(vec![
            revision("20260105", "dddd", "cccc, bbbb"),
            revision("20260104", "cccc", "aaaa"),
            revision("20260103", "bbbb", "aaaa"),
            revision("20260102", "aaaa", "base"),
        ])
        .unwrap()
    }

    #[test]
    fn each_stands_behind_those_it_builds_on() {
        let tree = forked();
        assert_eq!(ids(&tree.revisions), ["aaaa", "bbbb", "cccc", "dddd"]);
        assert_eq!(ids(tree.heads()), ["dddd"]);
        assert_eq!(ids(tree.pending(&applied(&["aaaa", "cccc"]), &["dddd"])), ["bbbb", "dddd"]);
        assert_eq!(ids(tree.pending(&applied(&[]), &["cccc"])), ["aaaa", "cccc"]);
        assert_eq!(tree.with_descendants("cccc"), applied(&["cccc", "dddd"]));
    }

    #[test]
    fn forks_and_late_files_are_seen() {
        let mut revisions = forked().revisions;
        revisions.pop();
        let tree = Tree::new(revisions).unwrap();
        assert_eq!(ids(tree.heads()), ["bbbb", "cccc"]);
        let tree = forked();
        let done = applied(&["aaaa", "bbbb", "dddd"]);
        let pending = tree.pending(&done, &["dddd"]);
        assert_eq!(ids(tree.late(&done, &pending)), ["cccc"]);
    }

    #[test]
    fn beginnings_of_ids_are_enough() {
        let tree = forked();
        assert_eq!(tree.find("cc").map(|revision| revision.id.as_str()), Ok("cccc"));
        assert!(matches!(tree.find("cccb"), Err(Unfound::No(Some(_)))));
        assert!(matches!(tree.find(""), Err(Unfound::Several(_))));
    }

    #[test]
    fn broken_histories_are_told_at_their_lines() {
        let twice = Tree::new(vec![
            revision("20260101", "aaaa", "base"),
            revision("20260102", "aaaa", "base"),
        ]);
        assert!(twice.unwrap_err()[0].problems[0].message.contains("is taken by aaaa.sql"));
        let missing = Tree::new(vec![revision("20260101", "aaaa", "zzzz")]).unwrap_err();
        assert_eq!(missing[0].located().next().map(|p| (p.line, p.column)), Some((1, 13)));
        let circle = Tree::new(vec![
            revision("20260101", "aaaa", "bbbb"),
            revision("20260101", "bbbb", "aaaa"),
        ]);
        assert!(circle.unwrap_err()[0].problems[0].message.contains("builds on itself"));
    }
}
