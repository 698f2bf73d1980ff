//! How much room the log's file system has. Looked at about once a second by the journal's watcher, so that a request only
//! reads a number.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::AuditError;

#[derive(Debug)]
pub(super) struct Space {
    dir: PathBuf,
    refuse_below: f64,
    /// Free share, as bits of an `f64`.
    free: AtomicU64,
}

impl Space {
    pub fn new(dir: PathBuf, refuse_below: f64) -> Space {
        let space = Space { dir, refuse_below, free: AtomicU64::new(1f64.to_bits()) };
        space.look();
        space
    }

    pub fn look(&self) {
        match rustix::fs::statvfs(&self.dir) {
            Ok(facts) if facts.f_blocks > 0 => {
                let free = facts.f_bavail as f64 / facts.f_blocks as f64;
                self.free.store(free.to_bits(), Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, dir = %self.dir.display(), "free space of the audit log is unknown"),
        }
    }

    pub fn free(&self) -> f64 {
        f64::from_bits(self.free.load(Ordering::Relaxed))
    }

    pub fn check(&self) -> Result<(), AuditError> {
        if self.free() >= self.refuse_below {
            return Ok(());
        }
        let percent = (self.refuse_below * 100.0).round() as u32;
        Err(AuditError::LowSpace { dir: self.dir.clone(), percent })
    }
}
