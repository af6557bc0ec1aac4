#!/usr/bin/env bash
# Runs the unit tests, and the tests that are about threads, under ThreadSanitizer, on the heap twin of the mappings: a page that is
# mapped twice is two places to it. Arguments go to `cargo test` in place of that selection.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/lib.sh

have_sources() { [ -d "$(rustc +nightly --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library/std" ]; }
if ! have_sources && may_install; then
    timeout 300 rustup toolchain install nightly --profile minimal --component rust-src || true
fi
have_sources || skip "no nightly toolchain with rust-src"
target=$(rustc +nightly -vV | sed -n 's/^host: //p')
case $target in
    x86_64-unknown-linux-gnu | aarch64-unknown-linux-gnu) ;;
    *) skip "no ThreadSanitizer for $target" ;;
esac

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/tsan"
export RUSTFLAGS="-Zsanitizer=thread --cfg maplog_heap"
export TSAN_OPTIONS="halt_on_error=1 history_size=4 ${TSAN_OPTIONS:-}"
selection=(--lib --test it -- threads:: tests:: policies::waits policies::callbacks policies::interval policies::batch
    policies::a_callback policies::append_as borrow::what_is_held borrow::files_are_used)
[ $# -eq 0 ] || selection=("$@")

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
# What the tests depend on is instrumented too: optimising it takes longer than running it.
cargo +nightly test --locked --config 'profile.dev.package."*".opt-level=1' -Zbuild-std --target "$target" --features __testing "${selection[@]}" 2>&1 |
    tee "$log" || status=$?
race=$(grep -m 1 '^SUMMARY: ThreadSanitizer' "$log") && echo "violation: ${race#SUMMARY: }"
[ "$status" -eq 0 ] || exit "$status"
for name in "${selection[@]}"; do
    [[ $name == -* || $name == it ]] || grep -q "^test .*$name" "$log" || { echo "there is no test $name" >&2; exit 1; }
done
awk '/^test result: / { tests += $4 } END { print "ok " tests " tests" }' "$log"
