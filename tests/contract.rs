//! The documents say what the code does: their tables are written by the table of operations. After a change there:
//! `OXEV_BLESS=1 cargo test --test contract`.

use std::path::Path;

use oxev::{Kind, OpKind};

/// Where a written part of a document begins and ends.
const BEGIN: &str = "<!-- written by tests/contract.rs -->\n";
const END: &str = "<!-- end -->\n";

/// Compares the written part of a document with what it should be, or writes it.
fn check(document: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the written part begins");
    let (written, after) = rest.split_once(END).expect("the written part ends");
    if std::env::var_os("OXEV_BLESS").is_some() {
        return std::fs::write(&path, format!("{before}{BEGIN}{expected}{END}{after}")).unwrap();
    }
    assert_eq!(written, expected, "{document} is behind the table of operations: OXEV_BLESS=1 writes it");
}

fn row(cells: &[&str]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

#[test]
fn the_readme_says_what_each_backend_makes_of_each_call() {
    let rows =
        OpKind::ALL.iter().map(|kind| kind.facts()).map(|f| row(&[f.made_by, f.io_uring, f.readiness]));
    check(
        "README.md",
        &(row(&["call", "io_uring", "epoll"]) + "|---|---|---|\n" + &rows.collect::<String>()),
    );
}

#[test]
fn the_contract_says_what_each_backend_makes_of_each_operation() {
    let rows = OpKind::ALL.iter().map(|kind| {
        let facts = kind.facts();
        row(&[&format!("`{kind}`"), facts.io_uring, facts.readiness, facts.sim])
    });
    let head = row(&["operation", "io_uring", "readiness (epoll)", "sim"]) + "|---|---|---|---|\n";
    check("backends/README.md", &(head + &rows.collect::<String>()));
}

#[test]
fn every_backend_is_named_where_its_column_is() {
    let contract =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("backends/README.md")).unwrap();
    let head = contract.lines().find(|line| line.starts_with("| operation |")).expect("the table is there");
    for kind in Kind::COMPILED {
        assert!(head.contains(&kind.to_string()), "{kind}");
    }
}
