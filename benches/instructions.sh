#!/bin/sh
# Counts the instructions that one operation takes in user space: a NOP, through oxev and on a bare ring, and all kinds of work on io_uring and
# epoll (`count.rs`; the client's calls are in its figures). By callgrind, which does not care how busy the machine is. Runs each twice and
# takes the difference, so that start-up does not count. The kernel's instructions are not seen.
#
#     cargo bench --no-run --bench nop --bench count && benches/instructions.sh
set -eu
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "valgrind is not installed" >&2; exit 1; }
target=${CARGO_TARGET_DIR:-target}

# program BENCH: the newest that was built
program() {
    ls -t "$target"/release/deps/"$1"-* | grep -v '\.d$' | head -n 1
}

# counted PROGRAM ARGUMENT...: instructions of the whole program
counted() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$@" 2>&1 | sed -n 's/.*Collected : *//p'
}

nop=$(program nop)
count=$(program count)

few=51200
many=102400
for in_flight in 1 8 64 512; do
    for who in raw oxev; do
        less=$(counted "$nop" count $who $in_flight $few)
        more=$(counted "$nop" count $who $in_flight $many)
        echo "K=$in_flight $who: $(((more - less) / (many - few))) instructions for each operation"
    done
done

few=3200
many=9600
for work in echo slots pooled timers cancels resets reads writes posts notifies; do
    for backend in io_uring epoll; do
        less=$(counted "$count" $work $backend $few)
        more=$(counted "$count" $work $backend $many)
        echo "$work on $backend: $(((more - less) / (many - few))) instructions for each operation"
    done
done
