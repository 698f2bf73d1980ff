//! A session and what one thread does with it. A session belongs to one thread; after an error in the middle of an operation
//! it is closed, since an operation left open blocks the session for good, and the next call opens another one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::slot::Slot;
use zeroize::Zeroizing;

use super::error::{CallError, Reaction};
use super::gcm::IvContract;
use super::module::Module;
use super::opened::Opened;
use super::raw::SignCall;
use super::{ErrorClass, SignMechanism, rv, spki};
use crate::secret::SecretBytes;

/// The slot that the token stands in; it may be another one after C_Initialize.
#[derive(Clone)]
pub(super) struct SlotNow(Arc<Mutex<Slot>>);

impl SlotNow {
    pub(super) fn new(slot: Slot) -> SlotNow {
        SlotNow(Arc::new(Mutex::new(slot)))
    }

    pub(super) fn now(&self) -> Slot {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, slot: Slot) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = slot;
    }
}

pub(super) struct Seat {
    pub(super) module: &'static Module,
    slot: SlotNow,
    pub(super) iv: IvContract,
    session: Option<Opened>,
    /// Creating, destroying and finding objects of the token, over all its sessions in this process.
    exclusive: Arc<Mutex<()>>,
    /// Sessions that had to be replaced, over all seats.
    replaced: Arc<AtomicU64>,
}

impl Seat {
    pub(super) fn new(module: &'static Module, slot: SlotNow, iv: IvContract, replaced: Arc<AtomicU64>) -> Seat {
        let exclusive = module.exclusive(slot.now());
        Seat { module, slot, iv, session: None, exclusive, replaced }
    }

    /// The session, opened if there is none.
    pub(super) fn session(&mut self) -> Result<&Session, CallError> {
        if self.session.as_ref().is_none_or(|session| session.live().is_none()) {
            self.session = Some(Opened::new(self.module, self.slot.now())?);
        }
        let lost = CallError { function: "C_OpenSession", rv: 0 };
        self.session.as_ref().and_then(Opened::live).ok_or(lost)
    }

    /// Whether the session is there, in one round trip; one is opened if there is none.
    pub(super) fn is_live(&mut self) -> Result<(), CallError> {
        let info = self.session()?.get_session_info();
        info.map(drop).map_err(|error| CallError::from_cryptoki("C_GetSessionInfo", &error))
    }

    /// Closes the session; the next call opens another.
    pub(super) fn renew(&mut self) {
        if self.session.take().is_some() {
            self.replaced.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn sign(&mut self, key: ObjectHandle, how: SignCall, data: &[u8]) -> Result<Vec<u8>, CallError> {
        self.with(|module, session| module.functions.sign(session, key, how, data))
    }

    /// Signs `input` (a digest, or Ed25519's message); ECDSA signatures come back as DER.
    pub(super) fn sign_input(
        &mut self,
        key: ObjectHandle,
        mechanism: SignMechanism,
        input: &[u8],
    ) -> Result<Option<Vec<u8>>, CallError> {
        let Some(data) = mechanism.data(input).map(Zeroizing::new) else { return Ok(None) };
        let signature = self.sign(key, mechanism.call(), &data)?;
        match mechanism {
            SignMechanism::Ecdsa => {
                spki::ecdsa_der(&signature).map(Some).ok_or(CallError { function: "C_Sign", rv: 0 })
            }
            _ => Ok(Some(signature)),
        }
    }

    pub(super) fn random(&mut self, len: usize) -> Result<SecretBytes, CallError> {
        let mut out = Zeroizing::new(vec![0u8; len]);
        self.fill_random(&mut out)?;
        Ok(SecretBytes::new(std::mem::take(&mut *out)))
    }

    pub(super) fn attributes(
        &mut self,
        object: ObjectHandle,
        wanted: &[AttributeType],
    ) -> Result<Vec<Attribute>, CallError> {
        self.with(|_, session| {
            session
                .get_attributes(object, wanted)
                .map_err(|error| CallError::from_cryptoki("C_GetAttributeValue", &error))
        })
    }

    pub(super) fn fill_random(&mut self, out: &mut [u8]) -> Result<(), CallError> {
        self.with(|module, session| module.functions.random(session, out))
    }

    /// A call that creates, destroys or finds objects. RULE: no two of these at a time on one token: SoftHSM fails when
    /// C_FindObjects runs beside C_GenerateKey.
    pub(super) fn with_exclusive<T>(
        &mut self,
        call: impl FnOnce(&'static Module, &Session) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let exclusive = Arc::clone(&self.exclusive);
        let _alone = exclusive.lock().unwrap_or_else(PoisonError::into_inner);
        self.with(call)
    }

    /// A call on the session; the session goes where the call may have left an operation open.
    pub(super) fn with<T>(
        &mut self,
        call: impl FnOnce(&'static Module, &Session) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let module = self.module;
        let result = self.session().and_then(|session| call(module, session));
        if let Err(error) = &result {
            if !is_about_the_text(error) {
                tracing::info!(function = error.function, rv = %rv::said(error.rv), "a call failed");
            }
            if leaves_operation_open(error) {
                self.renew();
            }
        }
        result
    }
}

/// What anybody can make happen with a bad ciphertext is not the token's affair; what becomes of it is in the audit log.
fn is_about_the_text(error: &CallError) -> bool {
    error.function == "C_Decrypt"
        && matches!(error.reaction(), Reaction::Ambiguous | Reaction::Report(ErrorClass::Data))
}

/// An Init function that failed has begun nothing, unless it failed because something had been begun before.
fn leaves_operation_open(error: &CallError) -> bool {
    matches!(error.function, "C_Encrypt" | "C_Decrypt" | "C_Sign" | "C_FindObjects")
        || error.reaction() == Reaction::FreshSession
}
