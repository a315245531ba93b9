#!/usr/bin/env bash
# The test suite under AddressSanitizer and LeakSanitizer: no use after free, no overflow, no leak, in our code and in what the kernel does
# to our memory as far as the sanitizer sees it. Needs the Rust toolchain for x86_64 Linux and nothing else: the standard library
# is taken as it is, not instrumented. `.ci/sanitizers.sh conformance` runs only the test binaries of that name.
set -euo pipefail
cd "$(dirname "$0")/.."

target=x86_64-unknown-linux-gnu
CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/asan"
export CARGO_TARGET_DIR
# The sanitizers are not stable; this lets a stable compiler use them.
export RUSTC_BOOTSTRAP=1
# An explicit target keeps build scripts and procedural macros, which run in the compiler, out of it.
export RUSTFLAGS="-Zsanitizer=address -Cforce-frame-pointers=yes"
export CARGO_PROFILE_DEV_DEBUG=line-tables-only
export RUST_BACKTRACE=0
# Random programs run several times slower here.
export PROPTEST_CASES=${PROPTEST_CASES:-400}
# An allocation that cannot be is an error of the library's, not the end of the test.
export ASAN_OPTIONS="detect_stack_use_after_return=1 strict_string_checks=1 allocator_may_return_null=1"

# Left out: `allocation` counts what it does not share with a sanitizer, `compile_fail` runs nothing.
left_out='^(allocation|thread_pool_alloc|compile_fail)$'
# Tests that leak because that is what they are about (forgotten loops and owners, statics, worlds that are dropped on
# another thread, loops that leak what they cannot have back), and one whose children may not make the process that
# looks for leaks.
leaking=(forgetting_ static several_results the_kernel_writes_nothing default_completion a_loop_is_built_on_the_thread
    is_leaked_and_the where_standard_error_cannot_be_written where_no_thread_can_be_made)

selected=(--lib)
for path in tests/*.rs tests/*/main.rs; do
    name=${path#tests/}
    name=${name%/main.rs}
    name=${name%.rs}
    [[ $name =~ $left_out ]] || selected+=(--test "$name")
done
if (($#)); then
    selected=()
    for name; do selected+=(--test "$name"); done
fi

echo "== leaks are errors"
skip=()
for name in "${leaking[@]}"; do skip+=(--skip "$name"); done
cargo test --no-fail-fast --features sim --target "$target" "${selected[@]}" -- "${skip[@]}"
echo "== leaks are meant"
ASAN_OPTIONS+=" detect_leaks=0" cargo test --no-fail-fast --features sim --target "$target" "${selected[@]}" -- "${leaking[@]}"
