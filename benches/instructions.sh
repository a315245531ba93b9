#!/bin/sh
# Counts the instructions that one NOP takes in user space, through oxev and on a bare ring: by callgrind, which does not care how busy the
# machine is. Runs twice and takes the difference, so that start-up does not count. The kernel's instructions are not seen.
#
#     cargo bench --no-run --bench nop && benches/instructions.sh
set -eu
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "valgrind is not installed" >&2; exit 1; }
target=${CARGO_TARGET_DIR:-target}
program=$(ls -t "$target"/release/deps/nop-* | grep -v '\.d$' | head -n 1)

# counted WHO IN_FLIGHT OPERATIONS: instructions of the whole program
counted() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" count "$1" "$2" "$3" 2>&1 |
        sed -n 's/.*Collected : *//p'
}

few=51200
many=102400
for in_flight in 1 8 64 512; do
    for who in raw oxev; do
        less=$(counted $who $in_flight $few)
        more=$(counted $who $in_flight $many)
        echo "K=$in_flight $who: $(((more - less) / (many - few))) instructions for each operation"
    done
done
