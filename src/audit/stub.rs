//! Signatures to be implemented.
#![allow(unused_variables)]
use super::*;
use crate::store::BoxFuture;

/// The open journal. Cheap to clone. One writer thread; group commit; a record, or an error.
#[derive(Clone)]
pub struct Journal {}

#[allow(unused_variables, clippy::unused_async)]
impl Journal {
    /// Takes the lock, recovers (audit.md §7.9 steps 1 to 4, 6 to 8), starts the writer. Blocking.
    pub fn open(settings: Settings) -> Result<(Journal, Recovery), AuditError> {
        unimplemented!()
    }
    /// Whether a request may be taken up at all: free space and health. Cheap (cached about a second).
    pub fn admit(&self) -> Result<(), AuditError> {
        unimplemented!()
    }
    /// Queues the record and waits until it is on stable storage.
    pub async fn append(&self, event: Event) -> Result<Recorded, AuditError> {
        unimplemented!()
    }
    /// `Some(reason)` once the log has failed; resolves when it fails.
    pub fn failure(&self) -> Option<String> {
        unimplemented!()
    }
    pub fn failed(&self) -> BoxFuture<'_, String> {
        unimplemented!()
    }
    /// Writes `SegmentEnd`, syncs, stops the writer.
    pub fn close(&self) {
        unimplemented!()
    }
}

/// Requests whose signature did not verify, counted by error and source in a bounded table; one aggregated record per row
/// and minute.
pub struct Strangers {}

#[allow(unused_variables)]
impl Strangers {
    pub fn new(rows: usize) -> Self {
        unimplemented!()
    }
    /// `operation`: only if it is a known name; `access_key`: only if it matches the syntax.
    pub fn note(
        &self,
        error_code: &'static str,
        source_ip: &str,
        operation: Option<&'static str>,
        access_key: Option<&str>,
    ) {
        unimplemented!()
    }
    /// Takes all rows as events to append (called each minute, and at shutdown).
    pub fn drain(&self, region: &str, account: &str, now: i64, window: Duration) -> Vec<Event> {
        unimplemented!()
    }
}
