#!/usr/bin/env bash
# Which lines of src/format, src/recover and src/write the tests run, in percent per folder. Fewer than 95 is red. The lines that no
# test runs are listed; lines of unit tests are not counted.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/lib.sh

BAR=95

tools=$(rustc --print target-libdir)/../bin
have_tools() { [ -x "$tools/llvm-cov" ]; }
have_tools || ! may_install || timeout 300 rustup component add llvm-tools || true
have_tools || skip "no llvm-tools: rustup component add llvm-tools"

profiles=${CARGO_TARGET_DIR:-$PWD/target}/coverage
rm -rf "$profiles"
mkdir -p "$profiles"

# The library and its tests count; what they depend on is as it is for everybody.
export RUSTC_WORKSPACE_WRAPPER=$profiles/rustc
printf '#!/bin/sh\nexec "$@" -C instrument-coverage\n' >"$RUSTC_WORKSPACE_WRAPPER"
chmod +x "$RUSTC_WORKSPACE_WRAPPER"
test=(cargo test --locked --features __testing --lib --test it)
# Processes that a test kills write no profile, and many are started: each adds to one of a few files.
LLVM_PROFILE_FILE=$profiles/%8m.profraw "${test[@]}"
binaries=$("${test[@]}" --no-run 2>&1 | sed -n 's/.*Executable.*(\(.*\))$/--object \1/p')

"$tools/llvm-profdata" merge --sparse "$profiles"/*.profraw --output "$profiles/all"
# shellcheck disable=SC2086
"$tools/llvm-cov" export --format=lcov --instr-profile "$profiles/all" $binaries |
    awk -F '[:,]' -v bar=$BAR '
        /^SF:/ {
            file = ""
            if (match($2, /src\/(format|recover|write)\/[^\/]*\.rs$/)) {
                file = substr($2, RSTART)
                folder = substr(file, 1, match(file, /\/[^\/]*$/) - 1)
                # Where the unit tests begin.
                for (tests = 1; (getline line < $2) > 0 && line !~ /^mod tests|^#\[test\]/; tests++) {}
                close($2)
            }
        }
        /^DA:/ && file != "" && $2 < tests {
            lines[folder]++
            if ($3 > 0) run[folder]++
            else printf "no test runs %s:%d\n", file, $2
        }
        END {
            for (folder in lines) {
                percent = 100 * run[folder] / lines[folder]
                printf "%s: %d of %d lines, %.1f %%\n", folder, run[folder], lines[folder], percent
                if (percent < bar) { printf "violation: less than %d %% of %s\n", bar, folder; low = 1 }
                figure = figure (figure ? ", " : "") sprintf("%s %.1f %%", folder, percent)
            }
            printf "ok lines run: %s\n", figure
            exit low
        }'
