//! For every type of key: each key lies in exactly one chunk, and the result is that of the one big UPDATE, also when the run was killed
//! half-way and while an application writes.

use crate::support::{Db, Started, Which, wait_for};

/// A table of keys: its key columns, a query that makes about 3,000 of them, and the type of the key in a comparison.
struct Keys {
    name: &'static str,
    columns: &'static str,
    key: &'static str,
    rows: &'static str,
    setup: &'static str,
    /// How the table is partitioned, and statements that make its partitions.
    partitions: (&'static str, &'static str),
}

const PLAIN: Keys = Keys {
    name: "bigint",
    columns: "id bigint primary key",
    key: "id",
    rows: "select i * 3 - 900 + case when i > 2000 then 1000000000000 else 0 end from generate_series(1, 3000) i",
    setup: "",
    partitions: ("", ""),
};

const ALL: [Keys; 18] = [
    PLAIN,
    Keys {
        name: "bigint in partitions by hash",
        partitions: (
            "partition by hash (id)",
            "create table t_0 partition of t for values with (modulus 3, remainder 0);
             create table t_1 partition of t for values with (modulus 3, remainder 1);
             create table t_2 partition of t for values with (modulus 3, remainder 2)",
        ),
        ..PLAIN
    },
    Keys {
        name: "date and bigint in partitions of partitions, some empty",
        columns: "a bigint, b date, primary key (b, a)",
        key: "b, a",
        rows: "select '2026-01-01'::date + i % 100, i from generate_series(1, 3000) i",
        partitions: (
            "partition by range (b)",
            "create table t_3 partition of t for values from ('2026-01-01') to ('2026-02-01');
             create table t_2 partition of t for values from ('2026-02-01') to ('2026-03-01') partition by list (a);
             create table t_2_some partition of t_2 for values in (31, 32, 131, 132);
             create table t_2_none partition of t_2 for values in (1, 2);
             create table t_2_rest partition of t_2 default;
             create table t_1 partition of t for values from ('2027-01-01') to ('2028-01-01');
             create table t_0 partition of t default",
        ),
        ..PLAIN
    },
    Keys {
        name: "enum and int in partitions whose columns stand in another order",
        columns: "a mood, b int, primary key (b, a)",
        key: "b, a",
        rows: "select i / 2, (array['sad', 'ok', 'happy'])[1 + i % 3]::mood from generate_series(1, 3000) i",
        partitions: (
            "partition by list (a)",
            "create table t_b (v text, gone int, n int not null default 0, b int not null, a mood not null);
             alter table t_b drop column gone;
             alter table t attach partition t_b for values in ('sad');
             create table t_a partition of t for values in ('ok', 'happy')",
        ),
        ..PLAIN
    },
    Keys {
        name: "int, skewed",
        columns: "id int primary key",
        rows: "select i from generate_series(1, 2500) i union select 2000000000 + i * 50000 from generate_series(1, 500) i",
        ..PLAIN
    },
    Keys {
        name: "uuid",
        columns: "id uuid primary key",
        rows: "select md5(i::text)::uuid from generate_series(1, 3000) i",
        ..PLAIN
    },
    Keys {
        name: "text in C",
        columns: "id text collate \"C\" primary key",
        rows: "select chr(33 + i % 90) || md5(i::text) || E'\\u00e9''\"' from generate_series(1, 2998) i union select '' union select E' \\n\\\\'",
        ..PLAIN
    },
    Keys {
        name: "text in ICU",
        columns: "id text collate \"en-x-icu\" primary key",
        rows: "select case i % 3 when 0 then upper(md5(i::text)) when 1 then md5(i::text) else E'\\u00c4' || i end from generate_series(1, 3000) i",
        ..PLAIN
    },
    Keys {
        name: "varchar",
        columns: "id varchar(40) primary key",
        rows: "select md5(i::text) from generate_series(1, 3000) i",
        ..PLAIN
    },
    Keys {
        name: "char",
        columns: "id char(10) primary key",
        rows: "select 'k' || i from generate_series(1, 3000) i",
        ..PLAIN
    },
    Keys {
        name: "numeric",
        columns: "id numeric primary key",
        rows: "select (i - 1500) / 7.0 from generate_series(1, 2999) i union select 'NaN'",
        ..PLAIN
    },
    Keys {
        name: "date",
        columns: "id date primary key",
        rows: "select '1990-01-01'::date + i * 2 from generate_series(1, 2998) i union select '-infinity' union select 'infinity'",
        ..PLAIN
    },
    Keys {
        name: "timestamptz",
        columns: "id timestamptz primary key",
        rows: "select '2020-03-29 00:00Z'::timestamptz + i * interval '17 min 0.000001 s' from generate_series(1, 2999) i union select 'infinity'",
        ..PLAIN
    },
    Keys {
        name: "descending",
        columns: "id bigint not null",
        rows: "select i * i from generate_series(1, 3000) i",
        setup: "create unique index on t (id desc)",
        ..PLAIN
    },
    Keys {
        name: "enum and int",
        columns: "a mood, b int, primary key (a, b)",
        key: "a, b",
        rows: "select (array['sad', 'ok', 'happy'])[1 + i % 3]::mood, i from generate_series(1, 3000) i",
        ..PLAIN
    },
    Keys {
        name: "int and text, one value in nine of ten",
        columns: "a int, b text, primary key (a, b)",
        key: "a, b",
        rows: "select case when i % 10 = 0 then i else 1 end, md5(i::text) from generate_series(1, 3000) i",
        ..PLAIN
    },
    Keys {
        name: "numeric of several scales and int",
        columns: "a numeric, b int, primary key (a, b)",
        key: "a, b",
        rows: "select case when i % 3 = 0 then 1.0 else 1.00 end + (i / 1500), i from generate_series(1, 3000) i",
        ..PLAIN
    },
    Keys {
        name: "text, date and bigint",
        columns: "a text, b date, c bigint, primary key (b, a, c)",
        key: "b, a, c",
        rows: "select 'x' || i % 7, '2024-01-01'::date + i % 50, i from generate_series(1, 3000) i",
        ..PLAIN
    },
];

/// Keys whose last column is of a type that the server hashes by no function of its own name.
const WITHOUT_HASH: [&str; 2] = ["date", "timestamptz"];

/// Keys that do not begin with what decides the partition: a row may move far when that changes, so the parent is gone through.
const ROAMING: &str = "enum and int in partitions whose columns stand in another order";

/// The keys that can be gone through in an order.
fn keys_for(order: &str) -> impl Iterator<Item = &'static Keys> {
    let fits = move |keys: &&Keys| match order {
        AS_IT_LIKES => !keys.partitions.0.is_empty(),
        "order = \"key\"\n" => true,
        _ => !WITHOUT_HASH.contains(&keys.name),
    };
    ALL.iter().filter(fits)
}

/// Slices, and stripes that are several windows of these tables.
const ORDERS: [&str; 2] = ["order = \"key\"\n", "order = \"striped\"\nstripes = 8\n"];

/// Such small tables are gone through in slices then, but partitions leaf by leaf.
const AS_IT_LIKES: &str = "";

/// A table `t`, and a copy `expected` on which the one big UPDATE was run.
fn prepare(db: &Db, keys: &Keys, order: &str) {
    let Keys { columns, key, rows, setup, .. } = keys;
    db.sql.run("create type mood as enum ('happy', 'ok', 'sad')");
    let (by, partitions) = keys.partitions;
    db.sql.run(&format!("create table t ({columns}, n int not null default 0, v text) {by}"));
    db.sql.run(partitions);
    let names = key.split(", ").collect::<Vec<_>>();
    let names = if names.len() == 3 { "a, b, c".to_owned() } else { names.join(", ") };
    db.sql.run(&format!("insert into t ({names}) {rows}"));
    db.sql.run(&format!(
        "update t set v = 'kept' where n = 0 and abs(hashtext(({key})::text)) % 10 = 0"
    ));
    db.sql.run(setup);
    db.sql.run("analyze t; create table before as table t; create table expected as select * from t; update expected set n = n + 1, v = coalesce(v, 'new')");
    let quoted: Vec<String> = key.split(", ").map(|column| format!("{column:?}")).collect();
    let key =
        if setup.is_empty() { String::new() } else { format!("key = [{}]\n", quoted.join(", ")) };
    db.spec(
        "law",
        &format!(
            "table = \"t\"\n{key}{order}[[rule]]\nset = {{ n = \"n + 1\" }}\n[[rule]]\nfill = {{ v = \"'new'\" }}\n\
             [limits]\nworkers = 3\nchunk_rows_max = {}\n",
            if order == ORDERS[1] { 15 } else { 97 }
        ),
    );
}

/// Each key of the table lies in exactly one chunk of the newest run.
fn each_key_in_one_chunk(db: &Db, keys: &Keys, order: &str) {
    let newest = "run_id = (select max(run_id) from backfill.run)";
    let is_by_leaf =
        db.sql.text(&format!("select leaves is not null from backfill.run where {newest}")) == "t";
    let is_due = match order {
        AS_IT_LIKES => keys.name != ROAMING,
        order => order != ORDERS[0],
    };
    assert_eq!(is_by_leaf, !keys.partitions.0.is_empty() && is_due, "{}", keys.name);
    let row = |bound: &str| {
        let columns: Vec<&str> = keys.key.split(", ").collect();
        let types = db.sql.rows(&format!(
            "select format_type(atttypid, null) from unnest(string_to_array('{}', ', ')) with ordinality k (name, ord)
               join pg_attribute on attrelid = 't'::regclass and attname = k.name order by k.ord",
            keys.key
        ));
        let cast = |i: usize| {
            let ty = if types[i][0] == "character" { "bpchar" } else { &types[i][0] };
            format!("c.{bound}[{}]::{ty}", i + 1 + usize::from(is_by_leaf))
        };
        let leaf = is_by_leaf.then(|| format!("c.{bound}[1]::int"));
        format!(
            "({})",
            leaf.into_iter().chain((0..columns.len()).map(cast)).collect::<Vec<_>>().join(", ")
        )
    };
    let columns: Vec<String> = keys.key.split(", ").map(|column| format!("t.{column}")).collect();
    let leaf = is_by_leaf.then(|| {
        format!("array_position((select leaves from backfill.run where {newest}), t.tableoid)")
    });
    let key = leaf.into_iter().chain(columns.clone()).collect::<Vec<_>>().join(", ");
    let stripe = stripe_of(db, &columns);
    let counts = db.sql.rows(&format!(
        "select chunks, count(*) from (
             select (select count(*) from backfill.chunk c
                      where c.run_id = (select max(run_id) from backfill.run)
                        and (c.after_key is null or ({key}) > {}) and ({key}) <= {}
                        and c.stripe = {stripe}) as chunks
               from t) counted
          group by chunks",
        row("after_key"),
        row("upto_key")
    ));
    let total = db.sql.text("select count(*) from t");
    assert_eq!(counts, [["1".to_owned(), total]], "{}", keys.name);
}

/// The stripe of a row among those of chunk `c`, from what the run says of its key.
fn stripe_of(db: &Db, columns: &[String]) -> String {
    let spreads = db.sql.rows(
        "select coalesce(entry->>3, '') from backfill.run, jsonb_array_elements(key) with ordinality k (entry, ord)
          where run_id = (select max(run_id) from backfill.run) order by ord",
    );
    if spreads[0][0] == "%" {
        return format!("(({0}::int8 % c.stripes) + c.stripes) % c.stripes", columns[0]);
    }
    let hash = columns
        .iter()
        .zip(&spreads)
        .filter(|(_, spread)| !spread[0].is_empty())
        .fold("0".to_owned(), |seed, (column, spread)| format!("{}({column}, {seed})", spread[0]));
    format!("({hash} & 9223372036854775807) % c.stripes")
}

/// Every row is as it was before the run.
fn equals_the_beginning(db: &Db, keys: &Keys) {
    let differing = "select count(*) from (
        (table t except all table before) union all (table before except all table t)) differing";
    assert_eq!(db.sql.number(differing), 0, "{}", keys.name);
}

fn equals_the_one_big_update(db: &Db, keys: &Keys) {
    let differing = "select count(*) from (
        (table t except all table expected) union all (table expected except all table t)) differing";
    assert_eq!(db.sql.number(differing), 0, "{}", keys.name);
}

#[test]
fn every_key_type_is_covered_exactly_once() {
    every_key_type(Which::Found, ORDERS[0]);
}

#[test]
fn keys_without_a_hash_are_gone_through_in_slices() {
    for keys in ALL.iter().filter(|keys| WITHOUT_HASH.contains(&keys.name)) {
        let db = Db::found();
        prepare(&db, keys, ORDERS[1]);
        db.backfill(&["run", "law"]).exits(3).says("no hash function").says("remove `order`");
    }
}

#[test]
fn every_key_type_is_covered_exactly_once_in_stripes() {
    every_key_type(Which::Found, ORDERS[1]);
}

#[test]
fn every_partition_is_covered_exactly_once() {
    every_key_type(Which::Found, AS_IT_LIKES);
}

#[test]
fn every_key_type_is_covered_exactly_once_in_stripes_on_13() {
    every_key_type(Which::Oldest, ORDERS[1]);
}

#[test]
fn every_key_type_is_covered_exactly_once_in_stripes_on_18() {
    every_key_type(Which::Newest, ORDERS[1]);
}

fn every_key_type(which: Which, order: &str) {
    for keys in keys_for(order) {
        let db = Db::new(which);
        prepare(&db, keys, order);
        let ran = db.backfill(&["run", "law"]);
        assert_eq!(ran.code, 0, "{}: {}", keys.name, ran.stderr);
        each_key_in_one_chunk(&db, keys, order);
        equals_the_one_big_update(&db, keys);
        assert!(db.chunks_done() >= 31, "{}: chunks of at most 97 rows", keys.name);
        db.backfill(&["verify", "law"]).exits(0);
        let ran = db.backfill(&["reverse", "law"]);
        assert_eq!(ran.code, 0, "{}: {}", keys.name, ran.stderr);
        equals_the_beginning(&db, keys);
    }
}

#[test]
fn interrupted_and_resumed_is_the_same_as_uninterrupted() {
    interrupted_and_resumed(ORDERS[0]);
}

#[test]
fn interrupted_and_resumed_is_the_same_in_stripes() {
    interrupted_and_resumed(ORDERS[1]);
}

#[test]
fn interrupted_and_resumed_is_the_same_leaf_by_leaf() {
    interrupted_and_resumed(AS_IT_LIKES);
}

fn interrupted_and_resumed(order: &str) {
    for keys in keys_for(order) {
        let db = Db::found();
        prepare(&db, keys, order);
        for kill_after in KILLS {
            let started: Started = db.start(&[
                if kill_after == 1 { "run" } else { "resume" },
                "law",
                "--rate",
                "3000 rows/s",
            ]);
            wait_for("chunks are done", || db.chunks_done() >= kill_after);
            started.kill();
            db.is_interrupted("law");
        }
        db.backfill(&["resume", "law"]).exits(0);
        each_key_in_one_chunk(&db, keys, order);
        equals_the_one_big_update(&db, keys);

        for kill_after in KILLS {
            let verb = if kill_after == 1 { "reverse" } else { "resume" };
            let started: Started = db.start(&[verb, "law", "--rate", "3000 rows/s"]);
            wait_for("chunks are given back", || {
                let direction =
                    "select direction = 'reverse' from backfill.run order by run_id desc limit 1";
                db.sql.text(direction) == "t" && db.chunks_done() >= kill_after
            });
            started.kill();
        }
        db.backfill(&["resume", "law"]).exits(0);
        equals_the_beginning(&db, keys);
    }
}

/// After how many chunks a runner is killed: ten times on the way there and ten on the way back.
const KILLS: [i64; 10] = [1, 3, 5, 7, 9, 11, 13, 15, 17, 20];

#[test]
fn an_application_that_writes_meanwhile_loses_nothing() {
    an_application_that_writes(ORDERS[0]);
}

#[test]
fn an_application_that_writes_meanwhile_loses_nothing_in_stripes() {
    an_application_that_writes(ORDERS[1]);
}

#[test]
fn an_application_that_writes_meanwhile_loses_nothing_leaf_by_leaf() {
    an_application_that_writes(AS_IT_LIKES);
}

fn an_application_that_writes(order: &str) {
    for keys in keys_for(order) {
        let db = Db::new(Which::Found);
        prepare(&db, keys, order);
        db.sql.run(&format!("create table written as select {}, 0 as turn from t limit 0; alter table t add column app int", keys.key));
        let mut run = db.start(&["run", "law", "--rate", "2500 rows/s"]);
        wait_for("the run has begun", || db.chunks_done() >= 1);
        let writer = db.connect();
        let key = keys.key;
        let mut turn = 0;
        while !run.is_over() {
            turn += 1;
            // Rows of the whole key space, so also in chunks that are at work.
            let written = writer.try_run(&format!(
                "with hit as (update t set app = {turn}
                               where ({key}) in (select {key} from t order by hashtext(({key})::text || '{turn}') limit 20)
                           returning {key})
                 insert into written select {key}, {turn} from hit"
            ));
            // Rows in another order than the chunk's may end in a deadlock; whoever loses has written nothing.
            if let Err(error) = written {
                assert_eq!(error.code().map(|code| code.code()), Some("40P01"), "{error:?}");
            }
        }
        run.wait().exits(0);
        assert!(turn > 3, "{}: the writer had {turn} turns", keys.name);
        let lost = format!(
            "select count(*) from (select {key}, max(turn) as turn from written group by {key}) last
               join t using ({key}) where t.app is distinct from last.turn"
        );
        assert_eq!(db.sql.number(&lost), 0, "{}", keys.name);
        db.sql.run("alter table t drop column app");
        equals_the_one_big_update(&db, keys);
    }
}

#[test]
fn rows_inserted_and_deleted_meanwhile() {
    ORDERS.into_iter().for_each(rows_that_come_and_go);
}

fn rows_that_come_and_go(order: &str) {
    let db = Db::new(Which::Found);
    prepare(&db, &PLAIN, order);
    let mut run = db.start(&["run", "law", "--rate", "1500 rows/s"]);
    wait_for("the run has begun", || db.chunks_done() >= 1);
    let ceiling = db.sql.number("select ceiling[1] from backfill.run");
    let writer = db.connect();
    let mut turn = 0;
    while !run.is_over() {
        turn += 1;
        // Ahead of the run: rows between the keys, which are written, and rows behind the ceiling, which are the application's.
        writer.run(&format!(
            "insert into t (id) values ({ceiling} - {turn} * 30 + 1) on conflict do nothing;
             insert into t (id) values ({ceiling} + {turn});
             delete from t where id = (select id from t where id <= {ceiling} order by hashtext(id::text || '{turn}') limit 1)"
        ));
    }
    run.wait().exits(0);
    assert!(turn > 3);
    assert_eq!(
        db.sql.number(&format!("select count(*) from t where id > {ceiling} and n <> 0")),
        0
    );
    // Twice is never; not at all only for a row that came into a chunk that was done.
    assert_eq!(db.sql.number("select count(*) from t where n > 1"), 0);
    assert_eq!(db.sql.number("select count(*) from t join expected using (id) where t.n <> 1"), 0);
    let late =
        db.sql.number(&format!("select count(*) from t where id <= {ceiling} and v is null"));
    let verified = db.backfill(&["verify", "law", "--json"]);
    assert_eq!(verified.json()["proved"], true, "the chunk map is whole; {late} rows came late");
    db.backfill(&["run", "law", "--again"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where v is null"), 0);
}

#[test]
fn a_run_over_an_empty_table_is_verified_by_its_chunk_map() {
    let db = Db::found();
    db.sql.run("create table t (id bigint primary key, n int)");
    db.spec("law", "table = \"t\"\n[[rule]]\nset = { n = \"n + 1\" }\n");
    db.backfill(&["run", "law"]).exits(0);
    db.backfill(&["verify", "law"]).exits(0);
}

#[test]
fn a_chunk_map_with_a_gap_or_an_overlap_is_no_proof() {
    let db = Db::found();
    db.sql.run("create table t (id bigint primary key, n int not null default 0)");
    db.sql.run("insert into t select i from generate_series(1, 2000) i");
    db.sql.run("analyze t");
    db.spec("law", "table = \"t\"\norder = \"striped\"\nstripes = 3\n[[rule]]\nset = { n = \"n + 1\" }\n[limits]\nchunk_rows_max = 40\n");
    db.backfill(&["run", "law"]).exits(0);
    db.backfill(&["verify", "law"]).exits(0);
    let chunk = "from backfill.chunk where after_key is not null and stripe = 1 order by seq limit 1 offset 2";
    for (harm, mend) in [
        // A stripe of a slice is gone.
        (
            "delete from backfill.chunk where seq = (select seq {chunk})",
            "insert into backfill.chunk select * from kept where seq = (select seq from kept where after_key is not null and stripe = 1 order by seq limit 1 offset 2)",
        ),
        // A slice is there as a whole beside its stripes.
        (
            "insert into backfill.chunk (run_id, seq, after_key, upto_key, state, keys, settled_at) select run_id, 9999, after_key, upto_key, 'done', 1, now() {chunk}",
            "delete from backfill.chunk where seq = 9999",
        ),
        // The last one is missing, so the ceiling is not reached by all stripes.
        (
            "delete from backfill.chunk where seq = (select max(seq) from backfill.chunk)",
            "insert into backfill.chunk select * from kept where seq = (select max(seq) from kept)",
        ),
    ] {
        db.sql.run("drop table if exists kept; create table kept as table backfill.chunk");
        db.sql.run(&harm.replace("{chunk}", chunk));
        assert_eq!(db.backfill(&["verify", "law"]).code, 6, "{harm}");
        db.sql.run(mend);
        db.backfill(&["verify", "law"]).exits(0);
    }
}

/// A chunk reads its own part of the index, not the rest of the leading value: comparing whole keys, it would.
#[test]
fn a_chunk_of_a_long_leading_value_reads_no_further_than_its_end() {
    let db = Db::found();
    let setup = db.connect();
    setup.run(
        "create table t (tenant int, id bigint, n int not null default 0, primary key (tenant, id)) with (fillfactor = 40, autovacuum_enabled = off);
         insert into t select i / 50000, i from generate_series(0, 149999) i",
    );
    setup.run("vacuum analyze t");
    // A session that ends tells what it has counted.
    drop(setup);
    db.sql.wait_for(
        "the server's counters",
        "select n_tup_ins = 150000 from pg_stat_user_tables where relname = 't'",
    );
    let read = "select coalesce(sum(idx_blks_hit + idx_blks_read), 0) from pg_statio_user_indexes where relname = 't'";
    let before = db.sql.number(read);
    db.spec("law", "table = \"t\"\n[[rule]]\nset = { n = \"n + 1\" }\n[verify]\nremaining = \"n = 0\"\n[limits]\nchunk_rows_max = 500\n");
    db.backfill(&["run", "law"]).exits(0);
    assert_eq!(db.sql.number("select count(*) from t where n = 1"), 150_000);
    assert!(db.chunks_done() >= 300);
    db.backfill(&["verify", "law"]).exits(0);
    db.sql.wait_for(
        "the server's counters",
        "select n_tup_upd = 150000 from pg_stat_user_tables where relname = 't'",
    );
    // Two or three pages of the leaves and the way there, for two passes and a cut: 15 a chunk. To the end of a tenant it would be 200.
    let a_chunk = (db.sql.number(read) - before) / db.chunks_done();
    assert!((5..60).contains(&a_chunk), "{a_chunk} pages of the index a chunk");
}

/// The same where a chunk is halved, again and again, around a row that cannot be written.
#[test]
fn halving_a_chunk_of_a_long_leading_value_reads_no_further_than_its_end() {
    let db = Db::found();
    let setup = db.connect();
    setup.run(
        "create table t (tenant int, id bigint, n int not null default 0 check (n = 0 or id <> 77), primary key (tenant, id)) with (autovacuum_enabled = off);
         insert into t select 1, i from generate_series(1, 150000) i",
    );
    setup.run("vacuum analyze t");
    let read =
        "select idx_blks_hit + idx_blks_read > 0 from pg_statio_user_indexes where relname = 't'";
    drop(setup);
    db.sql.wait_for("the server's counters", read);
    let read = read.replace(" > 0", "");
    db.spec("law", "table = \"t\"\n[[rule]]\nwhen = \"id <= 100\"\nset = { n = \"n + 1\" }\n[undo]\nmode = \"none\"\n[limits]\nchunk_rows_max = 10000\n");
    let before = db.sql.number(&read);
    db.backfill(&["run", "law"]).exits(5).says("(1, 77)");
    assert_eq!(db.sql.number("select count(*) from t where n = 1"), 99);
    db.sql.wait_for(
        "the server's counters",
        "select n_tup_upd >= 99 from pg_stat_user_tables where relname = 't'",
    );
    let pages = db.sql.number("select relpages from pg_class where relname = 't_pkey'");
    let passes = (db.sql.number(&read) - before) / pages;
    // Cutting passes once over the index, the chunks twice; each of fourteen halvings would be another pass.
    assert!((1..8).contains(&passes), "{passes} passes over the index");
}
