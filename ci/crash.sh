#!/usr/bin/env bash
# The crash simulator, for so many states.
set -euo pipefail
cd "$(dirname "$0")/.."

MAPLOG_STATES="${1:-20000}" cargo test --locked --features __testing --test crash -- --nocapture
