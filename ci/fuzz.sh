#!/usr/bin/env bash
# fuzz.sh [SECONDS [TARGET...]]: fuzzes each target for so long, from the seeds in fuzz/seeds on, two at a time. What it adds to them it
# keeps in the target directory, and a later run goes on from there. RUNS bounds the executions of each, too, and SEED is libFuzzer's.
#
# The build is what cargo-fuzz would do, without a sanitizer of memory: the one `unsafe` folder of the library has Miri for that, and a
# mapping is no heap that AddressSanitizer knows. So it takes neither a nightly toolchain nor an installed tool.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/lib.sh

seconds=${1:-60}
targets=(segment operations mutate manifest)
[ $# -lt 2 ] || targets=("${@:2}")

command -v c++ >/dev/null || skip "no C++ compiler for libFuzzer"
host=$(rustc -vV | sed -n 's/^host: //p')
work="${CARGO_TARGET_DIR:-target}/fuzz"
mkdir -p "$work"
work=$(cd "$work" && pwd)
export CARGO_TARGET_DIR=$work

# With a canary in it, the library may well have warnings.
[ -n "${RUNS:-}" ] || cargo clippy --locked --all-targets --manifest-path fuzz/Cargo.toml -- -D warnings
coverage=(level=4 inline-8bit-counters pc-table trace-compares)
RUSTFLAGS="--cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 -Cpasses=sancov-module"
RUSTFLAGS+="${coverage[*]/#/ -Cllvm-args=-sanitizer-coverage-} -Cllvm-args=-simplifycfg-branch-fold-threshold=0"
export RUSTFLAGS
# With a target named, what runs while building is not instrumented.
cargo build --locked --release "${targets[@]/#/--bin=}" --manifest-path fuzz/Cargo.toml --target "$host"

# fuzz TARGET: from a directory of its own; what libFuzzer says goes to a file.
fuzz() {
    local target=$1 seeds="$PWD/fuzz/seeds/$1" status=0 input
    mkdir -p "$work/corpus/$target" "$work/found"
    # A finding ends with a status of its own, but not with that of a step that was skipped.
    (cd "$work" && "$work/$host/release/$target" "corpus/$target" "$seeds" -seed="${SEED:-1}" -runs="${RUNS:--1}" \
        -max_total_time="$seconds" -timeout=20 -error_exitcode=1 -print_final_stats=1 \
        -artifact_prefix="$work/found/$target-" >"$target.log" 2>&1) || status=$?
    if [ "$status" -ne 0 ]; then
        grep -a -m 1 '^violation: ' "$work/$target.log" ||
            echo "violation: $target: $(grep -a -m 1 -E 'ERROR|ALARM' "$work/$target.log")"
        input=$(sed -n 's/.*Test unit written to //p' "$work/$target.log")
        # Its bytes too: the machine may be gone when somebody looks.
        [ ! -f "$input" ] || echo "the input is in $input: $(base64 -w 0 "$input")"
    fi
    return "$status"
}

# figures TARGET: what a run was worth, by its last line; `ft` are edges with how often they were taken.
figures() {
    local last executions
    last=$(grep -a 'cov: ' "$work/$1.log" | tail -n 1)
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$1.log")
    printf '%-10s %8s executions, %s\n' "$1" "$executions" \
        "$(sed -E 's/.*cov: ([0-9]+) ft: ([0-9]+) corp: ([0-9]+).*/\1 edges, \2 features, \3 inputs/' <<<"$last")"
    total=$((total + executions))
}

total=0 status=0
for ((first = 0; first < ${#targets[@]}; first += 2)); do
    pids=()
    for target in "${targets[@]:first:2}"; do
        fuzz "$target" &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do
        wait "$pid" || status=$?
    done
    [ "$status" -eq 0 ] || exit "$status"
    for target in "${targets[@]:first:2}"; do
        figures "$target"
    done
done
echo "ok $total executions of ${#targets[@]} targets"
