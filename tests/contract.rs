//! The documents say what the code does: their tables are written by the table of operations. After a change there:
//! `OXEV_BLESS=1 cargo test --test contract`.

use std::path::{Path, PathBuf};

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
        &(row(&["call", "io_uring", "epoll, kqueue, poll"]) + "|---|---|---|\n" + &rows.collect::<String>()),
    );
}

#[test]
fn the_contract_says_what_each_backend_makes_of_each_operation() {
    let rows = OpKind::ALL.iter().map(|kind| {
        let facts = kind.facts();
        row(&[&format!("`{kind}`"), facts.io_uring, facts.readiness, facts.sim])
    });
    let head = row(&["operation", "io_uring", "readiness (epoll, kqueue, poll, wasi)", "sim"])
        + "|---|---|---|---|\n";
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

/// Selectors aside, which serve no operation by themselves.
#[test]
fn a_family_of_operations_is_in_a_file_of_the_same_name_in_every_backend() {
    for backend in ["io_uring", "readiness", "sim"] {
        for family in ["connect", "file", "poll", "socket"] {
            let file = format!("backends/{backend}/{family}.rs");
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file).is_file(), "{file}");
        }
    }
}

/// The files of a folder and those below it.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    files.filter(|file| file.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// The text up to the parenthesis that closes the first one.
fn in_parentheses(text: &str) -> &str {
    let mut depth = 0;
    let end = text.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ')' && depth == 0
    });
    &text[..end.unwrap_or(text.len())]
}

/// What the lint `wildcard_enum_match_arm` does not see: lists of kinds that go on when there is a new one.
#[test]
fn no_code_lists_kinds_where_the_table_can_tell_or_the_compiler_can_see() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = [sources(&root.join("src")), sources(&root.join("backends"))].concat();
    assert!(files.len() > 40, "the sources are not where they are looked for: {files:?}");
    let mut found = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        let code = text.split("mod tests {").next().unwrap();
        let lists = code
            .match_indices("matches!")
            .filter(|(at, _)| in_parentheses(&code[*at..]).contains("OpKind::"));
        // A kind in another pattern (`Some(OpKind::Nop) =>`), beside which the lint lets a wildcard be.
        let inside = code.match_indices("=>").filter(|(at, _)| {
            let pattern = code[..*at].rsplit(['\n', '{']).next().unwrap_or_default().replace("OpKind::$", "");
            pattern.contains("(OpKind::") || pattern.contains(", OpKind::")
        });
        found.extend(lists.chain(inside).map(|(at, _)| {
            format!("{}:{}", file.strip_prefix(root).unwrap().display(), code[..at].lines().count())
        }));
    }
    assert!(found.is_empty(), "a fact of the table, or a match on the kind alone:\n{}", found.join("\n"));
}

/// The calls that make an operation, as they stand in a program, without the type: `recv(`, `after(`, …. What no call
/// makes is submitted raw.
fn calls_of(kind: OpKind) -> Vec<String> {
    let names = kind.facts().made_by.split('`').skip(1).step_by(2);
    let call = |name: &str| match name {
        "raw::submit" => format!("OpKind::{kind}"),
        _ => format!("{}(", name.rsplit("::").next().unwrap_or(name)),
    };
    names.map(call).collect()
}

/// Whether a call is made somewhere: its name stands there, is not the end of another one, and not that of a function
/// that is written there.
fn makes(text: &str, call: &str) -> bool {
    let begins = |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    text.match_indices(call).any(|(at, _)| begins(at) && !text[..at].ends_with("fn "))
}

fn text_of(files: &[PathBuf]) -> String {
    files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
}

#[test]
fn every_call_that_makes_an_operation_is_in_the_conformance_suite() {
    let suite = text_of(&sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")));
    let calls = OpKind::ALL.iter().flat_map(|kind| calls_of(*kind).into_iter().map(move |call| (kind, call)));
    let missing: Vec<_> = calls.filter(|(_, call)| !makes(&suite, call)).collect();
    assert!(missing.is_empty(), "tests/conformance does without {missing:?}");
}

#[test]
fn every_operation_is_shown_to_allocate_nothing() {
    let test = text_of(&[Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/allocation.rs")]);
    let is_missing = |kind: &&OpKind| !calls_of(**kind).iter().any(|call| makes(&test, call));
    let missing: Vec<_> = OpKind::ALL.iter().filter(is_missing).collect();
    assert!(missing.is_empty(), "tests/allocation.rs does without {missing:?}");
}
