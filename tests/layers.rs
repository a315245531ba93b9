//! Imports point one way: a module imports what stands before it in the list of `ARCHITECTURE.md`.

use std::fs;
use std::path::{Path, PathBuf};

/// Whether an arrow may run back; `ARCHITECTURE.md` gives the reasons.
fn runs_back_for_a_reason(from: &str, to: &str) -> bool {
    let is_callback = matches!(from, "completion" | "notifier") && to == "event_loop";
    is_callback || from == "backends" && to.starts_with("backends/")
}

/// The modules of the list, each with the number of its line.
struct Layers(Vec<(String, usize)>);

impl Layers {
    fn read() -> Layers {
        let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
        let (_, list) = text.split_once("```layers\n").expect("the document has a list of layers");
        let (list, _) = list.split_once("\n```").unwrap();
        let mut modules = Vec::new();
        for (line, text) in list.lines().enumerate() {
            // What the line is about stands apart.
            let (names, _) = text.split_once("   ").unwrap_or((text, ""));
            modules.extend(names.split_whitespace().map(|name| (name.to_owned(), line)));
        }
        Layers(modules)
    }

    /// The listed module that a path lies in.
    fn of(&self, path: &str) -> Option<(&str, usize)> {
        let holds =
            |name: &str| path == name || path.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
        let holding = self.0.iter().filter(|(name, _)| holds(name));
        holding.max_by_key(|(name, _)| name.len()).map(|(name, line)| (name.as_str(), *line))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The path of the module that a file is: `src/net/socket.rs` is `net/socket`.
fn module_of(file: &Path) -> String {
    let file = file.strip_prefix(root()).unwrap().with_extension("");
    let file = file.strip_prefix("src").unwrap_or(&file).to_str().unwrap().to_owned();
    let file = file.strip_suffix("/mod").unwrap_or(&file);
    file.strip_suffix("_none").unwrap_or(file).to_owned()
}

/// The code of a file: without comments, and without unit tests, which end it.
fn code(text: &str) -> String {
    let lines = text.lines().take_while(|line| *line != "mod tests {");
    lines.map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// What follows each `crate::` and `super::`, as paths; those in braces one by one.
fn imports(module: &str, code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if !code[..at].ends_with('$') {
            follow(&code[at + "crate::".len()..], String::new(), &mut found);
        }
    }
    for (at, _) in code.match_indices("super::") {
        if code[..at].ends_with("super::") {
            continue;
        }
        let (place, mut rest) = (place_of(module, &code[..at]), &code[at..]);
        let mut place = place.as_str();
        while let Some(behind) = rest.strip_prefix("super::") {
            place = place.rsplit_once('/').map_or("", |(parent, _)| parent);
            rest = behind;
        }
        let before = if place.is_empty() { String::new() } else { format!("{place}/") };
        follow(rest, before, &mut found);
    }
    found
}

/// The path of the module that the code behind `before` is in, which may be one in braces.
fn place_of(module: &str, before: &str) -> String {
    let mut names = vec![module];
    let mut indents = Vec::new();
    for line in before.lines() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        if let Some(name) = code.strip_suffix(" {").filter(|code| code.contains("mod ")) {
            names.push(name.rsplit(' ').next().unwrap());
            indents.push(indent);
        } else if code == "}" && indents.last() == Some(&indent) {
            names.pop();
            indents.pop();
        }
    }
    names.join("/")
}

/// Adds the paths that begin here, behind `before`.
fn follow(text: &str, before: String, found: &mut Vec<String>) {
    let text = text.trim_start();
    if let Some(group) = text.strip_prefix('{') {
        let mut depth = 1;
        let end = group.find(|letter| {
            depth += i32::from(letter == '{') - i32::from(letter == '}');
            depth == 0
        });
        let mut start = 0;
        let group = &group[..end.unwrap()];
        for (at, letter) in group.char_indices().chain([(group.len(), ',')]) {
            depth += i32::from(letter == '{') - i32::from(letter == '}');
            if letter == ',' && depth == 0 {
                follow(&group[start..at], before.clone(), found);
                start = at + 1;
            }
        }
        return;
    }
    let name: String = text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
    let rest = &text[name.len()..];
    match rest.strip_prefix("::") {
        Some(rest) if name.starts_with(char::is_lowercase) => follow(rest, before + &name + "/", found),
        _ => found.push(before + &name),
    }
}

/// The arrows from one listed module to another that run back up, each with where it was seen.
fn back_arrows(layers: &Layers) -> Vec<String> {
    let (mut files, mut back) = (Vec::new(), Vec::new());
    sources(&root().join("src"), &mut files);
    sources(&root().join("backends"), &mut files);
    assert!(files.len() > 100);
    for file in files {
        let module = module_of(&file);
        // The root, models and tests see everything.
        let is_of_tests = module.starts_with("model") || module.ends_with("_tests");
        if module == "lib" || module == "prelude" || is_of_tests {
            continue;
        }
        let (from, from_line) = layers
            .of(&module)
            .unwrap_or_else(|| panic!("`{module}` is in no layer: add it to ARCHITECTURE.md"));
        for import in imports(&module, &code(&fs::read_to_string(&file).unwrap())) {
            let is_of_root = import.starts_with(char::is_uppercase);
            let to = layers.of(&import);
            let goes_down = to.is_some_and(|(to, line)| to == from || line < from_line);
            let is_named = to.is_some_and(|(to, _)| runs_back_for_a_reason(from, to));
            let is_of_models = import == "model" || import.starts_with("model/");
            if is_of_root || !goes_down && !is_named && !is_of_models {
                back.push(format!("{module} imports {import}"));
            }
        }
    }
    back
}

#[test]
fn imports_point_one_way() {
    let back = back_arrows(&Layers::read());
    assert!(back.is_empty(), "against the order of ARCHITECTURE.md:\n{}", back.join("\n"));
}

#[test]
fn every_folder_of_a_backend_is_in_a_layer_of_its_own() {
    let layers = Layers::read();
    for entry in fs::read_dir(root().join("backends")).unwrap() {
        let path = entry.unwrap().path();
        let module = module_of(&path);
        let is_listed = layers.0.iter().any(|(name, _)| *name == module);
        assert!(is_listed || !path.is_dir(), "`{module}` is in no layer: add it to ARCHITECTURE.md");
    }
}

#[test]
fn an_arrow_that_runs_back_is_seen() {
    let mut layers = Layers::read();
    // The table below what it is made of.
    layers.0.iter_mut().filter(|(name, _)| name == "in_flight").for_each(|(_, line)| *line = 0);
    let back = back_arrows(&layers);
    assert!(back.iter().any(|arrow| arrow.starts_with("in_flight/deadlines imports timer/")), "{back:#?}");
}

#[test]
fn groups_and_paths_are_read() {
    let code = "use crate::{fork, sys::{self, errno}};\nlet x = crate::op::RawOp::new(); $crate::pool!()";
    assert_eq!(imports("fs", code), ["fork", "sys/self", "sys/errno", "op/RawOp"]);
    assert_eq!(
        imports("backends/epoll/mod", "use super::super::{Wait, list};"),
        ["backends/Wait", "backends/list"]
    );
    assert_eq!(
        imports("net/socket", "use super::TcpStream; super::super::fork::home()"),
        ["net/TcpStream", "fork/home"]
    );
}
