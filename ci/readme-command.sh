#!/usr/bin/env bash
# Prints the command that README.md gives for `test` or `quickstart`: the one line of its `sh` blocks that begins that way. CI runs
# what this prints, so that the page and CI cannot drift apart.
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
    test) start='cargo test' ;;
    quickstart) start='cargo run --release --example quickstart' ;;
    *)
        echo "usage: $0 test|quickstart" >&2
        exit 2
        ;;
esac

awk -v start="$start" '
    /^```/ { inside = ($0 == "```sh"); next }
    inside && index($0, start) == 1 { sub(/[ \t]+#.*$/, ""); print; count++ }
    END {
        if (count != 1) {
            printf "README.md has %d commands that begin with `%s`, expected one\n", count, start > "/dev/stderr"
            exit 1
        }
    }' README.md
