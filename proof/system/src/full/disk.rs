//! Small file systems, and how they are filled.
//!
//! They are mounted on loop devices that go with the last mount, over files that have lost their names.

use crate::disk::run;
use anyhow::Result;
use nix::unistd::Uid;
use rustix::fs::{fallocate, FallocateFlags};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// What fills up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scarce {
    Blocks,
    /// There is space, but no file can be made.
    Files,
    /// There is space in files, but none for what the file system itself has to write down.
    Metadata,
}

/// A kind of file system.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    pub scarce: Scarce,
    /// The program that makes it, with its options; none: it lives in memory.
    mkfs: &'static [&'static str],
    mount_options: &'static str,
    size: u64,
    /// Files are to be compressed, which goes against being written in place.
    is_compressed: bool,
    /// One of so many cases is worth its time.
    pub sample: usize,
}

const MIB: u64 = 1 << 20;
/// What a case has of blocks, or of metadata in the form of files.
const BYTES: u64 = 24 * MIB;
const FILES: u64 = 4000;
/// A file so short takes no block on btrfs: it is metadata.
const INLINE: usize = 2000;

pub const KINDS: [Kind; 8] = [
    Kind { name: "tmpfs", mount_options: "size=32m", ..MEMORY },
    Kind { name: "tmpfs-files", scarce: Scarce::Files, mount_options: "size=64m,nr_inodes=64", ..MEMORY },
    Kind { name: "ext4", ..EXT4 },
    Kind { name: "ext4-files", scarce: Scarce::Files, mkfs: &["mkfs.ext4", "-q", "-m", "0", "-N", "64"], ..EXT4 },
    Kind { name: "xfs", mkfs: &["mkfs.xfs", "-q"], size: 320 * MIB, ..EXT4 },
    Kind { name: "btrfs", ..BTRFS },
    Kind { name: "btrfs-compressed", mount_options: "loop,compress-force", is_compressed: true, ..BTRFS },
    // It takes its time to find out that it is full: a sample will do.
    Kind { name: "btrfs-metadata", scarce: Scarce::Metadata, sample: 41, ..BTRFS },
];

const MEMORY: Kind =
    Kind { name: "", scarce: Scarce::Blocks, mkfs: &[], mount_options: "", size: 0, is_compressed: false, sample: 1 };
const EXT4: Kind = Kind { mkfs: &["mkfs.ext4", "-q", "-m", "0"], mount_options: "loop", size: 64 * MIB, ..MEMORY };
const BTRFS: Kind = Kind { mkfs: &["mkfs.btrfs", "-q", "-m", "single", "-d", "single"], size: 160 * MIB, ..EXT4 };

/// A file system that is mounted, and what fills it.
pub struct Disk {
    kind: Kind,
    root: PathBuf,
    /// What was free when nothing was there.
    free: Free,
}

#[derive(Debug, Clone, Copy)]
struct Free {
    bytes: u64,
    files: u64,
}

impl Kind {
    /// Whether there can be such a disk here: if not, why.
    pub fn why_not(&self) -> Option<String> {
        let program = self.mkfs.first()?;
        if !Uid::effective().is_root() || !Path::new("/dev/loop-control").exists() {
            return Some("no loop device for this user".to_owned());
        }
        Command::new(program).arg("-V").output().err().map(|error| format!("{program}: {error}"))
    }
}

impl Disk {
    /// Makes and mounts a file system of this kind below `scratch`.
    pub fn mount(kind: Kind, scratch: &Path) -> Result<Disk> {
        let root = scratch.join(kind.name);
        fs::create_dir(&root)?;
        match kind.mkfs.split_first() {
            None => {
                run(Command::new("mount").args(["-t", "tmpfs", "-o", kind.mount_options, "tmpfs"]).arg(&root))?;
            }
            Some((program, options)) => {
                let image = root.with_extension("image");
                File::create(&image)?.set_len(kind.size)?;
                run(Command::new(program).args(options).arg(&image))?;
                run(Command::new("mount").args(["-o", kind.mount_options]).arg(&image).arg(&root))?;
                fs::remove_file(&image)?;
            }
        }
        let mut disk = Disk { kind, root, free: Free { bytes: 0, files: 0 } };
        if kind.is_compressed {
            // Inherited by all that is made below it.
            let dir = File::open(&disk.root)?;
            let flags = rustix::fs::ioctl_getflags(&dir)?;
            rustix::fs::ioctl_setflags(&dir, flags | rustix::fs::IFlags::COMPRESSED)?;
        }
        disk.shrink()?;
        disk.free = disk.free_now()?;
        Ok(disk)
    }

    /// A directory for a log.
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// What is taken from all cases.
    fn fixed(&self) -> PathBuf {
        self.root.join("fixed")
    }

    /// What is taken from one.
    fn filler(&self) -> PathBuf {
        self.root.join("filler")
    }

    /// Takes away what no case needs: a disk with less free space fills faster.
    fn shrink(&self) -> Result<()> {
        fs::create_dir(self.fixed())?;
        fs::create_dir(self.filler())?;
        if self.kind.name.starts_with("btrfs") {
            // A disk that was used has space for metadata. What there is of it now is hardly enough to make a directory.
            let count = make_files(&self.fixed(), 0, INLINE, 8000);
            self.sync()?;
            // A few of them keep it in this use.
            (0..count).filter(|number| number % 100 > 0).try_for_each(|number| remove_file(&self.fixed(), number))?;
            self.sync()?;
        }
        if self.kind.scarce != Scarce::Files {
            // All of it first: what is given back then serves for nothing but files.
            let file = File::create(self.fixed().join("blocks"))?;
            take_all(&file)?;
            file.set_len(file.metadata()?.len().saturating_sub(BYTES))?;
            self.sync()?;
        }
        if self.kind.scarce == Scarce::Metadata {
            let count = make_files(&self.fixed(), 8000, INLINE, u64::MAX);
            (count.saturating_sub(FILES)..count).try_for_each(|number| remove_file(&self.fixed(), 8000 + number))?;
        }
        self.sync()
    }

    /// Fills the disk, but for what `leave` says: bytes, or so many files of them.
    pub fn fill(&self, leave: u64) -> Result<()> {
        match self.kind.scarce {
            Scarce::Blocks => self.fill_blocks(leave),
            Scarce::Files => self.fill_files(0, leave / (64 << 10)),
            Scarce::Metadata => self.fill_files(INLINE, leave / 4096),
        }
    }

    fn fill_blocks(&self, leave: u64) -> Result<()> {
        let left = self.filler().join("left");
        if leave > 0 {
            fallocate(File::create(&left)?, FallocateFlags::empty(), 0, leave)?;
        }
        let path = self.filler().join("blocks");
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
        // Twice: some file systems give back what they had set aside only with a sync.
        for _ in 0..2 {
            self.sync()?;
            take_all(&file)?;
        }
        // What is left is less than a block, or reserved: a write has the last word.
        let len = file.metadata()?.len();
        let mut at = len;
        while at < len + MIB && file.write_all_at(&[1; 4096], at).is_ok() {
            at += 4096;
        }
        if leave > 0 {
            self.sync()?;
            fs::remove_file(left)?;
        }
        self.sync()
    }

    fn fill_files(&self, len: usize, leave: u64) -> Result<()> {
        let mut count = fs::read_dir(self.filler())?.count() as u64;
        for _ in 0..2 {
            count += make_files(&self.filler(), count, len, u64::MAX);
            self.sync()?;
        }
        (count.saturating_sub(leave)..count).try_for_each(|number| remove_file(&self.filler(), number))?;
        self.sync()
    }

    /// Gives back what was filled, and waits until it is there: file systems take their time to do so.
    pub fn free(&self) -> Result<()> {
        for entry in fs::read_dir(self.filler())? {
            fs::remove_file(entry?.path())?;
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            self.sync()?;
            if self.is_back()? || Instant::now() > deadline {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_back(&self) -> Result<bool> {
        let Free { bytes, files } = self.free_now()?;
        if self.kind.scarce == Scarce::Metadata {
            // Of metadata nobody says how much is free.
            let count = make_files(&self.filler(), 0, INLINE, FILES / 5);
            (0..count).try_for_each(|number| remove_file(&self.filler(), number))?;
            self.sync()?;
            return Ok(count == FILES / 5);
        }
        Ok(bytes >= self.free.bytes / 2 && files >= self.free.files / 2)
    }

    fn free_now(&self) -> Result<Free> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(Free { bytes: stat.f_bavail * stat.f_frsize, files: stat.f_favail })
    }

    /// As after mounting.
    pub fn clear(&self) -> Result<()> {
        self.free()?;
        if self.log().exists() {
            fs::remove_dir_all(self.log())?;
        }
        self.sync()
    }

    fn sync(&self) -> Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.root)?)?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Where it does not work, the end of the namespace does.
        let _ = run(Command::new("umount").arg(&self.root));
    }
}

/// Makes files of `len` bytes, numbered from `first` on, at most `count`, and as many as there is space for; their number.
fn make_files(dir: &Path, first: u64, len: usize, count: u64) -> u64 {
    // Nothing that could be compressed.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        random = random.rotate_left(17).wrapping_mul(0xd134_2543_de82_ef95);
        (random >> 56) as u8
    })
    .take(len)
    .collect();
    for made in 0..count {
        let path = dir.join((first + made).to_string());
        if fs::write(&path, &bytes).is_err() {
            let _ = fs::remove_file(&path);
            return made;
        }
    }
    count
}

fn remove_file(dir: &Path, number: u64) -> std::io::Result<()> {
    fs::remove_file(dir.join(number.to_string()))
}

/// Extends a file until there is no space.
fn take_all(file: &File) -> Result<()> {
    let mut step = 16 * MIB;
    while step >= 4096 {
        let len = file.metadata()?.len();
        if fallocate(file, FallocateFlags::empty(), len, step).is_err() {
            // A failed attempt may have made the file longer.
            if file.metadata()?.len() > len {
                file.set_len(len)?;
            }
            step /= 2;
        }
    }
    Ok(())
}
