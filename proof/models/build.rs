//! Has the sources of maplog take their locks and threads from shuttle: see src/sys/sync.rs.

fn main() {
    println!("cargo::rustc-cfg=maplog_models");
    println!("cargo::rerun-if-changed=build.rs");
}
