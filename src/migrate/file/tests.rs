//! What a file says, and what is wrong with it.

use super::*;

const FILE: &str = "-- Makes it so.\n-- revises: 3f1a\n-- requires: phases@verified for 1d\n-- ignore drop-column: nobody reads it\n
-- up
alter table t add a int;
create index concurrently i on t (a);
alter table t validate constraint c
-- down
drop index concurrently i;
alter table t drop a;
-- verify: select true
";

fn parse_text(text: &str) -> Result<Revision, Report> {
    parse("migrations/x.sql", "20260105090000_7c42_add_a.sql", text)
}

fn problems(text: &str) -> Vec<(String, usize)> {
    let report = parse_text(text).unwrap_err();
    report.located().map(|problem| (problem.message.to_owned(), problem.line)).collect()
}

#[test]
fn a_file_says_what_it_is() {
    let revision = parse_text(FILE).unwrap();
    assert_eq!((revision.id.as_str(), revision.title.as_str()), ("7c42", "add a"));
    assert_eq!(revision.revises[0].0, "3f1a");
    assert_eq!(revision.requires[0].show(), "phases@verified for 1d");
    assert_eq!(revision.ignores[0].rule, "drop-column");
    assert_eq!((revision.up.len(), revision.down.len(), revision.verify.len()), (3, 2, 1));
    for statement in revision.up.iter().chain(&revision.down).chain(&revision.verify) {
        assert_eq!(&FILE[statement.span.clone()], statement.text);
    }
    assert_eq!(revision.up[2].way, Way::Long);
    assert!(revision.is_reversible());
}

#[test]
fn comments_and_line_ends_do_not_change_a_revision() {
    let digest = |text: &str| parse_text(text).unwrap().digest();
    let with_comment = FILE.replace("-- up\n", "-- up\n-- a remark\n").replace('\n', "\r\n");
    assert_eq!(digest(FILE), digest(&with_comment));
    assert_ne!(digest(FILE), digest(&FILE.replace("a int", "a bigint")));
}

#[test]
fn every_mistake_of_a_file_is_told_with_its_line() {
    let told = problems("-- revise: base\nselect 1;\n-- up\nselect 'x\n-- down\n");
    let lines: Vec<usize> = told.iter().map(|(_, line)| *line).collect();
    assert_eq!(lines, [1, 1, 2, 4], "{told:?}");
    assert_eq!(
        problems("-- revises: base\n-- transaction: never\n-- irreversible:\n-- requires: a@b\n")
            .len(),
        4
    );
    assert_eq!(problems("-- revises: base\n-- up\nbegin;\n-- down\n-- up\n").len(), 2);
    assert_eq!(problems("-- revises: base\n-- backfill: x\n-- up\nselect 1;\n-- down\n").len(), 1);
    assert_eq!(
        problems("-- revises: base\n-- transaction: file\n-- up\nvacuum t;\n-- down\n").len(),
        1
    );
    assert_eq!(problems("-- revises: base\n-- up\n-- verify: select 1; select 2\n").len(), 1);
    for stray in [
        "--down",
        "-- Down",
        "-- migrate:down",
        "-- +goose Down",
        "-- requires: a@verified",
        "--irreversible: no",
    ] {
        let told = problems(&format!("-- revises: base\n-- up\nselect 1;\n{stray}\nselect 2;\n"));
        assert_eq!(told.len(), 1, "{stray}");
        assert_eq!(told[0].1, 4, "{stray}");
    }
    let fine =
        "-- revises: base\n-- up\n-- note: going down: slowly\nselect '\n--down\n';\n-- down\n";
    assert!(parse_text(fine).is_ok());
    assert!(parse("x", "20260105_add.sql", FILE).is_err());
}

#[test]
fn file_names_carry_time_id_and_title() {
    assert_eq!(name_parts("20260105T0900_7c42_a_b.sql"), Some(("20260105T0900", "7c42", "a_b")));
    for name in [
        "7c42_a.sql",
        "20260105_7c_a.sql",
        "20260105_7c42_.sql",
        "20260105_7C42_a.sql",
        "README.md",
    ] {
        assert_eq!(name_parts(name), None, "{name}");
    }
}
