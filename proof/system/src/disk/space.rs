//! Where the harness mounts what it mounts, and the file systems that it makes.

use super::medium::Medium;
use super::run;
use anyhow::{bail, ensure, Context, Result};
use nix::mount::{mount, MsFlags};
use nix::sched::{unshare, CloneFlags};
use nix::unistd::{Gid, Uid};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;

/// Whether a disk can be served here. Where there is FUSE, it has to be.
///
/// # Errors
/// If there is FUSE, and this process may not mount.
pub fn can_serve() -> Result<bool> {
    let has_fuse = Path::new("/dev/fuse").exists();
    ensure!(!has_fuse || Uid::effective().is_root(), "not root, who alone may mount");
    Ok(has_fuse)
}

/// A mount namespace of this process and its children, with a tmpfs to work in.
///
/// It ends with the last of them, and takes all mounts along: after a panic, a signal or a kill there is nothing to clean up, and
/// nobody else ever saw them. Loop devices are gone with what is mounted on them.
#[derive(Debug)]
pub struct Space {
    root: PathBuf,
    /// The last process of the namespace, in whose exit the kernel unmounts. It must not be the one that serves the disk, which would
    /// wait for itself. This one reads from a pipe until that one is gone; no signal to their group ends it.
    _last: Child,
}

impl Space {
    /// Has this thread, and those that it starts, work in a namespace of their own. Whoever is not root becomes it there, and may mount
    /// what lives in memory.
    pub fn enter() -> Result<Space> {
        let (uid, gid) = (Uid::effective(), Gid::effective());
        let root = std::env::temp_dir().join(format!("maplog-proof-{uid}"));
        std::fs::create_dir_all(&root)?;
        if uid.is_root() {
            unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
        } else {
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).context("a user and a mount namespace")?;
            std::fs::write("/proc/self/setgroups", "deny")?;
            std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
            std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
        }
        let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        mount(none, "/", none, private, none).context("private mounts")?;
        mount(Some("tmpfs"), &root, Some("tmpfs"), MsFlags::empty(), none).context("a tmpfs")?;
        let mut last = Command::new("cat");
        let last = last.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0).spawn().context("cat")?;
        Ok(Space { root, _last: last })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

/// A file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
}

const ALL: [FileSystem; 3] = [FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs];

impl FromStr for FileSystem {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<FileSystem> {
        match ALL.iter().find(|kind| kind.name() == name) {
            Some(kind) => Ok(*kind),
            None => bail!("{name} is none of ext4, xfs, btrfs"),
        }
    }
}

impl FileSystem {
    /// Those that can be made here.
    #[cfg(test)]
    pub fn at_hand() -> impl Iterator<Item = FileSystem> {
        let makes = |kind: &FileSystem| run(Command::new(format!("mkfs.{}", kind.name())).arg("-V")).is_ok();
        ALL.into_iter().filter(makes)
    }

    pub fn name(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "ext4",
            FileSystem::Xfs => "xfs",
            FileSystem::Btrfs => "btrfs",
        }
    }

    /// A disk with an empty one. The sizes are about the least that each takes.
    pub fn make(self, space: &Space) -> Result<Medium> {
        let (size_mib, options): (u64, &[&str]) = match self {
            FileSystem::Ext4 => (96, &["-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"]),
            FileSystem::Xfs => (320, &["-q", "-K", "-s", "size=4096"]),
            FileSystem::Btrfs => (192, &["-q", "-K"]),
        };
        let path = space.path("new");
        File::create(&path)?.set_len(size_mib << 20)?;
        run(Command::new(format!("mkfs.{}", self.name())).args(options).arg(&path))?;
        let medium = Medium::load(&path)?;
        std::fs::remove_file(path)?;
        Ok(medium)
    }

    /// Bytes of a sector of its disk. btrfs takes for granted that its superblock of 4 KiB is written as a whole, and xfs that a
    /// directory's block is: where they are torn, they do not mount.
    pub(super) fn sector(self) -> usize {
        match self {
            FileSystem::Ext4 => 512,
            FileSystem::Xfs | FileSystem::Btrfs => 4096,
        }
    }

    pub(super) fn mount_options(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "noatime",
            // The disk has no discard.
            FileSystem::Btrfs => "noatime,nodiscard",
            FileSystem::Xfs => "noatime,nouuid",
        }
    }

    /// btrfs remembers what it mounted, and refuses an older state of it.
    pub(super) fn forget_earlier(self) -> Result<()> {
        if self == FileSystem::Btrfs {
            run(Command::new("btrfs").args(["device", "scan", "--forget"]))?;
        }
        Ok(())
    }
}
