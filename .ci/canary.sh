#!/usr/bin/env bash
# Whether the fuzzer can fail: each of the defects that are planted in src/canary.rs has to be found within a number of programs. Needs the
# Rust toolchain and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."

CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/canary"
export CARGO_TARGET_DIR
export RUSTFLAGS="--cfg oxev_canary"
export CARGO_PROFILE_DEV_DEBUG=0
programs=4000

cargo build --quiet --features sim --example fuzz
fuzz="$CARGO_TARGET_DIR/debug/examples/fuzz"

# A build without a defect finds none.
"$fuzz" --backend sim --seed 1 --programs 500 >/dev/null
for defect in lost_completion lost_cancel early_timer repeated_item leaked_result ignored_stop swapped_bytes; do
    if found=$(OXEV_CANARY=$defect "$fuzz" --backend sim --seed 1 --programs "$programs" --shrink 0); then
        echo "$defect: not found in $programs programs"
        exit 1
    fi
    echo "$defect: $(grep -m1 '^violation' <<<"$found" | cut -c1-150)"
done
