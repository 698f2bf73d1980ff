//! The cryptographic operations of a session worker, each with its inputs. An operation may run twice (a lost session), so
//! it borrows them.

use cryptoki::object::ObjectHandle;
use cryptoki_sys as sys;

use super::error::CallError;
use super::fingerprint::Fingerprint;
use super::gcm::IvContract;
use super::handles::Class;
use super::raw::SignCall;
use super::seat::Seat;
use super::worker::Operation;
use super::{GcmOutput, Hash, KeyRef, SignMechanism};
use crate::secret::SecretBytes;

pub(super) struct Encrypt {
    pub(super) key: KeyRef,
    pub(super) aad: Vec<u8>,
    pub(super) plaintext: SecretBytes,
}

impl Operation for Encrypt {
    type Output = GcmOutput;
    const NAME: &'static str = "encrypt";

    fn mechanism(&self, gcm: IvContract) -> &'static str {
        gcm.mechanism_name()
    }

    fn key(&self) -> Option<(&KeyRef, Class)> {
        Some((&self.key, Class::Secret))
    }

    fn run(&self, seat: &mut Seat, key: Option<ObjectHandle>) -> Result<Option<GcmOutput>, CallError> {
        seat.encrypt(known(key)?, &self.aad, self.plaintext.expose()).map(Some)
    }
}

pub(super) struct Decrypt {
    pub(super) key: KeyRef,
    pub(super) iv: Vec<u8>,
    pub(super) aad: Vec<u8>,
    pub(super) ciphertext: Vec<u8>,
}

impl Operation for Decrypt {
    type Output = SecretBytes;
    const NAME: &'static str = "decrypt";

    fn mechanism(&self, gcm: IvContract) -> &'static str {
        gcm.mechanism_name()
    }

    fn key(&self) -> Option<(&KeyRef, Class)> {
        Some((&self.key, Class::Secret))
    }

    fn run(&self, seat: &mut Seat, key: Option<ObjectHandle>) -> Result<Option<SecretBytes>, CallError> {
        seat.decrypt(known(key)?, &self.iv, &self.aad, &self.ciphertext)
    }
}

pub(super) struct DataKey {
    pub(super) key: KeyRef,
    pub(super) aad: Vec<u8>,
    pub(super) len: usize,
}

impl Operation for DataKey {
    type Output = (SecretBytes, GcmOutput);
    const NAME: &'static str = "data_key";

    fn mechanism(&self, gcm: IvContract) -> &'static str {
        gcm.mechanism_name()
    }

    fn key(&self) -> Option<(&KeyRef, Class)> {
        Some((&self.key, Class::Secret))
    }

    fn run(&self, seat: &mut Seat, key: Option<ObjectHandle>) -> Result<Option<Self::Output>, CallError> {
        // C_GenerateRandom and not C_GenerateKey: SoftHSM leaks a little with every session object.
        let plaintext = seat.random(self.len)?;
        let sealed = seat.encrypt(known(key)?, &self.aad, plaintext.expose())?;
        Ok(Some((plaintext, sealed)))
    }
}

pub(super) struct Random {
    pub(super) len: usize,
}

impl Operation for Random {
    type Output = SecretBytes;
    const NAME: &'static str = "random";

    fn mechanism(&self, _: IvContract) -> &'static str {
        "C_GenerateRandom"
    }

    fn key(&self) -> Option<(&KeyRef, Class)> {
        None
    }

    fn run(&self, seat: &mut Seat, _: Option<ObjectHandle>) -> Result<Option<SecretBytes>, CallError> {
        seat.random(self.len).map(Some)
    }
}

pub(super) struct Sign {
    pub(super) key: KeyRef,
    pub(super) mechanism: SignMechanism,
    pub(super) input: SecretBytes,
}

impl Operation for Sign {
    type Output = Vec<u8>;
    const NAME: &'static str = "sign";

    fn mechanism(&self, _: IvContract) -> &'static str {
        self.mechanism.name()
    }

    fn key(&self) -> Option<(&KeyRef, Class)> {
        Some((&self.key, Class::Private))
    }

    fn heavy(&self) -> bool {
        self.mechanism.is_rsa()
    }

    fn run(&self, seat: &mut Seat, key: Option<ObjectHandle>) -> Result<Option<Vec<u8>>, CallError> {
        seat.sign_input(known(key)?, self.mechanism, self.input.expose())
    }
}

pub(super) struct Mac {
    pub(super) key: KeyRef,
    pub(super) hash: Hash,
    pub(super) message: SecretBytes,
}

impl Operation for Mac {
    type Output = SecretBytes;
    const NAME: &'static str = "mac";

    fn mechanism(&self, _: IvContract) -> &'static str {
        self.hash.hmac_mechanism().1
    }

    fn key(&self) -> Option<(&KeyRef, Class)> {
        Some((&self.key, Class::Secret))
    }

    fn run(&self, seat: &mut Seat, key: Option<ObjectHandle>) -> Result<Option<SecretBytes>, CallError> {
        let how = SignCall::Plain(self.hash.hmac_mechanism().0);
        seat.sign(known(key)?, how, self.message.expose()).map(|mac| Some(SecretBytes::new(mac)))
    }
}

/// Checks the fingerprint; the worker does it before `run`.
pub(super) struct Check {
    key: KeyRef,
    class: Class,
    /// `None`: AES-GCM.
    mechanism: Option<&'static str>,
}

impl Check {
    pub(super) fn new(key: KeyRef) -> Check {
        let fingerprint = match &key {
            KeyRef::Kms { fingerprint, .. } => Fingerprint::decode(fingerprint),
            KeyRef::System(_) => None,
        };
        let (class, mechanism) = match fingerprint {
            None if matches!(&key, KeyRef::System(key) if key.class() == Class::Private) => {
                (Class::Private, Some("CKM_RSA_PKCS"))
            }
            Some(Fingerprint::Pair { .. }) => (Class::Private, Some("signature")),
            Some(Fingerprint::Hmac { hash, .. }) => (Class::Secret, Some(hash.hmac_mechanism().1)),
            Some(Fingerprint::Aes { .. }) | None => (Class::Secret, None),
        };
        Check { key, class, mechanism }
    }
}

impl Operation for Check {
    type Output = ();
    const NAME: &'static str = "check";

    fn mechanism(&self, gcm: IvContract) -> &'static str {
        self.mechanism.unwrap_or(gcm.mechanism_name())
    }

    fn key(&self) -> Option<(&KeyRef, Class)> {
        Some((&self.key, self.class))
    }

    /// The pair may be an RSA one.
    fn heavy(&self) -> bool {
        self.class == Class::Private
    }

    fn checks(&self) -> bool {
        true
    }

    fn run(&self, _: &mut Seat, _: Option<ObjectHandle>) -> Result<Option<()>, CallError> {
        Ok(Some(()))
    }
}

/// Operations with a key get its handle from the worker.
fn known(key: Option<ObjectHandle>) -> Result<ObjectHandle, CallError> {
    key.ok_or(CallError { function: "handle cache", rv: sys::CKR_KEY_HANDLE_INVALID })
}
