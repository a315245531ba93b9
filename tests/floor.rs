//! What is above the floor (`src/sys`) is the same on every platform: no file there names one, but for the backends
//! that are made for one.

use std::path::{Path, PathBuf};

/// Where platforms are named.
const FOR_PLATFORMS: [&str; 5] =
    ["src/sys", "backends/io_uring", "backends/epoll", "backends/kqueue", "backends/wasi"];

/// What only a platform has, or only its C library.
const NAMES: [&str; 21] = [
    "wasip1::",
    "libc::",
    "nix::",
    "io_uring::types",
    "target_os",
    "std::os::unix",
    "std::os::linux",
    "EventFd",
    "eventfd(",
    "statx",
    "accept4",
    "preadv2",
    "SOCK_CLOEXEC",
    "SOCK_NONBLOCK",
    "MSG_NOSIGNAL",
    "SO_PROTOCOL",
    "RWF_NOWAIT",
    "sockaddr_in",
    "iovec",
    "msghdr",
    "mmap",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let is_for_platforms = FOR_PLATFORMS.iter().any(|folder| path == root().join(folder));
        if path.is_dir() && !is_for_platforms {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The lines that are compiled into the crate, with their numbers: no comments, no texts, and no unit
/// tests, which end a file.
fn code(text: &str) -> impl Iterator<Item = (usize, String)> {
    let lines = text.lines().zip(1..).take_while(|(line, _)| *line != "mod tests {");
    let outside_quotes = |line: &str| line.split('"').step_by(2).collect::<String>();
    lines.map(move |(line, number)| {
        (number, outside_quotes(line).split("//").next().unwrap_or_default().to_owned())
    })
}

#[test]
fn no_file_above_the_floor_names_a_platform() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    sources(&root().join("backends"), &mut files);
    assert!(files.len() > 40, "the sources are not where they are looked for: {files:?}");
    let mut named = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        for (number, line) in code(&text) {
            named.extend(
                NAMES
                    .iter()
                    .filter(|name| line.contains(**name))
                    .map(|name| format!("{}:{number}: {name}", file.strip_prefix(root()).unwrap().display())),
            );
        }
    }
    assert!(named.is_empty(), "for src/sys:\n{}", named.join("\n"));
}
