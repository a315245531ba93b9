//! The documents say what the code does.

/// The names of the variants of `OpKind`, read from its source: an enum cannot be asked.
fn operations() -> Vec<&'static str> {
    let source = include_str!("../src/op.rs");
    let (_, body) = source.split_once("pub enum OpKind {").expect("the enum is there");
    let (body, _) = body.split_once('}').expect("the enum ends");
    let variants = body.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    variants.filter_map(|line| line.strip_suffix(',')).collect()
}

/// The rows of the table of operations and backends: what they are about, and what each backend does.
fn rows() -> Vec<Vec<&'static str>> {
    let readme = include_str!("../backends/README.md");
    let (_, table) = readme.split_once("## Operation × backend").expect("the table is there");
    let rows = table.lines().filter(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

#[test]
fn the_readme_says_what_each_backend_makes_of_each_operation() {
    let (operations, rows) = (operations(), rows());
    assert!(operations.len() > 20 && operations.contains(&"Recv"), "{operations:?}");
    for operation in operations {
        let about = |row: &&Vec<&str>| row[0].split(", ").any(|name| name == format!("`{operation}`"));
        assert_eq!(rows.iter().filter(about).count(), 1, "rows about {operation}");
    }
}

#[test]
fn every_backend_has_a_column() {
    let rows = rows();
    for kind in oxev::Kind::COMPILED {
        assert!(rows[0].contains(&kind.to_string().as_str()), "{kind}");
    }
    for row in rows.iter().skip(2) {
        assert_eq!(row.len(), rows[0].len(), "{row:?}");
        assert!(row.iter().all(|cell| !cell.is_empty()), "{row:?}");
    }
}
