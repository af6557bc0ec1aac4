#!/usr/bin/env bash
# Counts the instructions of one append and of one step of an iterator, 128-byte payloads, with callgrind: numbers that do not depend
# on how busy the machine is. docs/speed.md keeps them.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/lib.sh

command -v valgrind >/dev/null || skip "no valgrind"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# count WORK COUNT: the instructions of the whole process.
count() {
    local runner="valgrind --tool=callgrind --callgrind-out-file=$scratch/$1.$2"
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$runner \
        cargo bench --quiet --bench instructions -- "$1" "$2" >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; exit 1; }
    sed -n 's/.*Collected : \([0-9]*\).*/\1/p' "$scratch/log"
}

works=${*:-append append_batch iterate_own iterate_checked get_own get_checked}
for work in $works; do
    few=$(count "$work" 5000)
    many=$(count "$work" 15000)
    printf '%-16s %s\n' "$work" "$(((many - few) / 10000))"
done
