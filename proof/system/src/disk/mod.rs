//! A disk that can lose its power, lie, and fail, with a real file system on it.
//!
//! It is the one file of a FUSE file system that this process serves from memory; a loop device stands on that file, and the file
//! system on the loop device. A flush of the file system arrives as an fsync of the file. No page cache lies between: the loop
//! device goes around it (direct I/O), and so does the file (FOPEN_DIRECT_IO).
//!
//! This process touches nothing on the mounted file system, for it would wait for itself: others do that, `mount` included. All
//! mounts lie in a mount namespace of its own ([`Space`]), so that nothing is left of them, however the process ends.

mod cache;
mod medium;
mod served;
mod space;

pub use cache::Style;
pub use medium::Medium;
pub use served::{Event, Fault, Served, Shot, When};
pub use space::{can_serve, FileSystem, Space};

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A disk with a mounted file system.
///
/// Dropping it takes everything away; what the disk holds is lost unless it was taken before.
#[derive(Debug)]
pub struct Disk {
    // In the order in which they have to go.
    mounted: Option<Mounted>,
    served: Served,
    dir: PathBuf,
}

impl Disk {
    /// Serves `medium`, and mounts the file system that is on it. None: it does not mount, for this reason.
    pub fn mount(space: &Space, medium: Medium, kind: FileSystem) -> Result<Result<Disk, String>> {
        let served = Served::start(&space.path("disk"), medium, kind.sector())?;
        let dir = space.path("mnt");
        std::fs::create_dir_all(&dir)?;
        Ok(match Mounted::new(served.file(), &dir, kind) {
            Ok(mounted) => Ok(Disk { mounted: Some(mounted), served, dir }),
            Err(error) => Err(format!("{error:#}")),
        })
    }

    /// Where the log lies on it: for other processes. Its parent is not there before the log is.
    pub fn log_dir(&self) -> PathBuf {
        self.dir.join("a/log")
    }

    pub fn served(&self) -> &Served {
        &self.served
    }

    /// Unmounts it in good order; what the disk holds then.
    pub fn unmount(mut self) -> Result<Medium> {
        self.mounted = None;
        self.served.end()
    }
}

/// A mounted file system.
#[derive(Debug)]
struct Mounted {
    dir: PathBuf,
}

/// Attaches a loop device to a file and mounts it, in one process that a signal to this one does not end half way. The device is
/// detached while it is held open, so that it goes with whoever holds it last: the mount, or, if there is none, the script.
const ATTACH_AND_MOUNT: &str = r#"
    trap "" INT TERM
    device=$(losetup --find --show --direct-io=on --sector-size "$1" "$2") && exec 3<"$device" &&
    losetup --detach "$device" && mount -t "$3" -o "$4" "$device" "$5"
"#;

impl Mounted {
    fn new(file: &Path, dir: &Path, kind: FileSystem) -> Result<Mounted> {
        kind.forget_earlier()?;
        let mut sh = Command::new("sh");
        sh.args(["-c", ATTACH_AND_MOUNT, "mount", &kind.sector().to_string()]);
        run(sh.arg(file).args([kind.name(), kind.mount_options()]).arg(dir))?;
        Ok(Mounted { dir: dir.to_owned() })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A process that was just killed may still be about to let go of it.
        for _ in 0..100 {
            if run(Command::new("umount").arg(&self.dir)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.dir));
    }
}

/// Runs a program; what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let program = command.get_program().to_string_lossy();
    anyhow::ensure!(output.status.success(), "{program}: {}: {}", output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sees that nothing stands between the file system and the disk: what was written and not synced is not durable, and what was
    /// synced is, by the flush alone.
    #[test]
    fn a_sync_of_the_file_system_is_a_flush_of_the_disk() {
        if !can_serve().unwrap_or(false) {
            println!("skipped: no disk can be served here");
            return;
        }
        let space = Space::enter().unwrap();
        for kind in FileSystem::at_hand() {
            let medium = kind.make(&space).unwrap();
            let disk = Disk::mount(&space, medium, kind).unwrap().unwrap();
            let dir = disk.dir.clone();
            let sh = |script: &str| run(Command::new("sh").args(["-c", script]).current_dir(&dir)).unwrap();
            let marker = format!("a marker for {} that no file system would write", kind.name());
            let is_durable = |marker: &str| {
                let medium = disk.served().freeze().with(Style::None, &mut crate::rng::Rng::new(1));
                let mut bytes = vec![0; medium.len() as usize];
                medium.read(0, &mut bytes);
                bytes.windows(marker.len()).any(|window| window == marker.as_bytes())
            };
            sh(&format!("for i in $(seq 200); do echo {marker}; done >file; sync file"));
            assert!(is_durable(&marker), "{kind:?}: what was synced is durable");
            let before = disk.served().counts();
            let second = marker.replace("marker", "second");
            sh(&format!("for i in $(seq 200); do echo {second}; done >file2"));
            assert!(!is_durable(&second), "{kind:?}: nobody synced");
            sh("sync file2");
            let after = disk.served().counts();
            assert!(is_durable(&second), "{kind:?}: what was synced is durable");
            assert!(after.writes > before.writes && after.flushes > before.flushes, "{kind:?}: {before:?} {after:?}");
            disk.served().lie();
            let third = marker.replace("marker", "third");
            sh(&format!("for i in $(seq 200); do echo {third}; done >file3; sync file3"));
            assert!(!is_durable(&third), "{kind:?}: the disk lies");
        }
    }
}
