#!/usr/bin/env python3
"""Whether the tests can fail: each entry of .ci/defects.toml is a defect in a scratch copy of the tree, and the tests that it names have to
notice it. All of them are compiled in at once, and an environment variable says whose turn it is; the product's own code has no hook for it.

  .ci/defects.py [NAME...]    for instance `.ci/defects.py wheel_early`; all of them if none is named
"""
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

LIMIT_S = 60  # A defect may hang.
BINARIES = ["conformance", "thread_pool", "sim", "fuzz"]
SWITCH = '''
/// Whether a defect's turn has come.
#[allow(missing_docs)]
pub(crate) fn planted(name: &str) -> bool {
    static NAME: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    NAME.get_or_init(|| std::env::var("OXEV_PLANTED").unwrap_or_default()) == name
}
'''

root = Path(__file__).resolve().parent.parent
target = Path(os.environ.get("CARGO_TARGET_DIR", root / "target")).resolve()
tree = target / "defects/tree"


def main(names):
    defects = tomllib.loads((root / ".ci/defects.toml").read_text())
    copy_tree()
    failed = [name for name, defect in defects.items() if not plant(name, defect)]
    binaries = build()
    for name in names or defects:
        if name not in failed and not is_noticed(name, defects[name], binaries):
            failed.append(name)
    sys.exit(f"not noticed, or not planted: {', '.join(failed)}" if failed else 0)


def copy_tree():
    """Copies what git knows of, changed or not. What has not changed keeps its time, so that it is not built again."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root,
                            capture_output=True, check=True).stdout.decode().split("\0")
    paths = [path for path in listed if path and (root / path).exists()]
    subprocess.run(["rm", "-rf", tree], check=True)
    tree.mkdir(parents=True)
    subprocess.run(["xargs", "-0", "cp", "--parents", "--preserve=timestamps", "-t", tree], cwd=root,
                   input="\0".join(paths).encode(), check=True)
    with open(tree / "src/lib.rs", "a") as lib:
        lib.write(SWITCH)


def plant(name, defect):
    path = tree / defect["file"]
    text = path.read_text()
    if text.count(defect["find"]) != 1:
        print(f"{name}: its text is there {text.count(defect['find'])} times: write it anew")
        return False
    path.write_text(text.replace(defect["find"], defect["plant"].replace("PLANTED", f'crate::planted("{name}")')))
    return True


def build():
    """The test binaries, by name."""
    command = ["cargo", "test", "--no-run", "--features", "sim", "--lib", "--message-format", "json"]
    for binary in BINARIES:
        command += ["--test", binary]
    # What the crate depends on has been built there.
    environment = dict(os.environ, CARGO_TARGET_DIR=str(target))
    built = subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True)
    if built.returncode != 0:
        sys.exit(f"the defects do not compile:\n{built.stderr[-4000:]}")
    found = {}
    for message in map(json.loads, built.stdout.splitlines()):
        if message.get("executable") and message["reason"] == "compiler-artifact":
            kind = message["target"]["kind"][0]
            found["lib" if kind == "lib" else message["target"]["name"]] = message["executable"]
    return found


def is_noticed(name, defect, binaries):
    binary, tests = defect["test"]
    environment = dict(os.environ, OXEV_PLANTED=name, RUST_BACKTRACE="0", CARGO_MANIFEST_DIR=str(tree))
    command = [binaries[binary]] + ([tests] if tests else [])
    try:
        ran = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, errors="replace", timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        print(f"{name}: hangs", flush=True)
        return True
    if ran.returncode == 0:
        print(f"{name}: not noticed by {binary} {tests}", flush=True)
        return False
    verdict = re.search(r"^(violation: .*|test .* FAILED)$", ran.stdout + ran.stderr, re.M)
    print(f"{name}: {verdict.group(1)[:110] if verdict else 'fails'}", flush=True)
    return True


main(sys.argv[1:])
