#!/usr/bin/env bash
# Runs the README's first command: as it stands but for FILE, then on lines that are easily got wrong.
set -euo pipefail
cd "$(dirname "$0")/.."

read -ra command <<<"$(ci/readme-command.sh quickstart)"
[ "${command[-2]} ${command[-1]}" = "-- FILE" ] || { echo "the README's command does not end with -- FILE" >&2; exit 1; }
unset 'command[-1]' 'command[-1]'

"${command[@]}"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# run INPUT LAST_LINE: what printf makes of INPUT is the file.
run() {
    printf "$1" >"$scratch/input"
    last=$("${command[@]}" --quiet -- "$scratch/input" | tail -n 1)
    [ "$last" = "$2" ] || { echo "for '$1': got '$last', expected '$2'" >&2; exit 1; }
}
run '' 'ok entries=0 bytes=0'
run '\n' 'ok entries=1 bytes=0'
run 'a\r\n\r\nbc' 'ok entries=3 bytes=5'
run 'a\n\nb\n\n' 'ok entries=4 bytes=2'

if output=$("${command[@]}" --quiet -- "$scratch/missing" 2>&1); then
    echo "a missing file went unnoticed" >&2
    exit 1
fi
grep -q "$scratch/missing" <<<"$output" || { echo "the error does not name the missing file: $output" >&2; exit 1; }
echo "ok main job and 5 special inputs"
