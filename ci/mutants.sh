#!/usr/bin/env bash
# Changes src/format, src/recover and src/write in one small way after the other, as cargo-mutants would, and sees whether a selection of
# the tests (all but proof/mutants/left-out) notices. A change that nobody notices is red.
#
#   ci/mutants.sh           a shard of a few minutes, another one each hour
#   ci/mutants.sh K/N       shard K of N; 0/1 is all of them
#
# What came out is kept below target/mutants/results for as long as those folders and the tests stay as they are, so that shards add up.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/lib.sh

SHARDS=24

# It lists the mutants: its debug build will do, and takes half as long to make.
have() { cargo mutants --version >/dev/null 2>&1; }
have || ! may_install || timeout 600 cargo install --locked --debug cargo-mutants || true
have || skip "no cargo-mutants"

root=${CARGO_TARGET_DIR:-$PWD/target}/mutants
mkdir -p "$root/results"
tree=$(find src tests .cargo/mutants.toml proof/mutants -type f | sort | xargs sha256sum | sha256sum | cut -c 1-16)
# A line for each mutant that was run, its outcome and its name.
results=$root/results/$tree
touch "$results"

CARGO_TARGET_DIR=$root/tool cargo clippy --quiet --locked --manifest-path proof/mutants/Cargo.toml -- -D warnings
CARGO_TARGET_DIR=$root/tool cargo build --quiet --locked --manifest-path proof/mutants/Cargo.toml

# The files of tests lie in memory, where syncs cost nothing. A mutant that was stopped leaves some behind.
TMPDIR=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)" mutants.XXXXXX)
export TMPDIR
chmod 755 "$TMPDIR"
trap 'rm -rf "$TMPDIR"' EXIT
# A mutant may ask for any amount of memory, and write without end.
ulimit -v $((16 << 20)) -f $((5 << 20))

# In a copy, which always lies in the same place: little is compiled again. That something is, cargo knows by the time of the file.
rm -rf "$root/tree"
mkdir "$root/tree"
tar --exclude=target --exclude=.git -cf - . | tar -xmf - -C "$root/tree"
CARGO_TARGET_DIR=$root/target nice "$root/tool/debug/mutants" "$root/tree" "${1:-$(($(date +%s) / 3600 % SHARDS))/$SHARDS}" "$results"

# Of a mutant that was run twice, the last outcome counts. A survivor may be one that docs/testing.md explains, by its name without the place.
awk -F '\t' -v all="$(cargo mutants --list | wc -l)" '
    FNR == NR { page = page $0; next }
    { outcome[$2] = $1 }
    END {
        for (name in outcome) {
            count[outcome[name]]++
            run++
            plain = name
            sub(/:[0-9]+:[0-9]+:/, ":", plain)
            if (outcome[name] != "missed") continue
            if (index(page, "`" plain "`")) explained++
            else printf "violation: no test notices: %s\n", name
        }
        viable = run - count["unviable"]
        caught = count["caught"] + count["timeout"]
        printf "%d viable, %d caught, %d of them by a test that hung, %d missed, %d of them explained; %d of %d mutants were run\n",
            viable, caught, count["timeout"], count["missed"], explained, run, all
        printf "ok %d of %d viable mutants caught\n", caught, viable
        exit count["missed"] > explained || explained > 5
    }' docs/testing.md "$results"
