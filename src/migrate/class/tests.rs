//! What the first words of a statement tell.

use super::*;
use crate::migrate::split::words;

fn way_of(text: &str) -> Way {
    way(text, &words(text))
}

#[test]
fn what_refuses_a_transaction_is_known() {
    let create = Outside::CreateIndex { name: "i".into(), table: "\"S\".t".into() };
    assert_eq!(
        way_of("create unique index concurrently if not exists i on only \"S\".t (a)"),
        Way::Outside(create)
    );
    let drop = Outside::DropIndex { name: "s . i".into() };
    assert_eq!(way_of("DROP INDEX /* x */ CONCURRENTLY IF EXISTS s . i"), Way::Outside(drop));
    let detach = Outside::Detach { table: "t".into(), partition: "p".into() };
    assert_eq!(way_of("alter table t detach partition p concurrently"), Way::Outside(detach));
    for text in ["vacuum t", "alter system set a = 1"] {
        assert_eq!(way_of(text), Way::Outside(Outside::Again), "{text}");
    }
    assert_eq!(way_of("create index i on concurrently (a)"), Way::Together);
    for text in ["reindex index concurrently i", "reindex schema s"] {
        assert_eq!(way_of(text), Way::Outside(Outside::Reindex), "{text}");
    }
    assert_eq!(way_of("reindex table t"), Way::Together);
    assert_eq!(way_of("alter table t detach partition p"), Way::Together);
}

#[test]
fn what_takes_long_and_what_must_be_committed_is_known() {
    assert_eq!(way_of("alter table only t validate constraint c"), Way::Long);
    assert_eq!(way_of("alter table t validate constraint c, drop column x"), Way::Together);
    assert_eq!(way_of("alter type s.mood add value if not exists 'x'"), Way::TogetherLast);
    assert_eq!(way_of("set search_path = a"), Way::Setting);
    assert_eq!(way_of("set local search_path = a"), Way::Together);
}

#[test]
fn the_lock_is_told_by_the_first_words() {
    let mode = |text: &str| -> Vec<(String, &str)> {
        asks(text, &words(text)).into_iter().map(|asks| (asks.table, asks.mode)).collect()
    };
    let is = |asked: &[(&str, &'static str)]| -> Vec<(String, &'static str)> {
        asked.iter().map(|(table, mode)| ((*table).to_owned(), *mode)).collect()
    };
    let (all, key) = ("ACCESS EXCLUSIVE", "SHARE ROW EXCLUSIVE");
    assert_eq!(mode("alter table t add column a int"), is(&[("t", all)]));
    let reference = "alter table t add constraint f foreign key (a) references s.u (b)";
    assert_eq!(mode(reference), is(&[("t", key), ("s.u", key)]));
    assert_eq!(mode("alter table t add column a int references u"), is(&[("t", all), ("u", key)]));
    assert_eq!(
        mode("create table v (a int references t, b int references u (c))"),
        is(&[("t", key), ("u", key)])
    );
    let trigger = "create trigger x before insert on s.t for each row execute function f()";
    assert_eq!(mode(trigger), is(&[("s.t", key)]));
    assert_eq!(mode("create index i on t (a)"), is(&[("t", "SHARE")]));
    assert_eq!(mode("drop table if exists t, only s.u"), is(&[("t", all), ("s.u", all)]));
    assert_eq!(mode("truncate t, u"), is(&[("t", all), ("u", all)]));
    assert_eq!(mode("drop index i"), is(&[("i", all)]));
    assert_eq!(mode("drop index concurrently i"), is(&[]));
    assert_eq!(mode("select 1"), is(&[]));
}

#[test]
fn what_a_revision_cannot_hold_is_told() {
    let what = |text: &str| unfit(text, &words(text)).map(|unfit| unfit.what);
    for text in [
        "begin",
        "COMMIT",
        "prepare transaction 'x'",
        "set session authorization bob",
        "copy t from stdin",
        "\\d t",
        "create index concurrently on t (a)",
    ] {
        assert!(what(text).is_some(), "{text}");
    }
    for text in [
        "copy t from '/x'",
        "prepare p as select 1",
        "create index on t (a)",
        "do $$ begin commit; end $$",
    ] {
        assert_eq!(what(text), None, "{text}");
    }
}

#[test]
fn dropped_columns_are_found() {
    let of = |text: &str| dropped(text, &words(text));
    let columns = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    assert_eq!(
        of("alter table s.t drop column a, drop column if exists \"B\" cascade"),
        Some(("s.t".into(), columns(&["a", "B"])))
    );
    assert_eq!(of("drop table t"), Some(("t".into(), None)));
    assert_eq!(of("alter table t drop constraint c"), None);
}
