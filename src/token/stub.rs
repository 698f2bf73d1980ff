//! Signatures to be implemented.
#![allow(unused_variables)]
use super::*;

/// A connected token. Cheap to clone.
#[derive(Clone)]
pub struct Token {}

#[allow(unused_variables, clippy::unused_async)]
impl Token {
    /// Loads the module (once per process), selects the token, logs the keeper session in (one try), starts the session
    /// workers, enumerates the objects, runs self-test and probe. Blocking.
    pub fn open(settings: Settings, pin: SecretString) -> Result<Token, TokenError> {
        unimplemented!()
    }
    pub fn info(&self) -> TokenInfo {
        unimplemented!()
    }
    pub fn capabilities(&self) -> Arc<Capabilities> {
        unimplemented!()
    }
    pub fn status(&self) -> Status {
        unimplemented!()
    }
    /// Jobs waiting, sessions open, sessions lost, errors by class: for `/metrics`.
    pub fn gauges(&self) -> Gauges {
        unimplemented!()
    }
    /// AES-256-GCM, tag of 16 bytes, IV random from the token xor the system's generator.
    pub async fn encrypt(
        &self,
        ctx: &CallContext,
        key: &KeyRef,
        aad: Vec<u8>,
        plaintext: SecretBytes,
    ) -> Result<Done<GcmOutput>, TokenError> {
        unimplemented!()
    }
    pub async fn decrypt(
        &self,
        ctx: &CallContext,
        key: &KeyRef,
        iv: Vec<u8>,
        aad: Vec<u8>,
        ciphertext: Vec<u8>,
    ) -> Result<Done<SecretBytes>, TokenError> {
        unimplemented!()
    }
    /// `len` bytes from C_GenerateRandom and their encryption, in one visit to a session worker.
    pub async fn data_key(
        &self,
        ctx: &CallContext,
        key: &KeyRef,
        aad: Vec<u8>,
        len: usize,
    ) -> Result<Done<(SecretBytes, GcmOutput)>, TokenError> {
        unimplemented!()
    }
    pub async fn random(&self, ctx: &CallContext, len: usize) -> Result<Done<SecretBytes>, TokenError> {
        unimplemented!()
    }
    /// ECDSA signatures come back as DER.
    pub async fn sign(
        &self,
        ctx: &CallContext,
        key: &KeyRef,
        mechanism: SignMechanism,
        input: SecretBytes,
    ) -> Result<Done<Vec<u8>>, TokenError> {
        unimplemented!()
    }
    pub async fn mac(
        &self,
        ctx: &CallContext,
        key: &KeyRef,
        hash: Hash,
        message: SecretBytes,
    ) -> Result<Done<SecretBytes>, TokenError> {
        unimplemented!()
    }
    /// Makes the object(s), reads the attributes back, makes the fingerprint. Objects that the token does not protect are
    /// destroyed again. On its own worker, exclusive against C_FindObjects. `label` is `CKA_LABEL`.
    pub async fn generate(
        &self,
        ctx: &CallContext,
        kind: KeyKind,
        material: MaterialId,
        label: &str,
    ) -> Result<Done<Generated>, TokenError> {
        unimplemented!()
    }
    /// Destroys all objects with this id (both halves of a pair), looks for them and finds none. `Ok` also where there was
    /// none; the number of destroyed objects is returned.
    pub async fn destroy(&self, ctx: &CallContext, material: MaterialId) -> Result<Done<usize>, TokenError> {
        unimplemented!()
    }
    /// Looks whether the token holds objects with this id. For the settling of intents.
    pub async fn holds(&self, ctx: &CallContext, material: MaterialId) -> Result<bool, TokenError> {
        unimplemented!()
    }
    /// Checks the fingerprint now.
    pub async fn check(&self, ctx: &CallContext, key: &KeyRef) -> Result<Done<()>, TokenError> {
        unimplemented!()
    }
    /// Makes a system key (AES-256) if the token has none with its label.
    pub async fn ensure_system_key(&self, ctx: &CallContext, key: SystemKey) -> Result<bool, TokenError> {
        unimplemented!()
    }
    /// All objects of the token that the logged-in user sees.
    pub async fn objects(&self) -> Result<Vec<ObjectReport>, TokenError> {
        unimplemented!()
    }
    /// Ids (MaterialId) that the enumeration at start found, with the number of objects each.
    pub fn known_materials(&self) -> Vec<(MaterialId, usize)> {
        unimplemented!()
    }
    /// Stops the workers and closes the sessions; the module is left loaded.
    pub fn close(&self) {
        unimplemented!()
    }
}

#[derive(Debug, Clone, Default)]
pub struct Gauges {
    pub queued: usize,
    pub workers: usize,
    pub sessions_replaced: u64,
    pub errors: Vec<(&'static str, u64)>,
}
