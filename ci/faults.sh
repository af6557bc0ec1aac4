#!/usr/bin/env bash
# Has every system call of a log's life fail once, with every error that fits it, and kills the process at each. Arguments go to the
# harness: `--only rotate/keeper-1` selects runs, `--list` names them.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/lib.sh
. ci/proof.sh

install strace strace || skip "no strace"
# For a second, a process that is not its own child.
sleep 5 &
status=0
timeout 1 strace -o /dev/null -p $! 2>/dev/null || status=$?
kill $!
[ "$status" -eq 124 ] || skip "strace may not trace other processes here"

build_proof
"$proof" faults "$@"
