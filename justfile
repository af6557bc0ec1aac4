# Recipes for people; CI runs the same scripts (.ci/run).

# Lists the recipes.
default:
    @just --list

# The one gate: format, build, clippy, tests, benches once, docs.
check:
    ci/check.sh

# All tests: the command that README.md gives.
test:
    $(ci/readme-command.sh test)

# Formats the code.
fmt:
    cargo fmt --all

# The first command of README.md: write FILE to a log, kill the writer, recover, compare. Without FILE: a text of this repository.
quickstart *FILE:
    cargo run --release --example quickstart -- {{ FILE }}

# The crash simulator on the seeds START..END; stopped, it goes on where it was.
crash-night SEEDS:
    ci/crash-night.sh {{ SEEDS }}

# Power cuts on real file systems, under a real process: STATES of them from SEED on. Wants root and /dev/fuse.
power *ARGS:
    ci/power.sh {{ ARGS }}

# Every system call of a log's life fails once: `--only rotate/keeper-1` selects, `--list` names the runs.
faults *ARGS:
    ci/faults.sh {{ ARGS }}

# Small disks that fill up: a twelfth of the cases, `--part 0/1` is all.
full *ARGS:
    ci/full.sh {{ ARGS }}

# A disk that fails writes, flushes and reads: `--only flush-at-sync` selects. Wants root and /dev/fuse.
bad-disk *ARGS:
    ci/bad-disk.sh {{ ARGS }}

# Processes killed at any moment: CYCLES of them from SEED on.
kill *ARGS:
    ci/kill.sh {{ ARGS }}

# Hostile bytes, mutated logs and sequences of calls: SECONDS for each target, or for those that are named.
fuzz *ARGS:
    ci/fuzz.sh {{ ARGS }}

# Models of threads: the library's own sources under a scheduler that chooses every step; EXECUTIONS of each.
models *EXECUTIONS:
    ci/models.sh {{ EXECUTIONS }}

# The unit tests under Miri (nightly): as CI does, or `once TEST`, `seeds FROM..TO TEST`, `big-endian TEST`.
miri *ARGS:
    ci/miri.sh {{ ARGS }}

# Unit tests and those of threads under ThreadSanitizer (nightly); arguments select tests.
tsan *ARGS:
    ci/tsan.sh {{ ARGS }}

# Small changes of the sources that a test has to notice: a shard, shard K of N, or `0/1` for all.
mutants *SHARD:
    ci/mutants.sh {{ SHARD }}

# Which lines of format, recover and write the tests run.
coverage:
    ci/coverage.sh

# Bugs that are seeded into a copy of the tree, and that the harnesses have to find: all, or those named, as `crash/tail-resurrected`.
canaries *NAMES:
    ci/canaries.sh {{ NAMES }}

# A build with the oldest Rust that is supported.
msrv:
    ci/msrv.sh

# Licences, sources and advisories of the dependencies.
deny:
    ci/deny.sh

# What each piece costs (criterion): `append` runs those with that in their names, `--quick` all in seconds.
bench *ARGS:
    cargo bench --features __testing -- {{ ARGS }}

# Instructions of one append, one step of an iterator, one lookup: free of the machine's noise (valgrind).
instructions *WORKS:
    ci/instructions.sh {{ WORKS }}

# maplog beside the hardware's floors and other logs; `--quick`: beside the floors alone. Wants a quiet machine.
compare *ARGS:
    cargo run --release --manifest-path benches/compare/Cargo.toml -- {{ ARGS }}

# Everything that CI does.
ci:
    .ci/run
