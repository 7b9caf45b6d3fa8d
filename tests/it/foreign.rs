//! Migrations of another tool that wait for a backfill: one line in a file of a real Alembic project.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Db, needs};

/// A Python with Alembic, made once for all runs of the tests; none, aloud, where it cannot be made.
fn python() -> Option<PathBuf> {
    let python = needs("python3")?;
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("alembic");
    let inside = venv.join("bin/python");
    let has_it = |inside: &Path| {
        Command::new(inside)
            .args(["-c", "import alembic, psycopg2"])
            .output()
            .is_ok_and(|out| out.status.success())
    };
    if !has_it(&inside) {
        let made = Command::new(python).args(["-m", "venv"]).arg(&venv).output().unwrap();
        let installed = Command::new(venv.join("bin/pip"))
            .args(["install", "-q", "alembic", "psycopg2-binary"])
            .output();
        let is_installed = installed.is_ok_and(|out| out.status.success());
        if !is_installed {
            assert!(std::env::var_os("BACKFILL_TEST_ALL").is_none(), "install alembic: {made:?}");
            eprintln!("LEFT OUT: alembic is not to be had");
            return None;
        }
    }
    Some(inside)
}

#[test]
fn an_alembic_project_waits_for_a_backfill() {
    let Some(python) = python() else { return };
    let db = Db::found();
    let alembic = |arguments: &[&str]| {
        Command::new(&python)
            .args(["-m", "alembic"])
            .args(arguments)
            .current_dir(&db.directory)
            .output()
            .unwrap()
    };
    let begun = alembic(&["init", "alembic"]);
    assert!(begun.status.success(), "{begun:?}");
    let settings = db.directory.join("alembic.ini");
    let text = std::fs::read_to_string(&settings).unwrap();
    let line = text.lines().find(|line| line.starts_with("sqlalchemy.url")).unwrap().to_owned();
    // SQLAlchemy takes a socket's directory as an option.
    let url = format!(
        "sqlalchemy.url = postgresql+psycopg2://postgres@/{}?host={}",
        db.name,
        db.socket_dir().display()
    );
    std::fs::write(&settings, text.replace(&line, &url)).unwrap();
    let version = |id: &str, down: &str, up: &str| {
        let text = format!(
            "from alembic import op\nrevision = '{id}'\ndown_revision = {down}\nbranch_labels = None\ndepends_on = None\n\ndef upgrade():\n{up}\n\ndef downgrade():\n    pass\n"
        );
        std::fs::write(db.directory.join(format!("alembic/versions/{id}.py")), text).unwrap();
    };
    version(
        "aaaa",
        "None",
        "    op.execute('create table t (id int primary key, b int)')\n    op.execute('insert into t select generate_series(1, 500)')",
    );
    version(
        "bbbb",
        "'aaaa'",
        "    op.execute(\"select backfill.require('fill', 'verified', 't')\")\n    op.execute('alter table t alter b set not null')",
    );
    let first = alembic(&["upgrade", "aaaa"]);
    assert!(first.status.success(), "{first:?}");
    db.spec("fill", "table = \"t\"\n[[rule]]\nfill = { b = \"1\" }\n");
    // Its tables and its function come with the first command that needs them; a DBA can run `doctor --ddl`.
    db.sql.run(&db.backfill(&["doctor", "--ddl"]).exits(0).stdout);
    let refused = alembic(&["upgrade", "head"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success()
            && said.contains("backfill fill has never been run here")
            && said.contains("backfill run fill"),
        "{said}"
    );
    assert_eq!(db.sql.text("select version_num from alembic_version"), "aaaa");
    db.backfill(&["run", "fill"]).exits(0);
    let passed = alembic(&["upgrade", "head"]);
    assert!(passed.status.success(), "{passed:?}");
    assert_eq!(db.sql.text("select version_num from alembic_version"), "bbbb");
}
