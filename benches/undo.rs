//! What exact reversal costs: a run with before-images beside one without, and the way back beside the way there.
//!
//! `cargo bench --bench undo [-- --rows N --repeat R --pg MAJOR]`. The example's own table with its index, 2 workers, the found server and the
//! newest major, or the one named. The runs of a repeat follow one another on fresh copies of the table, in an order that turns with each
//! repeat; the ratios are made within a repeat, so that the machine's drift falls on both sides.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod common;

use backfill::migrate::file::parse;
use common::{Bench, option, show};

const MIGRATIONS: [&str; 3] = [
    include_str!("../migrations/20260105090000_3f1a_create_skills.sql"),
    include_str!("../migrations/20260105091000_7c42_index_category.sql"),
    include_str!("../migrations/20260112100000_a95e_add_governance.sql"),
];

const FILL: &str = include_str!("../backfills/governance_phases.toml");
const SET: &str = "table = \"public.skills\"\n[[rule]]\nwhen = \"tier = 'free'\"\nset = { quota = \"quota * 2\" }\n";
const NONE: &str = "\n[undo]\nmode = \"none\"\n";

fn main() {
    match option("--pg", 0) {
        0 => [None, Some(18)].into_iter().for_each(on),
        major => on(Some(major as u32)),
    }
}

fn on(major: Option<u32>) {
    let bench = Bench::new(major, &[]);
    for (i, migration) in MIGRATIONS.iter().enumerate() {
        let name = format!("2026010509000{i}_000{i}_step.sql");
        for step in parse(&name, &name, migration).expect("the example's schema steps").up {
            bench.sql(&step.text);
        }
    }
    bench.sql(&format!(
        "insert into public.skills (id, name, description, category)
         select i, 'skill ' || i, repeat(md5(i::text), 4), (array['development', 'data', 'security', 'documentation',
                'operations', 'support', 'design', 'research', 'sales', 'people'])[1 + i % 10]
           from generate_series(1, {}) i;
         create table base as table public.skills",
        bench.rows
    ));
    for (name, text) in [("fill", FILL), ("set", SET)] {
        bench.spec(&format!("{name}_none"), &format!("{text}{NONE}"));
        bench.spec(name, text);
        measure(&bench, name);
    }
}

fn measure(bench: &Bench, name: &str) {
    let without = format!("{name}_none");
    let (mut plain, mut kept, mut back, mut cost, mut pace, mut weight) =
        (vec![], vec![], vec![], vec![], vec![], vec![]);
    for repeat in 0..bench.repeat {
        let (mut seconds, mut captured) = (0.0, 0.0);
        for turn in 0..2 {
            fresh(bench);
            if (turn + repeat) % 2 == 0 {
                seconds = timed(bench, &["run", &without]);
                continue;
            }
            captured = timed(bench, &["run", name]);
            weight.push(bench.number("select (pg_total_relation_size('backfill.before_image_1') / (select sum(rows_done) from backfill.chunk))::float8"));
            // As after any run that is not reversed at once.
            bench.sql("vacuum public.skills");
            bench.sql("checkpoint");
            back.push(bench.rows as f64 / timed(bench, &["reverse", name]));
        }
        plain.push(bench.rows as f64 / seconds);
        kept.push(bench.rows as f64 / captured);
        cost.push((captured / seconds - 1.0) * 100.0);
        pace.push(back[repeat] / kept[repeat]);
    }
    println!("\n{name}, 2 workers");
    show("without before-images", "rows/s", &plain);
    show("with before-images", "rows/s", &kept);
    show("more time with them", "%", &cost);
    show("reverse", "rows/s", &back);
    show("reverse, times the run's pace", "", &pace);
    show("before-images on disk", "B a row", &weight);
    let column = if name == "fill" {
        "null::text[] as old, governance_phases as new"
    } else {
        "10 as old, quota as new"
    };
    bench.sql(&format!("drop table if exists rowwise; create table rowwise as select id, {column} from public.skills"));
    let rowwise = bench.number(
        "select pg_total_relation_size('rowwise')::float8 / (select count(*) from rowwise)",
    );
    show("a table with a row for each", "B a row", &[rowwise]);
}

/// The table as loaded, freshly written, and no runs.
fn fresh(bench: &Bench) {
    bench.sql("truncate public.skills; insert into public.skills table base; drop schema if exists backfill cascade");
    bench.sql("vacuum (analyze) public.skills");
    bench.sql("checkpoint");
}

/// Seconds from the start of the newest run to its last commit.
fn timed(bench: &Bench, arguments: &[&str]) -> f64 {
    let mut arguments = arguments.to_vec();
    arguments.push("--json");
    bench.finish(bench.start(&arguments));
    bench.number(
        "select extract(epoch from max(settled_at) - (select started_at from backfill.run order by run_id desc limit 1))::float8
           from backfill.chunk where run_id = (select max(run_id) from backfill.run)",
    )
}
