#!/usr/bin/env bash
# Changes src/format, src/recover and src/write in one small way after the other (cargo-mutants), and sees whether a selection of the
# tests (.config/nextest.toml) notices. A change that nobody notices is red.
#
#   ci/mutants.sh           a shard of a few minutes, another one each hour
#   ci/mutants.sh K/N       shard K of N
#   ci/mutants.sh rest      all shards that have not been run on this tree yet: hours
#
# What came out is kept below target/mutants/results for as long as those folders and the tests stay as they are, so that shards add up.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/lib.sh

SHARDS=56

for tool in mutants nextest; do
    have() { cargo $tool --version >/dev/null 2>&1; }
    have || ! may_install || timeout 600 cargo install --locked cargo-$tool || true
    have || skip "no cargo-$tool"
done

root=${CARGO_TARGET_DIR:-$PWD/target}/mutants
export CARGO_TARGET_DIR=$root/target
mkdir -p "$root/results"
tree=$(find src/format src/recover src/write tests -type f | sort | xargs sha256sum | sha256sum | cut -c 1-16)
# A line for each mutant that was run, its outcome and its name.
results=$root/results/$tree
touch "$results"

# The files of tests lie in memory, where syncs cost nothing. A mutant that was stopped leaves some behind.
TMPDIR=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)" mutants.XXXXXX)
export TMPDIR
chmod 755 "$TMPDIR"
trap 'rm -rf "$TMPDIR"' EXIT
# A mutant may ask for any amount of memory, and write without end.
ulimit -v $((16 << 20)) -f $((5 << 20))

# run SHARD: its outcomes, added to the results.
run() {
    # In a copy, which always lies in the same place: little is compiled again. That something is, cargo knows by the time of the file.
    local copy=$root/tree status=0
    rm -rf "$copy" "$root/mutants.out"
    mkdir "$copy"
    tar --exclude=target --exclude=.git -cf - . | tar -xmf - -C "$copy"
    nice cargo mutants --dir "$copy" --in-place --output "$root" --colors=never --shard "$1" || status=$?
    # 2 and 3: some were missed, or took too long. The files say which.
    case $status in 0 | 2 | 3) ;; *) exit "$status" ;; esac
    for outcome in caught missed timeout unviable; do
        sed "s/^/$outcome\t/" "$root/mutants.out/$outcome.txt" >>"$results"
    done
}

case ${1:-} in
    "") run "$(($(date +%s) / 3600 % SHARDS))/$SHARDS" ;;
    rest)
        for ((shard = 0; shard < SHARDS; shard++)); do
            left=$(cargo mutants --list --shard "$shard/$SHARDS" | grep -vxFf <(cut -f 2 "$results") || true)
            [ -z "$left" ] || run "$shard/$SHARDS"
        done
        ;;
    *) run "$1" ;;
esac

# Of a mutant that was run twice, the last outcome counts.
awk -F '\t' -v all="$(cargo mutants --list | wc -l)" '
    { outcome[$2] = $1 }
    END {
        for (name in outcome) {
            count[outcome[name]]++
            run++
            if (outcome[name] == "missed") printf "violation: no test notices: %s\n", name
        }
        viable = run - count["unviable"]
        printf "%d viable, %d caught, %d missed, %d timeouts; %.1f %% of %d mutants of this tree were run\n", viable,
            count["caught"], count["missed"], count["timeout"], 100 * run / all, all
        printf "ok %d of %d viable mutants caught\n", count["caught"], viable
        exit count["missed"] > 0
    }' "$results"
