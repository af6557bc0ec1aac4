//! The end of every harness on a disk: the log on a medium is opened by another process, judged, and used.

use crate::disk::{Disk, FileSystem, Medium, Space};
use crate::ledger::Ledger;
use crate::oracle::{Expect, Story};
use crate::writer::Writer;
use anyhow::Result;

/// A log that stands on a disk.
#[derive(Debug, Clone, Copy)]
pub struct OnDisk<'s> {
    pub space: &'s Space,
    pub kind: FileSystem,
    /// The log's number.
    pub run: u32,
}

impl OnDisk<'_> {
    /// A writer of it that only checks.
    pub fn checker(&self, disk: &Disk, life: u32) -> Writer {
        Writer {
            dir: disk.log_dir(),
            ledger: self.space.path("ledger"),
            run: self.run,
            life,
            seed: 0,
            check: true,
            write_back: false,
            kill: None,
        }
    }

    /// Mounts the medium; Err: why the file system does not.
    pub fn mount(&self, medium: Medium) -> Result<Result<Disk, String>> {
        Disk::mount(self.space, medium, self.kind)
    }

    /// Has the log on `disk` opened, judges what is found, and sees that it can be used.
    ///
    /// # Errors
    /// If it is not what may be, or cannot.
    pub fn check(&self, disk: Disk, life: u32, expect: Expect) -> Result<()> {
        let ledger = Ledger::create(&self.space.path("ledger"))?;
        let checked = self.checker(&disk, life).start()?.wait();
        drop(disk);
        Story::read(&ledger.read_from(0)?, expect, self.run)?;
        checked
    }
}
