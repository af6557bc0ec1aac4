//! Makes the seeds anew, in place.

use std::path::Path;

fn main() {
    maplog_fuzz::seeds::write(&Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds"));
}
