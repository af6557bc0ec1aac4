# Shared by the scripts beside it and by .ci/run. To be sourced by bash.
#
# A step is one command. `step` shows what it prints, then a line with the outcome, the time and the figure, and goes on whatever
# happened, so that one run shows everything that is red. `finish` ends with an error if any step failed. A command that cannot do
# its work here, and says why in a last line `skipped: why`, ends with status 77.

# Asking rustup for a toolchain that is not there must not install it unasked.
export RUSTUP_AUTO_INSTALL=0

failed_steps=()

# step NAME COMMAND...
step() {
    local name=$1 log status=0 outcome figure start=$SECONDS
    shift
    log=$(mktemp)
    printf '\n== %s: %s\n' "$name" "$*"
    "$@" 2>&1 | tee "$log" || status=${PIPESTATUS[0]}
    figure=$(figure "$log")
    case $status in
        0) outcome="ok, $((SECONDS - start)) s${figure:+, $figure}" ;;
        77) outcome=$(tail -n 1 "$log") ;;
        *)
            outcome="FAILED with status $status, $((SECONDS - start)) s${figure:+, $figure}"
            failed_steps+=("$name")
            ;;
    esac
    rm -f "$log"
    printf '== %s: %s\n' "$name" "$outcome"
    [ -z "${STEP_SUMMARY:-}" ] || printf '%s: %s\n' "$name" "$outcome" >>"$STEP_SUMMARY"
}

# The number that a step's output is remembered by: its last line `ok ...`, or the tests that ran.
figure() {
    sed 's/\x1b\[[0-9;]*m//g' "$1" | awk '
        /^test result: / {
            for (i = 2; i <= NF; i++) {
                if ($i == "passed;") passed += $(i - 1)
                if ($i == "failed;") failed += $(i - 1)
                if ($i == "ignored;") ignored += $(i - 1)
            }
            tests = 1
        }
        /^ok / { line = substr($0, 4) }
        END {
            if (line) printf "%s", line
            else if (tests) printf "%d tests passed, %d failed, %d ignored", passed, failed, ignored
        }'
}

# Ends the script: with an error if a step failed.
finish() {
    if [ ${#failed_steps[@]} -gt 0 ]; then
        printf '\nfailed: %s\n' "${failed_steps[*]}"
        exit 1
    fi
}

# skip WHY: ends a script that cannot do its work on this machine.
skip() {
    printf 'skipped: %s\n' "$*"
    exit 77
}

# install PROGRAM PACKAGE...: has the program, if it is missing and this run may install it; else fails.
install() {
    local program=$1
    shift
    command -v "$program" >/dev/null && return
    may_install && { apt-get update -qq && apt-get install -qq -y "$@"; } && command -v "$program" >/dev/null
}

# True if this run may install what is missing: CI does, a recipe on somebody's machine does not.
may_install() {
    [ -n "${CI_INSTALL:-}" ]
}
