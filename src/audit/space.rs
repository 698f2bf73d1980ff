//! How much room the log's file system has, and what follows from it. Looked at about once a second by the journal's watcher,
//! so that a request only reads a number. Source: audit.md §7.3, the disk ladder.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{AuditError, Settings, files};

/// What a request is, when room is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Uses a key: what there is plenty of, and what a caller can send again.
    DataPlane,
    /// Manages the instance or reads the log: what somebody needs who makes room.
    Administration,
}

/// The line to a warning was crossed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crossed {
    Low,
    Enough,
}

/// Room is enough again only above the line by this share, so that a file system at the line is not told of each second.
const MARGIN: f64 = 0.01;

#[derive(Debug)]
pub(super) struct Space {
    dir: PathBuf,
    refuse_below: f64,
    warn_below: f64,
    reserve_bytes: u64,
    /// Free share, as bits of an `f64`.
    free: AtomicU64,
    low: AtomicBool,
    /// The reserve was used: nothing new is begun until there is room.
    spent: AtomicBool,
    reserve: Mutex<Reserve>,
}

#[derive(Debug, PartialEq, Eq)]
enum Reserve {
    Held,
    None,
    /// Said once that there is no room for it.
    Missed,
}

impl Space {
    pub fn new(settings: &Settings) -> Space {
        let space = Space {
            dir: settings.dir.clone(),
            refuse_below: settings.refuse_below_free,
            warn_below: settings.warn_below_free,
            reserve_bytes: settings.reserve_bytes,
            free: AtomicU64::new(1f64.to_bits()),
            low: AtomicBool::new(false),
            spent: AtomicBool::new(false),
            reserve: Mutex::new(Reserve::None),
        };
        space.look();
        space
    }

    /// Looks once; says whether the line to a warning has been crossed.
    pub fn look(&self) -> Option<Crossed> {
        let facts = match rustix::fs::statvfs(&self.dir) {
            Ok(facts) if facts.f_blocks > 0 => facts,
            Ok(_) => return None,
            Err(error) => {
                tracing::warn!(%error, dir = %self.dir.display(), "free space of the audit log is unknown");
                return None;
            }
        };
        let free = facts.f_bavail as f64 / facts.f_blocks as f64;
        self.free.store(free.to_bits(), Ordering::Relaxed);
        let bytes = facts.f_bavail.saturating_mul(facts.f_frsize);
        if self.spent.load(Ordering::Relaxed) && free >= self.refuse_below && bytes >= self.reserve_bytes {
            tracing::warn!(dir = %self.dir.display(), "there is room for the audit log again");
            self.spent.store(false, Ordering::Relaxed);
        }
        let low = self.low.load(Ordering::Relaxed);
        if !low && free < self.warn_below {
            Some(Crossed::Low)
        } else if low && free >= self.warn_below + MARGIN {
            Some(Crossed::Enough)
        } else {
            None
        }
    }

    /// The crossing has been recorded.
    pub fn crossed(&self, crossed: Crossed) {
        self.low.store(crossed == Crossed::Low, Ordering::Relaxed);
    }

    /// Below the line to a warning, for the metrics.
    pub fn is_low(&self) -> bool {
        self.low.load(Ordering::Relaxed)
    }

    pub fn free(&self) -> f64 {
        f64::from_bits(self.free.load(Ordering::Relaxed))
    }

    /// Room enough for what uses keys.
    pub fn check(&self) -> Result<(), AuditError> {
        if self.free() >= self.refuse_below {
            return Ok(());
        }
        let percent = (self.refuse_below * 100.0).round() as u32;
        Err(AuditError::LowSpace { dir: self.dir.clone(), percent })
    }

    pub fn admit(&self, load: Load) -> Result<(), AuditError> {
        if self.spent.load(Ordering::Relaxed) {
            return Err(AuditError::NoSpace { dir: self.dir.clone() });
        }
        match load {
            Load::DataPlane => self.check(),
            Load::Administration => Ok(()),
        }
    }

    /// Makes the reserve where it is missing and leaves room enough.
    pub fn keep_reserve(&self) {
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        if *reserve == Reserve::Held || self.reserve_bytes == 0 || self.spent.load(Ordering::Relaxed) {
            return;
        }
        if files::has_reserve(&self.dir, self.reserve_bytes) {
            *reserve = Reserve::Held;
            return;
        }
        let left = match rustix::fs::statvfs(&self.dir) {
            Ok(facts) if facts.f_blocks > 0 => {
                let total = facts.f_blocks as f64 * facts.f_frsize as f64;
                (facts.f_bavail as f64 * facts.f_frsize as f64 - self.reserve_bytes as f64) / total
            }
            _ => return,
        };
        // One that takes the last room would do harm instead of good.
        let made = if left > self.refuse_below {
            files::make_reserve(&self.dir, self.reserve_bytes).map_err(|error| error.to_string())
        } else {
            Err("there is no room for it".to_string())
        };
        match made {
            Ok(()) => *reserve = Reserve::Held,
            Err(error) if *reserve != Reserve::Missed => {
                tracing::warn!(error, dir = %self.dir.display(), "the audit log has no reserve for a full disk");
                *reserve = Reserve::Missed;
            }
            Err(_) => {}
        }
    }

    /// Gives the reserve to the last records. Says whether there was one.
    pub fn release_reserve(&self) -> bool {
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        if !files::release_reserve(&self.dir) {
            return false;
        }
        *reserve = Reserve::None;
        self.spent.store(true, Ordering::Relaxed);
        tracing::error!(dir = %self.dir.display(), "no space for the audit log: its reserve is used, nothing new is begun");
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::tests::settings;

    #[test]
    fn each_line_is_told_of_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut space = Space::new(&Settings { warn_below_free: 1.01, ..settings(dir.path()) });
        assert!(!space.is_low());
        // Until it has been recorded.
        assert_eq!((space.look(), space.look()), (Some(Crossed::Low), Some(Crossed::Low)));
        space.crossed(Crossed::Low);
        assert_eq!((space.look(), space.is_low()), (None, true));
        space.warn_below = space.free() - MARGIN / 2.0;
        assert_eq!(space.look(), None);
        space.warn_below = 0.0;
        space.free.store(MARGIN.to_bits(), Ordering::Relaxed);
        assert_eq!(space.look(), Some(Crossed::Enough));
        space.crossed(Crossed::Enough);
        assert_eq!((space.look(), space.is_low()), (None, false));
    }

    #[test]
    fn the_reserve_is_given_up_once_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("RESERVE");
        let space = Space::new(&Settings { reserve_bytes: 1 << 20, ..settings(dir.path()) });
        assert!(!space.release_reserve());
        space.admit(Load::DataPlane).unwrap();
        space.keep_reserve();
        use std::os::unix::fs::MetadataExt;
        let facts = file.metadata().unwrap();
        assert_eq!(facts.len(), 1 << 20);
        assert!(facts.blocks() * 512 >= 1 << 20, "it takes no room: {} blocks", facts.blocks());
        assert!(space.release_reserve());
        assert!(!file.exists());
        // Nothing new is begun, and what is left of the room is not taken back.
        for load in [Load::DataPlane, Load::Administration] {
            assert!(matches!(space.admit(load), Err(AuditError::NoSpace { .. })));
        }
        space.keep_reserve();
        assert!(!file.exists() && !space.release_reserve());
        // There is room again.
        space.look();
        space.admit(Load::DataPlane).unwrap();
        space.keep_reserve();
        assert!(file.exists());
        // A later run takes over what is there.
        let space = Space::new(&Settings { reserve_bytes: 1 << 20, ..settings(dir.path()) });
        space.keep_reserve();
        assert!(space.release_reserve());
    }

    #[test]
    fn a_reserve_never_takes_the_last_room() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::new(&Settings { reserve_bytes: 1 << 20, refuse_below_free: 1.0, ..settings(dir.path()) });
        space.keep_reserve();
        assert!(!dir.path().join("RESERVE").exists());
        space.admit(Load::Administration).unwrap();
        assert!(matches!(space.admit(Load::DataPlane), Err(AuditError::LowSpace { .. })));
    }
}
