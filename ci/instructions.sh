#!/usr/bin/env bash
# Counts the instructions of one append and of one step of an iterator, 128-byte payloads, with callgrind: numbers that do not depend
# on how busy the machine is. docs/speed.md keeps them. The work `counters` is what an append spends on the lines of
# src/write/counters.rs, wherever the compiler has put them.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/lib.sh

command -v valgrind >/dev/null || skip "no valgrind"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# count WORK COUNT [FILE]: the instructions of the whole process, or those of one source file.
count() {
    local runner="valgrind --tool=callgrind --callgrind-out-file=$scratch/out"
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$runner \
        cargo bench --quiet --bench instructions -- "$1" "$2" >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; exit 1; }
    if [ -z "${3:-}" ]; then
        sed -n 's/.*Collected : \([0-9]*\).*/\1/p' "$scratch/log"
    else
        of_file "$3" "$scratch/out"
    fi
}

# of_file FILE OUT: the instructions of the lines of FILE, in what callgrind has written. A file is named in full once, then by its
# number; a line that begins with a place gives the cost of it, but for the one after `calls=`, which gives that of the function called.
of_file() {
    awk -v file="$1" '
        match($0, /^(fl|fi|fe)=\([0-9]+\)/) {
            number = substr($0, 4, RLENGTH - 3)
            if (length($0) > RLENGTH) is_meant[number] = substr($0, length($0) - length(file) + 1) == file
            meant = is_meant[number]
        }
        /^calls=/ { is_call = 1; next }
        /^[0-9+*-]/ { if (meant && !is_call) sum += $2; is_call = 0 }
        END { print sum + 0 }
    ' "$2"
}

works=${*:-append append_batch iterate_own iterate_checked get_own get_checked counters}
figures=
for name in $works; do
    work=$name file=
    if [ "$name" = counters ]; then
        work=append file=src/write/counters.rs
    fi
    few=$(count "$work" 5000 "$file")
    many=$(count "$work" 15000 "$file")
    each=$(((many - few) / 10000))
    printf '%-16s %s\n' "$name" "$each"
    figures+="${figures:+, }$name $each"
done
echo "ok instructions of one $figures"
