#!/usr/bin/env bash
# Models of what threads do to each other: the library's own sources on threads whose every step a scheduler chooses (proof/models).
#
#   ci/models.sh [EXECUTIONS [ARGUMENTS]]     so many of each model; the seeds are the same each time, or SEED
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/lib.sh

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/models"
options=(--locked --release --manifest-path proof/models/Cargo.toml)
cargo clippy "${options[@]}" -- -D warnings
cargo run "${options[@]}" -- --executions "${1:-5000}" --seed "${SEED:-1}" "${@:2}"
