#!/usr/bin/env bash
# Runs the unit tests under Miri, on the heap twin of the mapping: undefined behaviour in src/sys, or a data race, is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/lib.sh

have_miri() { cargo +nightly miri --version >/dev/null 2>&1; }
if ! have_miri && may_install; then
    timeout 300 rustup toolchain install nightly --profile minimal --component miri --component rust-src || true
fi
have_miri || skip "no nightly toolchain with miri"

# Time, and the files of a test, are the machine's. The locks of parking_lot keep pointers in integers.
export MIRIFLAGS="${MIRIFLAGS:--Zmiri-disable-isolation -Zmiri-permissive-provenance}"
cargo +nightly miri test --lib "$@"
