#!/usr/bin/env bash
# Seeds one bug after the other into a copy of the tree, and has the harness that should see it run on that copy, with fixed seeds: a
# canary that does not sing is red, and so is one that no longer applies. Without arguments: all of proof/canaries/. With: those of the
# harnesses that are named, or single ones, as `crash` or `crash/tail-resurrected`. With K/N: every Nth of all from the Kth on; of the
# others, whether they apply.
#
# A canary is a patch to src/ after a few lines that say what the bug is; the last of them, `hunt: ARGUMENTS`, is what the harness is run
# with, by the script `hunt` beside it. Found is what ends with an error and a line `violation: ...`.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/lib.sh

install patch patch || skip "no patch"

export CARGO_TARGET_DIR="$PWD/target/canaries"
tree="$CARGO_TARGET_DIR/tree"
output="$CARGO_TARGET_DIR/output"
found=0 missed=()
# A hunt takes seconds, a build should not take more: each patch has the library and all that uses it built again.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_INCREMENTAL=true CARGO_PROFILE_RELEASE_DEBUG=0

# take_built DIR: what the tests depend on was built before, most likely. The tree's own is not taken along: under one name, a bug is
# soon mistaken for the code without it. What is being built meanwhile has no fingerprint yet.
take_built() {
    local from=target/$1 to=$CARGO_TARGET_DIR/$1
    [ -d "$from/deps" ] && [ ! -d "$to" ] || return 0
    mkdir -p "$to"
    cp -a "$from"/{.fingerprint,build,deps} "$to" 2>/dev/null || true
    find "$to" -depth \( -name '*maplog*' -o -name 'crash-*' -o -name 'it-*' \) -exec rm -rf {} +
}

# The same place and times each time, so that only what a patch touches is built again.
rm -rf "$tree"
mkdir -p "$tree"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp -p --parents -t "$tree"

# sing NAME PATCH
sing() {
    local arguments violation status=0 start=$SECONDS
    read -ra arguments <<<"$(sed -n 's/^hunt: *//p' "$2" | head -n 1)"
    if ! patch --quiet --directory="$tree" --strip=1 --fuzz=0 --forward <"$2" >"$output" 2>&1; then
        printf '%s: does not apply\n' "$1"
        cat "$output"
        return 1
    fi
    case $1 in
        crash/*) take_built debug ;;
        tsan/*) take_built tsan/debug && take_built "tsan/$(rustc -vV | sed -n 's/^host: //p')/debug" ;;
    esac
    (cd "$tree" && "$PWD/proof/canaries/${1%%/*}/hunt" "${arguments[@]}") >"$output" 2>&1 || status=$?
    patch --quiet --directory="$tree" --strip=1 --fuzz=0 --reverse <"$2"
    violation=$(sed -n 's/^violation: //p' "$output" | head -n 1)
    if [ "$status" -eq 77 ]; then
        printf '%s: %s\n' "$1" "$(tail -n 1 "$output")"
        return 77
    elif [ "$status" -eq 0 ] || [ -z "$violation" ]; then
        printf '%s: not found (status %s)\n' "$1" "$status"
        tail -n 30 "$output"
        return 1
    fi
    printf '%s: found, %s s: %.300s\n' "$1" "$((SECONDS - start))" "$violation"
}

share=0 shares=1
if [[ ${1:-} =~ ^[0-9]+/[0-9]+$ ]]; then
    share=${1%/*} shares=${1#*/}
    shift
fi

cd proof/canaries
patches=()
for name in "${@:-}"; do
    if [ -f "$name.patch" ]; then
        patches+=("$name.patch")
    else
        patches+=("${name:-*}"/*.patch)
    fi
done
# shellcheck disable=SC2206 # the names of harnesses that are left open are filled in here
patches=(${patches[*]})
cd ../..

skipped=0 number=0 applied=0
for patch in "${patches[@]}"; do
    status=0
    if ((number++ % shares != share)); then
        patch --dry-run --quiet --directory="$tree" --strip=1 --fuzz=0 --forward <"proof/canaries/$patch" || missed+=("${patch%.patch}")
        applied=$((applied + 1))
        continue
    fi
    sing "${patch%.patch}" "proof/canaries/$patch" || status=$?
    case $status in
        0) found=$((found + 1)) ;;
        77) skipped=$((skipped + 1)) ;;
        *) missed+=("${patch%.patch}") ;;
    esac
done

if [ ${#missed[@]} -gt 0 ]; then
    echo "not found: ${missed[*]}"
    exit 1
fi
[ "$found" -gt 0 ] || skip "none of $skipped canaries can sing here"
echo "ok $found canaries found, $skipped skipped; $applied others apply"
