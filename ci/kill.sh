#!/usr/bin/env bash
# kill.sh [CYCLES [SEED]]: kills so many processes that append, one after the other, and looks for what they appended. Each cycle has a
# seed of its own, so a long run can be made in parts.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/lib.sh
. ci/proof.sh

build_proof
"$proof" kill --scratch "$CARGO_TARGET_DIR" --cycles "${1:-200}" --seed "${2:-1}"
