#!/usr/bin/env bash
# The crash simulator with the seeds START..END, in parts that are remembered with the tree they ran on: started again, it goes on where
# it was stopped, and the sums are those of all its parts.
set -euo pipefail
cd "$(dirname "$0")/.."

seeds="${1:?the seeds, as 0..60000}"
start="${seeds%..*}" end="${seeds#*..}"
[[ $seeds =~ ^[0-9]+\.\.[0-9]+$ && $start -lt $end ]] || { echo "no range of seeds: $seeds" >&2; exit 1; }
part=2000
tree=$(git ls-files -z src tests/crash tests/shared | sort -z | xargs -0 sha256sum | sha256sum | cut -c 1-12)
done_parts="target/crash-night-$tree"
mkdir -p target
touch "$done_parts"
sums=$(mktemp)
trap 'rm -f "$sums"' EXIT

for ((from = start; from < end; from += part)); do
    to=$((from + part < end ? from + part : end))
    if ! grep -q "^$from\.\.$to " "$done_parts"; then
        output=$(MAPLOG_SEEDS="$from..$to" cargo test --quiet --locked --features __testing --test crash -- --nocapture) ||
            { printf '%s\n' "$output"; exit 1; }
        printf '%s %s\n' "$from..$to" "$(sed -n 's/^ok //p' <<<"$output")" >>"$done_parts"
        tail -n 1 "$done_parts"
    fi
    grep "^$from\.\.$to " "$done_parts" >>"$sums"
done
awk '{ states += $2; chains += $5; damages += $7; poisoned += $10 }
     END { printf "ok %d states of %d chains, %d damages named, %d logs poisoned, 0 violations\n", states, chains, damages, poisoned }' \
    "$sums"
