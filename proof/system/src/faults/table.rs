//! Which errors befall which call, and what each means.

use super::run::{Fault, Point};
use super::trace::Call;
use crate::puppet::Command;

/// The calls that fail once, and how. Every error is one that Linux documents for the call, or one of a disk that fails under it.
/// `EINTR` is there where a call may be interrupted. Each call also has the process killed at it.
const TABLE: &[(&str, &[&str])] = &[
    ("openat", &["EIO", "ENOMEM", "EMFILE", "EACCES", "EINTR"]),
    ("pread64", &["EIO", "ENOMEM", "EINTR"]),
    ("pwrite64", &["EIO", "ENOSPC", "EINTR"]),
    ("fdatasync", &["EIO", "ENOSPC", "EINTR"]),
    ("fsync", &["EIO", "ENOSPC", "EINTR"]),
    ("msync", &["EIO", "ENOSPC", "ENOMEM", "EINTR"]),
    ("mmap", &["ENOMEM", "EAGAIN"]),
    ("munmap", &["ENOMEM"]),
    ("madvise", &["EFAULT", "ENOMEM", "EINVAL", "EINTR"]),
    ("fadvise64", &["EINVAL"]),
    ("rename", &["EIO", "ENOSPC", "ENOMEM", "EACCES"]),
    ("unlink", &["EIO", "ENOMEM", "EACCES"]),
    ("mkdir", &["EIO", "ENOSPC", "ENOMEM", "EACCES"]),
    ("getdents64", &["EIO", "ENOMEM"]),
    ("statx", &["EIO", "ENOMEM", "EACCES"]),
    ("newfstatat", &["EIO", "ENOMEM"]),
    ("fstat", &["EIO", "ENOMEM"]),
    ("readlink", &["EIO", "ENOMEM", "EACCES"]),
    ("ftruncate", &["EIO", "ENOSPC", "EINTR"]),
    ("flock", &["ENOLCK", "ENOMEM", "EINTR"]),
    ("fstatfs", &["EIO", "ENOMEM", "EINTR"]),
    ("ioctl", &["EIO", "ENOSPC"]),
    ("fcntl", &["EINVAL"]),
    ("close", &["EIO", "EINTR"]),
    ("clone3", &["EAGAIN"]),
];

/// The numbers of the errors.
const CODES: &[(&str, i32)] = &[
    ("EINTR", 4),
    ("EIO", 5),
    ("EAGAIN", 11),
    ("ENOMEM", 12),
    ("EACCES", 13),
    ("EFAULT", 14),
    ("EINVAL", 22),
    ("EMFILE", 24),
    ("ENOSPC", 28),
    ("ENOLCK", 37),
];

/// What befalls a call; None if the table does not know it.
pub fn faults(call: &Call) -> Option<Vec<Fault>> {
    let (_, errors) = TABLE.iter().find(|(name, _)| *name == call.name)?;
    let mut faults: Vec<_> = errors.iter().copied().map(Fault::Error).collect();
    if call.creates {
        faults.push(Fault::Error("ENOSPC"));
    }
    // Closing a directory cannot fail: Linux has nothing to do for it. The standard library relies on that, and panics.
    let is_dir =
        !call.path.contains('.') && !["lock", "readers"].contains(&call.path.as_str()) || call.path.starts_with('.');
    if call.name == "close" && is_dir {
        faults.retain(|fault| *fault != Fault::Error("EIO"));
    }
    faults.push(Fault::Kill);
    Some(faults)
}

pub fn code(error: &str) -> Option<i32> {
    CODES.iter().find(|(name, _)| *name == error).map(|(_, code)| *code)
}

/// Whether the log is poisoned once the call has failed, which the script's `command` had made: it synced a file that holds entries,
/// or wrote the manifest. While it is being opened there is no log yet.
pub fn poisons(point: &Point, fault: Fault, command: &Command) -> bool {
    let Call { name, path, .. } = &point.call;
    let is_sync = name == "msync" || name == "fdatasync";
    let holds_entries = name == "msync" || path.starts_with("segments/wal-");
    let is_manifest = path == "metadata/wal.meta";
    let is_open = matches!(command, Command::Open { .. });
    let matters = is_sync && (holds_entries || is_manifest) || name == "pwrite64" && is_manifest;
    matters && !is_open && fault != Fault::Error("EINTR")
}

/// Whether the call makes entries durable: once it has failed, they are not.
pub fn syncs_entries(point: &Point) -> bool {
    point.call.name == "msync" || point.call.name == "fdatasync" && point.call.path.starts_with("segments/wal-")
}

/// Whether the failure must have consequences: whatever the library does then, it is not what it does without.
pub fn must_matter(point: &Point) -> bool {
    ["pread64", "pwrite64", "fdatasync", "fsync", "msync", "rename"].contains(&point.call.name.as_str())
}

/// Whether a call that was interrupted is made again, so that nobody sees anything: POSIX has it end with EINTR.
pub fn is_retried(point: &Point) -> bool {
    ["openat", "pread64", "pwrite64", "fdatasync", "fsync", "msync", "ftruncate", "flock", "close"]
        .contains(&point.call.name.as_str())
}
