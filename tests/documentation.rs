//! What a reader sees of an example of the documentation works as it stands: nothing that it needs is hidden.

use std::fs;
use std::path::{Path, PathBuf};

/// What may be hidden: the function around the example, and its end.
const MAY_BE_HIDDEN: [&str; 4] = ["# fn main() ->", "# Ok::<", "# Ok(())", "# }"];

fn sources(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, all),
            false if path.extension().is_some_and(|extension| extension == "rs") => all.push(path),
            false => {}
        }
    }
}

#[test]
fn no_example_hides_a_line_that_it_needs() {
    let mut all = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut all);
    let mut examples = 0;
    for path in all {
        let source = fs::read_to_string(&path).unwrap();
        let mut example: Option<bool> = None;
        for (index, line) in source.lines().enumerate() {
            let line = line.trim_start();
            let Some(line) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) else {
                example = None;
                continue;
            };
            let line = line.trim();
            match (example, line.strip_prefix("```")) {
                (None, Some(attributes)) => {
                    examples += 1;
                    // What is refused need not be whole.
                    let works = !attributes.contains("compile_fail") && !attributes.contains("text");
                    example = Some(works);
                }
                (Some(_), Some(_)) => example = None,
                (Some(true), None) if line.starts_with("# ") => {
                    let may_be_hidden = MAY_BE_HIDDEN.iter().any(|start| line.starts_with(start));
                    assert!(may_be_hidden, "{}:{}: {line}", path.display(), index + 1);
                }
                _ => {}
            }
        }
    }
    assert!(examples > 30, "only {examples} examples were found");
}
