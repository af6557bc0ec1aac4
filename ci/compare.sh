#!/usr/bin/env bash
# Builds the comparison without the other logs, and has it do some works once, to see that it runs. Its bars are not asked: they are for
# a quiet machine.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/lib.sh

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/compare"
options=(--locked --release --no-default-features --manifest-path benches/compare/Cargo.toml)
cargo clippy "${options[@]}" -- -D warnings

rows=$(mktemp)
trap 'rm -f "$rows"' EXIT
cargo run "${options[@]}" -- --quick --rounds 1 --only "append 1" --scratch "$CARGO_TARGET_DIR" --json "$rows" || true
done=$(grep -c '"subject":"maplog"' "$rows") || { echo "nothing was measured" >&2; exit 1; }
echo "ok $done rows"
