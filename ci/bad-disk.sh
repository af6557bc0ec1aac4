#!/usr/bin/env bash
# Has a disk fail writes, flushes and reads under maplog on ext4, xfs and btrfs. Arguments go to the harness: `--only flush-at-sync`.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/lib.sh
. ci/proof.sh

find_file_systems
build_proof
"$proof" bad-disk --fs "$kinds" "$@"
