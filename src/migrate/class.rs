//! How a statement has to be run, told from its first words. Pure.
//!
//! Only what the server itself treats apart is known here: statements that refuse a transaction, statements that take long under a lock
//! which the application does not notice, and statements whose effect can be used only after a COMMIT. Everything else goes into a
//! transaction with its neighbours, whatever it is.

use std::ops::Range;

use super::split::Word;

/// How a statement is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// In one transaction with its neighbours.
    Together,
    /// As [`Way::Together`], and the transaction ends behind it: an enum's new value cannot be used before it is committed.
    TogetherLast,
    /// As [`Way::Together`], and again whenever a step is taken up in the middle: it says what the statements behind it mean.
    Setting,
    /// In a transaction of its own, for as long as it takes: it reads the whole table, under a lock that reads and writes pass.
    Long,
    /// Outside of any transaction, for as long as it takes.
    Outside(Outside),
}

/// What a statement outside of a transaction leaves behind when it is interrupted, so that it can be taken up again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outside {
    /// An index, perhaps an invalid one.
    CreateIndex {
        /// As written; in the schema of its table.
        name: String,
        /// As written.
        table: String,
    },
    /// An index, perhaps an invalid one.
    DropIndex {
        /// As written.
        name: String,
    },
    /// A partition, perhaps one that is half detached.
    Detach {
        /// As written.
        table: String,
        /// As written.
        partition: String,
    },
    /// Invalid copies of indexes, beside those that are there.
    Reindex,
    /// Nothing that another try would not do again.
    Again,
    /// Nobody can tell whether it was done.
    Unknown,
}

/// A lock that a statement is known to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asks {
    /// The table, as written.
    pub table: String,
    /// As in `LOCK TABLE … IN … MODE`.
    pub mode: &'static str,
}

/// A statement that a revision cannot hold, and what to do instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// What is wrong.
    pub what: &'static str,
    /// What to do.
    pub help: &'static str,
    /// Where.
    pub span: Range<usize>,
}

/// Reads along the words of a statement.
struct Reader<'a> {
    source: &'a str,
    words: &'a [Word],
    at: usize,
}

impl<'a> Reader<'a> {
    fn is(&self, keyword: &str) -> bool {
        self.words.get(self.at).is_some_and(|word| word.is(keyword))
    }

    /// Steps over these keywords when all of them come next.
    fn eat(&mut self, keywords: &str) -> bool {
        let count = keywords.split(' ').count();
        let next = self.words.get(self.at..self.at + count).unwrap_or_default();
        let is_next = next.len() == count
            && next.iter().zip(keywords.split(' ')).all(|(word, keyword)| word.is(keyword));
        if is_next {
            self.at += count;
        }
        is_next
    }

    /// A name with its schema, as written.
    fn name(&mut self) -> Option<&'a str> {
        let first = self.words.get(self.at).filter(|word| word.is_name)?;
        let mut end = first.span.end;
        self.at += 1;
        while self.words.get(self.at).is_some_and(|word| word.text == ".")
            && self.words.get(self.at + 1).is_some_and(|word| word.is_name)
        {
            end = self.words[self.at + 1].span.end;
            self.at += 2;
        }
        Some(&self.source[first.span.start..end])
    }

    /// A list of names.
    fn names(&mut self) -> Vec<&'a str> {
        let mut names = Vec::new();
        loop {
            self.eat("only");
            names.extend(self.name());
            if self.words.get(self.at).is_none_or(|word| word.text != ",") {
                return names;
            }
            self.at += 1;
        }
    }

    /// Goes to behind the next such keyword.
    fn seek(&mut self, keyword: &str) -> bool {
        let found = self.words[self.at..].iter().position(|word| word.is(keyword));
        if let Some(found) = found {
            self.at += found + 1;
        }
        found.is_some()
    }
}

fn has(words: &[Word], keyword: &str) -> bool {
    words.iter().any(|word| word.is(keyword))
}

/// How a statement has to be run; `source` is the text that its words were cut from.
pub fn way(source: &str, words: &[Word]) -> Way {
    let mut read = Reader { source, words, at: 0 };
    if read.eat("create unique index concurrently") || read.eat("create index concurrently") {
        read.eat("if not exists");
        let name = if read.is("on") { None } else { read.name() };
        read.eat("on");
        read.eat("only");
        return match (name, read.name()) {
            (Some(name), Some(table)) => Way::Outside(Outside::CreateIndex {
                name: name.to_owned(),
                table: table.to_owned(),
            }),
            _ => Way::Outside(Outside::Unknown),
        };
    }
    if read.eat("drop index concurrently") {
        read.eat("if exists");
        let name = read
            .name()
            .map_or(Outside::Unknown, |name| Outside::DropIndex { name: name.to_owned() });
        return Way::Outside(name);
    }
    if read.is("reindex") {
        let is_apart = has(words, "concurrently")
            || ["schema", "database", "system"].iter().any(|all| has(words, all));
        return if is_apart { Way::Outside(Outside::Reindex) } else { Way::Together };
    }
    if read.is("vacuum") || (read.is("cluster") && words.len() == 1) || read.eat("alter system") {
        return Way::Outside(Outside::Again);
    }
    if [
        "create database",
        "drop database",
        "create tablespace",
        "drop tablespace",
        "create subscription",
        "drop subscription",
    ]
    .iter()
    .any(|start| read.eat(start))
    {
        return Way::Outside(Outside::Unknown);
    }
    if read.eat("alter table") {
        return alter_table(read, words);
    }
    if read.eat("alter type") {
        read.name();
        return if read.eat("add value") { Way::TogetherLast } else { Way::Together };
    }
    if read.eat("refresh materialized view concurrently")
        || read.is("analyze")
        || read.is("analyse")
    {
        return Way::Long;
    }
    if read.is("reset")
        || (read.is("set") && !read.eat("set local") && !read.eat("set constraints"))
    {
        return Way::Setting;
    }
    Way::Together
}

fn alter_table(mut read: Reader<'_>, words: &[Word]) -> Way {
    read.eat("if exists");
    read.eat("only");
    let table = read.name();
    if read.eat("detach partition") {
        let partition = read.name();
        if !(read.is("concurrently") || read.is("finalize")) {
            return Way::Together;
        }
        return match (table, partition) {
            (Some(table), Some(partition)) => Way::Outside(Outside::Detach {
                table: table.to_owned(),
                partition: partition.to_owned(),
            }),
            _ => Way::Outside(Outside::Unknown),
        };
    }
    // With another action beside it, the statement takes that one's lock, which must not be held for long.
    let is_alone = !words.iter().any(|word| word.text == ",");
    if read.eat("validate constraint") && is_alone { Way::Long } else { Way::Together }
}

/// The locks that a statement will ask for, where its words tell: what is looked for before the statement queues behind others.
pub fn asks(source: &str, words: &[Word]) -> Vec<Asks> {
    let mut read = Reader { source, words, at: 0 };
    let strongest = |names: Vec<&str>| -> Vec<Asks> {
        let asks = |name: &str| Asks { table: name.to_owned(), mode: "ACCESS EXCLUSIVE" };
        names.into_iter().map(asks).collect()
    };
    if read.eat("alter table") {
        return asks_of_alter(read, words);
    }
    let is_trigger = ["create trigger", "create or replace trigger", "create constraint trigger"]
        .iter()
        .any(|start| read.eat(start));
    if is_trigger
        || read.eat("drop trigger")
        || read.eat("drop policy")
        || read.eat("create policy")
    {
        let mode = if is_trigger { "SHARE ROW EXCLUSIVE" } else { "ACCESS EXCLUSIVE" };
        let table = if read.seek("on") { read.name() } else { None };
        return table.map(|table| Asks { table: table.to_owned(), mode }).into_iter().collect();
    }
    if read.eat("create index") || read.eat("create unique index") {
        let is_quick = !read.is("concurrently") && read.seek("on");
        read.eat("only");
        let table = if is_quick { read.name() } else { None };
        return table
            .map(|table| Asks { table: table.to_owned(), mode: "SHARE" })
            .into_iter()
            .collect();
    }
    if read.eat("create table") {
        return referenced(read);
    }
    let drops = [
        "drop table",
        "drop view",
        "drop materialized view",
        "drop index",
        "truncate table",
        "truncate",
    ];
    if drops.iter().any(|start| read.eat(start)) && !read.is("concurrently") {
        read.eat("if exists");
        return strongest(read.names());
    }
    if read.eat("alter index") || read.eat("alter view") || read.eat("refresh materialized view") {
        read.eat("if exists");
        return strongest(read.name().into_iter().collect());
    }
    Vec::new()
}

fn asks_of_alter(mut read: Reader<'_>, words: &[Word]) -> Vec<Asks> {
    read.eat("if exists");
    read.eat("only");
    let Some(table) = read.name().map(str::to_owned) else { return Vec::new() };
    let is_alone = !words.iter().any(|word| word.text == ",");
    let is_weak = is_alone
        && (read.eat("validate constraint") || read.eat("attach partition") || read.eat("set ("));
    let is_key = read.is("add") && has(words, "references") && !has(words, "column");
    let mode = match () {
        () if is_weak => "SHARE UPDATE EXCLUSIVE",
        () if is_key || read.is("enable") || read.is("disable") => "SHARE ROW EXCLUSIVE",
        () => "ACCESS EXCLUSIVE",
    };
    let mut asks = vec![Asks { table, mode }];
    asks.extend(referenced(read));
    asks
}

/// The tables that foreign keys point to: they get triggers, and with them a lock.
fn referenced(mut read: Reader<'_>) -> Vec<Asks> {
    let mut asks = Vec::new();
    while read.seek("references") {
        let table = read.name().map(str::to_owned);
        asks.extend(table.map(|table| Asks { table, mode: "SHARE ROW EXCLUSIVE" }));
    }
    asks
}

/// The columns of a table that a statement drops; every column (None) when it drops the table itself.
pub fn dropped(source: &str, words: &[Word]) -> Option<(String, Option<Vec<String>>)> {
    let mut read = Reader { source, words, at: 0 };
    if read.eat("drop table") {
        read.eat("if exists");
        return Some((read.name()?.to_owned(), None));
    }
    read.eat("alter table").then_some(())?;
    read.eat("if exists");
    read.eat("only");
    let table = read.name()?.to_owned();
    let mut columns = Vec::new();
    while read.at < words.len() {
        if read.eat("drop column if exists") || read.eat("drop column") {
            columns.extend(words.get(read.at).map(|word| word.text.clone()));
        }
        read.at += 1;
    }
    (!columns.is_empty()).then_some((table, Some(columns)))
}

/// Why a statement cannot stand in a revision, if so.
pub fn unfit(source: &str, words: &[Word]) -> Option<Unfit> {
    let first = words.first()?;
    let span = first.span.clone();
    let mut read = Reader { source, words, at: 0 };
    let transactions =
        ["begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release"];
    if transactions.iter().any(|word| first.is(word)) || read.eat("prepare transaction") {
        let help = "remove it: statements that can share a transaction share one, and `-- transaction: none` gives each its own";
        return Some(Unfit {
            what: "a revision does not steer its transactions itself",
            help,
            span,
        });
    }
    if read.eat("set session authorization") {
        let help = "SET ROLE does it, and the record of the steps is still written by the role that logged in";
        return Some(Unfit { what: "the session stays with who logged in", help, span });
    }
    if first.is("copy") && (has(words, "stdin") || has(words, "stdout")) {
        let help = "load data with a backfill, or with psql; COPY from a file of the server works";
        return Some(Unfit { what: "COPY over the connection is not available here", help, span });
    }
    if first.text == "\\" {
        let help = "write plain SQL; commands of psql are not SQL";
        return Some(Unfit { what: "this is a command of psql", help, span });
    }
    let nameless = Way::Outside(Outside::Unknown);
    if has(words, "concurrently") && has(words, "index") && way(source, words) == nameless {
        let help = "CREATE INDEX CONCURRENTLY name ON …: by its name it is found again after an interruption";
        return Some(Unfit { what: "the index has no name", help, span });
    }
    if read.eat("drop index concurrently") && words.iter().any(|word| word.text == ",") {
        let help =
            "the server drops one index at a time with CONCURRENTLY; write one statement for each";
        return Some(Unfit { what: "several indexes in one DROP INDEX CONCURRENTLY", help, span });
    }
    None
}

#[cfg(test)]
mod tests;
