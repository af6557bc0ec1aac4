# What the scripts share that run the harnesses of proof/system. To be sourced by bash, after lib.sh.

# Checks, builds and tests the harnesses, and sets `proof` to the program.
build_proof() {
    export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/proof"
    cargo fmt --manifest-path proof/system/Cargo.toml -- --check
    cargo clippy --quiet --locked --release --all-targets --manifest-path proof/system/Cargo.toml -- -D warnings
    cargo build --quiet --locked --release --manifest-path proof/system/Cargo.toml
    # Among them, where a disk can be served, is the one that sees a sync of each file system arrive as a flush of the disk.
    local tests
    tests=$(cargo test --quiet --locked --release --manifest-path proof/system/Cargo.toml 2>&1) || { echo "$tests" >&2; exit 1; }
    proof=$CARGO_TARGET_DIR/release/proof
}

# Sets `kinds` to the file systems that can be made here, with commas between. Where what is missing may be installed, none may be.
find_mkfs() {
    local kind
    kinds=
    for kind in ext4 xfs btrfs; do
        if install "mkfs.$kind" e2fsprogs xfsprogs btrfs-progs; then
            kinds+=${kinds:+,}$kind
        elif may_install; then
            echo "there is no mkfs.$kind" >&2
            exit 1
        else
            echo "without $kind: there is no mkfs.$kind"
        fi
    done
}

# As `find_mkfs`, for a disk that is served by FUSE. Skips where there is no FUSE, and nowhere else.
find_file_systems() {
    [ -e /dev/fuse ] || skip "no /dev/fuse"
    [ "$(id -u)" -eq 0 ] || { echo "not root, who alone may mount" >&2; exit 1; }
    find_mkfs
    [ -n "$kinds" ] || { echo "no mkfs of ext4, xfs or btrfs" >&2; exit 1; }
}
