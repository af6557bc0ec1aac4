#!/usr/bin/env bash
# Runs the unit tests under Miri, on the heap twin of the mappings: undefined behaviour in src/sys, or a data race, is an error.
#
#     ci/miri.sh                            all of the below, as CI does
#     ci/miri.sh once [TEST]...             each test once
#     ci/miri.sh seeds FROM..TO [TEST]...   those with threads; each seed is another schedule, and other values of weak loads
#     ci/miri.sh big-endian [TEST]...       those of the format, on a machine that stores its bytes the other way round
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/lib.sh

have_miri() { cargo +nightly miri --version >/dev/null 2>&1; }
have_sources() { [ -d "$(rustc +nightly --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library/std" ]; }
if ! { have_miri && have_sources; } && may_install; then
    timeout 300 rustup toolchain install nightly --profile minimal --component miri --component rust-src || true
fi
have_miri && have_sources || skip "no nightly toolchain with miri and rust-src"

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}"
export RUST_BACKTRACE=0 # of tests that should panic: each takes seconds here
log=$(mktemp)
trap 'rm -f "$log"' EXIT

threads=(
    log::tests::a_follower_takes_nothing_that_is_being_cut_away
    log::tests::threads_append_read_follow_and_cut
    log::tests::threads_wait_rotate_and_drop_what_is_old
    segment::keeper::tests::who_gives_up_leaves_the_demand_of_who_goes_on_waiting
    segment::offsets::tests::who_reads_while_the_list_grows_sees_no_wrong_place
    sys::map::tests::threads_read_while_one_writes
    write::broadcast::tests::who_waits_goes_on_once_it_has_happened
    write::group_sync::tests::a_leadership_that_is_dropped_falls_to_the_next
    write::group_sync::tests::no_more_wait_than_may_and_each_who_leaves_lets_one_in
    write::ticker::tests::its_own_thread_may_stop_it
    write::ticker::tests::ticks_come_until_it_is_stopped
)

# miri FLAGS OPTIONS TEST...: with the machine's time and files; the locks of parking_lot keep pointers in integers.
miri() {
    local flags="-Zmiri-disable-isolation -Zmiri-permissive-provenance $1" status=0
    # shellcheck disable=SC2206 # two words, or none
    local options=(--locked --manifest-path proof/units/Cargo.toml --lib $2)
    MIRIFLAGS="$flags ${MIRIFLAGS:-}" cargo +nightly miri test "${options[@]}" -- "${@:3}" 2>&1 | tee -a "$log" || status=$?
    [ "$status" -eq 0 ] && return
    # What Miri itself found, or else the test that failed; and the seed, if there are many.
    {
        sed -n -E 's/.*error: (Undefined Behavior|deadlock|memory leaked|the evaluated program|abnormal)/\1/p' "$log"
        sed -n -E '/panicked at /{N;s/.*panicked at ([^\n]*)\n/a panic at \1 /p}' "$log"
    } | sed -n "1s/\$/$(sed -n 's/^FAILING SEED: /, seed /p' "$log" | head -n 1)/; 1s/^/violation: /p"
    exit "$status"
}

once() { miri "" "" "$@"; }

seeds() {
    local range=$1 name
    shift
    [ $# -gt 0 ] || set -- "${threads[@]}"
    miri "-Zmiri-many-seeds=$range" "" "$@"
    for name in "$@"; do
        grep -q "^test .*$name" "$log" || { echo "there is no test $name" >&2; exit 1; }
    done
}

big_endian() {
    # But those that try every bit or value: their hundreds of checksums say the same of both machines, and here each is slow.
    [ $# -gt 0 ] || set -- format:: sys::crc --skip every --skip a_header_with_a_field --skip a_loss_ends --skip stored_compressed
    miri "" "--target s390x-unknown-linux-gnu" "$@"
}

case ${1:-all} in
    all)
        once
        seeds 0..4
        big_endian
        ;;
    once | seeds) "$@" ;;
    big-endian) big_endian "${@:2}" ;;
    *)
        sed -n 's/^#     //p' "$0" >&2
        exit 2
        ;;
esac
# Seeds run at the same time, and write into each other's lines.
grep -oE '[0-9]+ passed; 0 failed' "$log" | awk '{ runs += $1 } END { print "ok " runs " runs of tests" }'
