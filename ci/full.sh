#!/usr/bin/env bash
# Fills small file systems before each step of a log's life. Without arguments one case in twelve, others on the next day; arguments go to
# the harness: `--part 0/1` is all, `--only xfs/life` selects, `--list` names. A file system that cannot be made here is left out, and
# the figure says so.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/lib.sh
. ci/proof.sh

find_mkfs
build_proof
[ $# -gt 0 ] || set -- --part "$(($(date +%s) / 86400 % 12))/12"
"$proof" full "$@"
