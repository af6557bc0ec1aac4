#!/usr/bin/env bash
# The one gate: `just check` and .ci/run both run it. A change that is not green here is not done.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/lib.sh

[ ! -t 1 ] || export CARGO_TERM_COLOR=always

read -ra test_command <<<"$(ci/readme-command.sh test)"

step format cargo fmt --all -- --check
# What users build, without what our tests switch on; then everything.
step plain cargo clippy --locked --lib --examples -- -D warnings
step clippy cargo clippy --locked --all-targets --features __testing -- -D warnings
step tests "${test_command[@]}"
# Each once, to see that it runs: as tests they are neither optimised nor timed.
step benches cargo test --locked --features __testing --benches
step docs env RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
finish
