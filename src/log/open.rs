//! Opening: from options and a directory to a log that runs.

use super::upkeep::{Planned, Upkeep};
use super::Inner;
use crate::error::{Damage, DamageKind, Error, Result};
use crate::format::frame::Seed;
use crate::format::manifest::Manifest;
use crate::format::segment::Predecessor;
use crate::options::{Options, RecoveryMode, SyncPolicy};
use crate::read::walk::OnDamage;
use crate::recover::report::RecoveryReport;
use crate::recover::{self, Kept, Piece, Recovered};
use crate::segment::active::{Active, Backing};
use crate::segment::health::Health;
use crate::segment::keeper::{Blueprint, Duties, Keeper};
use crate::segment::manifest::{self, ManifestFile};
use crate::segment::offsets::Offsets;
use crate::segment::paths::{Name, Paths};
use crate::segment::sealed::Segment;
use crate::segment::set::{Slot, Slots};
use crate::sys::file::{self, File, ZeroChunk};
use crate::sys::lock::{DirLock, ReadersLease};
use crate::sys::map::{Extent, Writer, WrittenBy};
use crate::sys::random_u64;
use crate::sys::sync::{AtomicBool, Instant, Mutex, OnceLock};
use crate::write::appender::{Appender, Start};
use crate::write::batch::Intake;
use crate::write::cursor::{self, Cursor};
use crate::write::reentry;
use crate::write::ticker::Ticker;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub(super) fn open(options: &Options, dir: &Path) -> Result<Arc<Inner>> {
    let paths = Paths::new(dir);
    prepare_dir(options, &paths)?;
    let lock = DirLock::acquire(&paths.lock)?;
    let (lease, alone) = ReadersLease::acquire(&paths.readers)?;
    let health = Arc::new(Health::default());
    let started = Instant::now();

    let (mut manifest, mut recovered) = match manifest::find(&paths.manifest)? {
        None => {
            let manifest = create(&paths, &health)?;
            let recovered = recover::recover(options, &paths, manifest.current(), &lease, alone)?;
            let report = RecoveryReport { clean: true, ..recovered.report };
            (manifest, Recovered { report, ..recovered })
        }
        Some(found) => {
            let mut recovered = recover::recover(options, &paths, &found.manifest, &lease, alone)?;
            recovered.report.notes.extend(found.broken.clone());
            (ManifestFile::adopt(&paths, found, &health)?, recovered)
        }
    };
    let log_id = manifest.current().log_id;
    let salvaged = options.recovery == RecoveryMode::Salvage;
    let all_durable = (recovered.next_seq - 1, recovered.mark);
    let (plan, (durable_seq, mark)) = if salvaged {
        let (durable_seq, mark) = all_durable;
        let proven = manifest.current().durable_seq().min(durable_seq);
        (Some(Planned { plan: recovered.plan, durable_seq, mark }), (proven, None))
    } else {
        recovered.plan.carry_out(&paths, &mut manifest)?;
        (None, all_durable)
    };
    recovered.report.duration = started.elapsed();

    let blueprint = Blueprint {
        paths: paths.clone(),
        log_id,
        segment_size: options.segment_size,
        chunk: if options.sync_policy == SyncPolicy::Immediate { ZeroChunk::Small } else { ZeroChunk::Large },
        lease: Arc::clone(&lease),
        health: Arc::clone(&health),
    };
    let keeper = Keeper::new(blueprint, recovered.next_id);
    let appendable = recovered.appendable && !salvaged;
    let (slots, active) = slots(recovered.pieces, recovered.first_seq, appendable, &lease, &health)?;
    let cursor = Cursor::new(cursor::Start {
        predecessor: predecessor(&slots, active.as_ref()),
        active,
        next_seq: recovered.next_seq,
        next_id: recovered.next_id,
        last_timestamp_ms: recovered.last_timestamp_ms,
    });
    let start = Start {
        cursor,
        slots,
        durable_seq,
        mark,
        writers_max: options.max_concurrent_writes,
        intake: Intake::new(options),
        policy: options.sync_policy,
        log: reentry::new_log(),
    };
    let losses = recovered.report.losses.clone();
    let inner = Arc::new(Inner {
        appender: Arc::new(Appender::new(start, keeper, health, lease)),
        planned: AtomicBool::new(plan.is_some()),
        upkeep: Mutex::new(Upkeep::new(manifest, plan, losses)),
        paths,
        report: recovered.report,
        on_damage: if salvaged { OnDamage::Skip } else { OnDamage::End },
        ticker: Mutex::new(None),
        lock: Mutex::new(Some(lock)),
    });
    start_threads(options, &inner).map(|()| Arc::clone(&inner)).map_err(|error| {
        let _ = inner.close();
        error
    })
}

fn start_threads(options: &Options, inner: &Arc<Inner>) -> Result<()> {
    inner.appender.keeper.start(Arc::clone(inner) as Arc<dyn Duties>)?;
    if let SyncPolicy::Interval(interval) = options.sync_policy {
        let ticking = Arc::clone(inner);
        let tick = move || {
            let appender = &ticking.appender;
            if appender.next_seq() > appender.group.durable_seq() + 1 {
                // A failure has poisoned the log, and the next call on it says so.
                let _ = ticking.sync();
            }
        };
        *inner.ticker.lock() = Some(Ticker::start(&inner.paths.dir, interval, tick)?);
    }
    Ok(())
}

/// Makes the directories if they may be made; names what is in the way.
fn prepare_dir(options: &Options, paths: &Paths) -> Result<()> {
    if file::is_dir(&paths.dir)? == Some(false) {
        return Err(Error::NotALog { path: paths.dir.clone() });
    }
    if options.create {
        return file::create_dir_all(&paths.dir);
    }
    match file::list(&paths.dir)? {
        None => Err(Error::io("open", &paths.dir, io::ErrorKind::NotFound.into())),
        // Without a manifest, and without leave to make one: said before a lock file is made.
        Some(_) => match paths.manifest.try_exists() {
            Ok(true) => Ok(()),
            Ok(false) => Err(without_manifest(paths)?),
            Err(error) => Err(Error::io("open", &paths.manifest, error)),
        },
    }
}

/// What a directory without a manifest is: a damaged log if there are segments, else no log.
fn without_manifest(paths: &Paths) -> Result<Error> {
    let names = file::list(&paths.segments)?.unwrap_or_default();
    let has_segments = names.iter().any(|path| matches!(Paths::name(path), Name::Segment { .. }));
    Ok(if has_segments {
        Error::damaged(Damage { path: paths.manifest.clone(), bytes: 0..0, seqs: 0..0, kind: DamageKind::Missing })
    } else {
        Error::NotALog { path: paths.dir.clone() }
    })
}

/// Makes a new log. A crash at any step leaves no log, or this one: the manifest comes last, and segments come after it.
fn create(paths: &Paths, health: &Arc<Health>) -> Result<ManifestFile> {
    if let error @ Error::Damaged { .. } = without_manifest(paths)? {
        return Err(error);
    }
    for dir in [&paths.segments, &paths.checkpoints, &paths.metadata] {
        file::create_dir_all(dir)?;
    }
    let mut log_id = [0; 16];
    log_id[..8].copy_from_slice(&random_u64().to_le_bytes());
    log_id[8..].copy_from_slice(&random_u64().to_le_bytes());
    ManifestFile::create(paths, Manifest::new(log_id), health)
}

/// The recovered order as a set of segments, and the last of them as the active one if it may be appended to.
fn slots(
    pieces: Vec<Piece>,
    first_seq: u64,
    appendable: bool,
    lease: &Arc<ReadersLease>,
    health: &Arc<Health>,
) -> Result<(Slots, Option<Active>)> {
    let mut list = Vec::with_capacity(pieces.len());
    let last = pieces.len().wrapping_sub(1);
    let mut active = None;
    for (index, piece) in pieces.into_iter().enumerate() {
        let kept = match piece {
            Piece::Segment(kept) => kept,
            Piece::Lost(damage) => {
                list.push(Slot::Lost(Arc::new(damage)));
                continue;
            }
        };
        if appendable && index == last {
            active = reopen(&kept, lease, health)?;
        }
        list.push(match &active {
            Some(active) => Slot::Segment { segment: Arc::clone(&active.segment), end: None },
            None => {
                let end = kept.end.offset;
                let extent = Extent::new(&kept.path, kept.file_len, end, kept.file_len)?;
                let segment = Arc::new(segment(&kept, extent, None, lease));
                Slot::Segment { segment, end: Some(kept.end) }
            }
        });
    }
    Ok((Slots::new(list, first_seq), active))
}

/// A segment of an earlier run.
fn segment(kept: &Kept, extent: Arc<Extent>, backing: Option<Arc<Backing>>, lease: &Arc<ReadersLease>) -> Segment {
    Segment {
        id: kept.id,
        path: kept.path.as_path().into(),
        base_seq: kept.base_seq,
        base_offset: kept.base_offset,
        seed: Seed::new(kept.salt),
        mapped_len: kept.file_len,
        extent,
        written_by: WrittenBy::EarlierRun { below: kept.end.offset },
        lease: Arc::clone(lease),
        map: OnceLock::new(),
        mapping: Mutex::new(()),
        offsets: Offsets::default(),
        backing,
    }
}

/// The last segment of a log that was closed properly, to append to: nothing lies past its end. None if stores into its file may need
/// space although it has blocks: then appends go to a new one.
///
/// Stores may go into the page that holds the end, which is read here, and by a call that returns an error. What lies behind it is
/// taken for a file that has still to grow: zeros are written there before appends come, so that no store has to read a page from a
/// bad disk, or to find a block for a hole that a copying tool has made.
fn reopen(kept: &Kept, lease: &Arc<ReadersLease>, health: &Arc<Health>) -> Result<Option<Active>> {
    const PAGE: u64 = 4096;
    let (len, end) = (kept.file_len, kept.end.offset);
    let capacity = end.next_multiple_of(PAGE).min(len);
    let file = File::open_write(&kept.path)?;
    if file.is_copied_on_write() {
        return Ok(None);
    }
    file.advise_random(); // large folios would make every small store dirty much
    file.read_at(&mut [0; PAGE as usize], end / PAGE * PAGE)?;
    let extent = Extent::new(&kept.path, len, end, capacity)?;
    let writer = Writer::map(&file, len, &extent)?;
    let file = Arc::new(file);
    let backing = Arc::new(Backing::new(kept.id, &file, &writer, &extent, len, health));
    let segment = segment(kept, extent, Some(Arc::clone(&backing)), lease);
    Ok(Some(Active { writer, file, segment: Arc::new(segment), backing }))
}

/// Where the last segment before the active one ends.
fn predecessor(slots: &Slots, active: Option<&Active>) -> Option<Predecessor> {
    let ended = slots.list().iter().rev().find_map(|slot| match slot {
        Slot::Segment { segment, end: Some(end) } => Some((segment.id, *end)),
        _ => None,
    });
    let active_id = active.map_or(u64::MAX, |active| active.segment.id);
    let (id, end) = ended.filter(|(id, _)| *id < active_id)?;
    Some(Predecessor { id, end_seq: end.seq - 1, end_offset: end.offset })
}
