#!/usr/bin/env bash
# What threads do together, under ThreadSanitizer: the loop's queue and notifiers, the pool, offloaded work,
# many loops. Needs Rust for x86_64 Linux with the source of its standard library (`rustup component add
# rust-src`), which is built anew: without that, what the library puts in order is not seen. `.ci/tsan.sh
# offload` runs only the test binaries of that name. A compiler that comes without the sanitizer's runtime
# takes that of another one: TSAN_RUNTIME=…/librustc-stable_rt.tsan.a
set -euo pipefail
cd "$(dirname "$0")/.."

target=x86_64-unknown-linux-gnu
sysroot=$("${RUSTC:-rustc}" --print sysroot)
if [[ ! -e $sysroot/lib/rustlib/src/rust/library/Cargo.lock ]]; then
    echo "no source of the standard library in $sysroot: rustup component add rust-src" >&2
    exit 2
fi
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/tsan"
# The sanitizers are not stable; this lets a stable compiler use them.
export RUSTC_BOOTSTRAP=1
RUSTFLAGS="-Zsanitizer=thread"
if [[ -n ${TSAN_RUNTIME:-} ]]; then
    RUSTFLAGS+=" -Zexternal-clangrt -Zpre-link-args=-Wl,--whole-archive,$TSAN_RUNTIME,--no-whole-archive"
    RUSTFLAGS+=" -Clink-args=-Wl,--export-dynamic -Clink-args=-lm -Clink-args=-lpthread -Clink-args=-lrt -Clink-args=-ldl"
    RUSTFLAGS+=" -Clink-args=-lresolv -Clink-args=-lc"
fi
export RUSTFLAGS
export RUST_BACKTRACE=0

names=("$@")
((${#names[@]})) || names=(offload resolve soundness thread_pool conformance)
selected=()
for name in "${names[@]}"; do selected+=(--test "$name"); done
cargo test -Zbuild-std --target "$target" --no-fail-fast "${selected[@]}"
