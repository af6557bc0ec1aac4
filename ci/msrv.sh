#!/usr/bin/env bash
# Builds the library with the oldest Rust it promises (`rust-version` in Cargo.toml), without its tests, examples and their
# dependencies, and with the newest versions of its dependencies that this Rust can build.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/lib.sh

version=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
have_toolchain() { cargo "+$version" --version >/dev/null 2>&1; }
if ! have_toolchain && may_install; then
    timeout 300 rustup toolchain install "$version" --profile minimal || true
fi
have_toolchain || skip "no Rust $version toolchain"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cp -r src README.md "$scratch"
# All but the dev-dependencies and the targets that need them.
awk '/^\[/ { keep = !/^\[dev-dependencies/ && !/^\[\[/ } keep || NR == 1 { print }' Cargo.toml >"$scratch/Cargo.toml"
cd "$scratch"

export CARGO_TARGET_DIR="$scratch/target"
# The newest of each dependency, then the last that this Rust can build. A lock file made by it has the version it can read.
cargo "+$version" generate-lockfile
cargo "+$version" update --package thiserror --precise 2.0.18
cargo "+$version" update --package lz4_flex --precise 0.10.0
for features in "" __testing; do
    cargo "+$version" check --locked --lib --features "$features"
done
echo "ok $(cargo "+$version" --version | cut -d ' ' -f 1,2)"
