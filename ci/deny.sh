#!/usr/bin/env bash
# Licences, sources, duplicates and advisories of the dependencies, as deny.toml says.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/lib.sh

cargo deny --version >/dev/null 2>&1 || skip "cargo-deny is not installed, and takes minutes to build"
# The advisories are a repository of their own: without a network, the rest is still worth checking.
if cargo deny fetch; then
    cargo deny --locked check
    echo "ok all"
else
    cargo deny --locked check bans licenses sources
    echo "ok bans, licenses, sources; advisories could not be fetched"
fi
