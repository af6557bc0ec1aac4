#!/usr/bin/env bash
# power.sh [STATES [SEED]]: cuts the power under maplog on ext4, xfs and btrfs, and judges so many crash images of a disk that is served
# from memory. Before that, the same disk lies about its flushes, and has to be found out.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/lib.sh
. ci/proof.sh

find_file_systems
build_proof

for kind in ${kinds//,/ }; do
    lied=$("$proof" power --fs "$kind" --lie --states 20) || true
    found=$(grep '^violation: ' <<<"$lied") || { echo "a lying disk was not found out on $kind: $lied" >&2; exit 1; }
    echo "a lying disk is found out: ${found#violation: }"
done
"$proof" power --fs "$kinds" --states "${1:-50}" --seed "${2:-1}"
