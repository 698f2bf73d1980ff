//! C_Finalize and C_Initialize: for a token that went away, and for modules that read the user PIN into their memory once
//! and do not see that another process changed it (SoftHSM). All tokens of the module are drained for it, and log in
//! again by themselves.

use std::sync::{Arc, RwLockWriteGuard, TryLockError};
use std::time::{Duration, Instant};

use super::module::Module;
use super::shared::Shared;
use super::{ErrorClass, Profile, TokenError, TokenInfo};

/// How long running calls, connections and looks may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Pin,
    Recovery,
}

/// Whether the module must be initialised again before it sees a PIN that was changed elsewhere.
pub(super) fn remembers_pins(info: &TokenInfo, profile: &Profile) -> bool {
    profile.pin_cached.unwrap_or(info.model == "SoftHSM v2")
}

/// Initialises the module again while nobody is in it. `own`: the token whose key generation thread this is.
pub(super) fn renew(module: &'static Module, own: Option<&Arc<Shared>>, why: Why) -> Result<(), TokenError> {
    // Another thread may do the same now, and wait for this one's job to end.
    let _one = match module.renewing.try_lock() {
        Ok(one) => one,
        Err(TryLockError::Poisoned(one)) => one.into_inner(),
        Err(TryLockError::WouldBlock) => {
            return Err(TokenError::own(
                ErrorClass::Capacity,
                "C_Finalize",
                "another token of the module is being connected or changed: try again",
            ));
        }
    };
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let tokens = module.connected();
        if let Some(result) = drained(module, own, &tokens, end, why) {
            return result;
        }
    }
    Err(TokenError::own(
        ErrorClass::Deadline,
        "C_Finalize",
        "a running call of a token of the module does not end: everything is as it was",
    ))
}

/// `None`: somebody is still in the module.
fn drained(
    module: &'static Module,
    own: Option<&Arc<Shared>>,
    tokens: &[Arc<Shared>],
    end: Instant,
    why: Why,
) -> Option<Result<(), TokenError>> {
    let left = || end.saturating_duration_since(Instant::now());
    // The key generation thread of the token itself is the one that runs here.
    let is_own = |token: &Arc<Shared>| own.is_some_and(|own| Arc::ptr_eq(own, token));
    let calls: Vec<_> = tokens.iter().map(|token| token.queue.pause()).collect();
    let tasks: Vec<_> = tokens.iter().filter(|token| !is_own(token)).map(|token| token.keygen.pause()).collect();
    let quiet = calls.iter().all(|calls| calls.quiet(left())) && tasks.iter().all(|tasks| tasks.quiet(left()));
    let _alone = quiet.then(|| alone(module, end)).flatten()?;
    // One that was connected meanwhile is not drained.
    let now = module.connected();
    if !now.iter().all(|token| tokens.iter().any(|known| Arc::ptr_eq(known, token))) {
        return None;
    }
    // RULE: before the login, not after it: from then on old numbers may name other keys.
    tokens.iter().for_each(|token| token.handles.forget());
    match why {
        Why::Pin => tracing::info!("the module is initialised again, so that it sees the PIN of its token"),
        Why::Recovery => tracing::info!(tokens = tokens.len(), "the module is initialised again"),
    }
    Some(module.initialize_again(why == Why::Recovery))
}

fn alone(module: &'static Module, end: Instant) -> Option<RwLockWriteGuard<'static, ()>> {
    loop {
        match module.gate.try_write() {
            Ok(alone) => return Some(alone),
            Err(TryLockError::Poisoned(alone)) => return Some(alone.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() >= end => return None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(POLL),
        }
    }
}
