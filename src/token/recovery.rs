//! The way back of a token that went away: a look (login, system keys, self-test), and where that is not enough
//! C_Finalize, C_Initialize, login, enumeration and the look.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::breaker::Cause;
use super::fingerprint::{Fingerprint, Mismatch, read_spki};
use super::handles::{Class, Handles};
use super::keygen::Keygen;
use super::renewal::{self, Why};
use super::seat::Seat;
use super::shared::Shared;
use super::{ErrorClass, Status, SystemKey, TokenError};

impl Keygen {
    /// How long the thread may sleep. `None`: until there is work.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.shared.breaker.next_look().ok().map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Tries to bring the token back, where that is due.
    pub(super) fn recover(&mut self) {
        let shared = Arc::clone(&self.shared);
        if !shared.breaker.next_look().is_ok_and(|at| Instant::now() >= at) {
            return;
        }
        let Some(plan) = shared.breaker.plan() else { return };
        shared.watchdog.keygen.begin(Instant::now() + shared.generate_deadline, false);
        // Others that are well are disturbed by C_Finalize: only where a look shows that it is needed.
        let look_first = plan.cause != Cause::Lost || !plan.renew || has_well_neighbour(&shared);
        let mut renewed = false;
        let mut tried = if look_first { self.look() } else { Err(lost()) };
        if plan.renew && tried.as_ref().is_err_and(|error| error.class != ErrorClass::Operator) {
            shared.breaker.renewing();
            renewed = true;
            tried = renewal::renew(shared.module, Some(&shared), Why::Recovery).and_then(|()| self.look());
        }
        if tried.is_ok() && plan.cause == Cause::Hung && !shared.watchdog.has_free() {
            tried = Err(TokenError::own(ErrorClass::Deadline, "token", "its sessions still hang"));
        }
        shared.watchdog.keygen.end();
        match tried {
            Ok(()) => shared.close_breaker(),
            Err(error) => {
                // As often as there are tries, which get rarer.
                tracing::warn!(%error, "the token is still down");
                self.seat.renew();
                shared.breaker.failed(&error);
                shared.stop_waiting();
                if renewed && error.class == ErrorClass::Deadline && shared.module.lost_threads() > 0 {
                    shared.doom("a call hangs in the token's library, which must be initialised again");
                }
            }
        }
    }

    /// Whether the token is well: there, logged in, with the bridge's own keys, which are what they were.
    fn look(&mut self) -> Result<(), TokenError> {
        let module = self.shared.module;
        let _not_now = module.gate.read().unwrap_or_else(PoisonError::into_inner);
        module.ensure_initialized()?;
        self.find_slot()?;
        self.ready()?;
        self.anchor()?;
        self.self_test()?;
        self.seat.random(1).map_err(|error| error.into_error("the token gives no random bytes"))?;
        Ok(())
    }

    /// RULE: the PIN is tried on the token that it belongs to, whatever stands in the slot now.
    pub(super) fn find_slot(&mut self) -> Result<(), TokenError> {
        let slot = self.shared.module.slot_of(&self.shared.serial)?;
        if slot != self.shared.slot.now() {
            tracing::info!(slot = slot.id(), "the token stands in another slot");
            self.shared.slot.set(slot);
            self.keeper.move_to(slot);
            self.seat.renew();
        }
        Ok(())
    }

    /// One of the system keys works and is what it was.
    fn self_test(&mut self) -> Result<(), TokenError> {
        let shared = Arc::clone(&self.shared);
        let Some((key, handle)) =
            SystemKey::ALL.into_iter().find_map(|key| shared.handles.system(key).map(|handle| (key, handle)))
        else {
            return Ok(());
        };
        match prove_system(&mut self.seat, &shared.handles, key, handle, shared.handles.system_public(key)) {
            Ok(()) => Ok(()),
            Err(Mismatch::WrongKey(detail)) => Err(TokenError::own(ErrorClass::Context, "self-test", detail)),
            Err(Mismatch::Call(error)) => Err(error.into_error("the self-test failed")),
        }
    }

    /// What the system keys are now is what they have to be after every login. `Err`: an earlier connection has seen others.
    pub(super) fn remember_system_keys(&mut self) -> Result<(), TokenError> {
        let shared = Arc::clone(&self.shared);
        self.anchor()?;
        for key in SystemKey::ALL {
            let Some(handle) = shared.handles.system(key) else { continue };
            let known = shared.handles.proof(key).is_some();
            match prove_system(&mut self.seat, &shared.handles, key, handle, shared.handles.system_public(key)) {
                Err(Mismatch::WrongKey(detail)) if known => {
                    return Err(TokenError::own(ErrorClass::Context, "self-test", detail));
                }
                // One that does not work now shows at its first use.
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

/// A system key is what it was when this process first saw it; what it is, is noted then.
pub(super) fn prove_system(
    seat: &mut Seat,
    handles: &Handles,
    key: SystemKey,
    handle: cryptoki::object::ObjectHandle,
    public: Option<cryptoki::object::ObjectHandle>,
) -> Result<(), Mismatch> {
    if let Some(proof) = handles.proof(key) {
        return Fingerprint::decode(&proof)
            .ok_or(Mismatch::WrongKey("the fingerprint cannot be read"))?
            .check(seat, handle, public);
    }
    let epoch = handles.epoch();
    let made = match key.class() {
        Class::Secret => Fingerprint::of_aes(seat, handle)?,
        Class::Private | Class::Public => {
            let public = public.ok_or(Mismatch::WrongKey("the token has no single public key with this label"))?;
            let spki = read_spki(seat, public)?.ok_or(Mismatch::WrongKey("the public key cannot be read"))?;
            Fingerprint::of_pair(seat, handle, &spki)?
        }
    };
    handles.prove(key, handle, epoch, &made.encode());
    Ok(())
}

fn lost() -> TokenError {
    TokenError::own(ErrorClass::Context, "token", "it went away")
}

fn has_well_neighbour(shared: &Arc<Shared>) -> bool {
    let others = shared.module.connected();
    others.iter().any(|other| !Arc::ptr_eq(other, shared) && other.status() == Status::Ready)
}
