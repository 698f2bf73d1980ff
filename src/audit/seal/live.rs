//! The service around the sealer.

use std::sync::Arc;

use serde_json::Value;
use tokio::runtime::Handle;

use super::{Around, Behind};
use crate::audit::Journal;
use crate::audit::signer::{AuditKey, KeyUse, SignAudit, SignError, Signed};

/// The running service. The sealer's thread must not be one that drives the runtime.
pub struct Live {
    pub journal: Journal,
    pub runtime: Handle,
    pub signer: Arc<dyn SignAudit>,
    /// Milliseconds since the epoch.
    pub clock: fn() -> i64,
    /// See `Around::behind`.
    pub behind: Box<dyn Fn() -> Option<Behind> + Send>,
}

impl Around for Live {
    fn append(&self, name: &str, details: Value) -> Result<u64, String> {
        let event = self.journal.event(name, (self.clock)(), details);
        self.runtime.block_on(self.journal.append(event)).map(|done| done.seq()).map_err(|error| error.to_string())
    }

    fn durable(&self) -> u64 {
        self.journal.durable()
    }

    fn sign(&self, message: Vec<u8>) -> Result<Signed, SignError> {
        self.runtime.block_on(self.signer.sign(KeyUse::Digest, message))
    }

    fn keys(&self) -> Vec<Arc<AuditKey>> {
        self.signer.keys()
    }

    fn now(&self) -> i64 {
        (self.clock)()
    }

    fn behind(&self) -> Option<Behind> {
        (self.behind)()
    }

    fn is_low(&self) -> bool {
        self.journal.is_low()
    }
}
