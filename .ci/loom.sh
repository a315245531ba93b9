#!/usr/bin/env bash
# The models of everything that threads share without a lock: loom tries every order in which their threads
# can run, within a bound on preemptions. Needs the Rust toolchain and nothing else; takes two to four minutes
# on two cores, half of them to build. `.ci/loom.sh notification` runs only the models with that in their
# names.
set -euo pipefail
cd "$(dirname "$0")/.."

CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/loom"
export CARGO_TARGET_DIR
export RUSTFLAGS="--cfg loom"
export CARGO_PROFILE_DEV_DEBUG=line-tables-only
# Only what runs in the models is worth optimizing. Assertions stay.
fast=()
for package in oxev loom generator tracing scoped-tls; do
    fast+=(--config "profile.dev.package.$package.opt-level=3")
done
cargo "${fast[@]}" test --lib -- "${@:-loom_tests}"
