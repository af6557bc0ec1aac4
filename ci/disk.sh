# What the scripts share that run the harnesses of proof/system. To be sourced by bash, after lib.sh.

# Checks and builds the harnesses, and sets `proof` to the program.
build_proof() {
    export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/proof"
    cargo fmt --manifest-path proof/system/Cargo.toml -- --check
    cargo clippy --quiet --locked --release --all-targets --manifest-path proof/system/Cargo.toml -- -D warnings
    cargo build --quiet --locked --release --manifest-path proof/system/Cargo.toml
    proof=$CARGO_TARGET_DIR/release/proof
}

# Sets `kinds` to the file systems that can be made here, with commas between. Skips where no disk can be served. Where one can be, and
# what is missing may be installed, none of them may be missing.
find_file_systems() {
    local kind
    [ -e /dev/fuse ] || skip "no /dev/fuse"
    [ "$(id -u)" -eq 0 ] || skip "not root, who alone may mount"
    kinds=
    for kind in ext4 xfs btrfs; do
        if ! command -v "mkfs.$kind" >/dev/null && may_install; then
            { apt-get update -qq && apt-get install -qq -y e2fsprogs xfsprogs btrfs-progs; } || true
        fi
        if command -v "mkfs.$kind" >/dev/null; then
            kinds+=${kinds:+,}$kind
        elif may_install; then
            echo "there is no mkfs.$kind" >&2
            exit 1
        else
            echo "without $kind: there is no mkfs.$kind"
        fi
    done
    [ -n "$kinds" ] || skip "no mkfs of ext4, xfs or btrfs"
}
