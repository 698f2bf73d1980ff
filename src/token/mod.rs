//! The token: module, session workers, mechanisms, templates, error classes. The only folder that imports cryptoki.
//! It knows objects by id and label, never AWS names, policies or HTTP.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Which material of which key: `CKA_ID` is `id`, followed by the generation (big endian, 4 bytes) unless it is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MaterialId {
    pub id: [u8; 16],
    pub generation: u32,
}

/// Keys of the bridge itself, found by label; never reachable through a KMS call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SystemKey {
    /// `hsm-bridge/store-kek`
    StoreKek,
    /// `hsm-bridge/iam-wrap`
    IamWrap,
    /// `hsm-bridge/anchor`: shows, by being there, that a token without the store's own keys is well.
    Anchor,
    /// `hsm-bridge/attest`: an RSA-3072 pair that signs attestations and nothing else.
    Attest,
}

/// A key to use. `fingerprint` is what `Generated::fingerprint` returned; it is checked before the first use of a handle.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum KeyRef {
    Kms { material: MaterialId, fingerprint: Arc<[u8]> },
    System(SystemKey),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Curve {
    P256,
    P384,
    P521,
    Secp256k1,
}

/// Parameter sets of ML-DSA (FIPS 204).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MlDsa {
    MlDsa44,
    MlDsa65,
    MlDsa87,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// What kind of object to make or destroy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeyKind {
    Aes256,
    /// Modulus length in bits.
    Rsa(u32),
    Ec(Curve),
    Ed25519,
    MlDsa(MlDsa),
    /// Key length is the digest's length in bytes.
    Hmac(Hash),
}

/// Input is a digest, except for Ed25519 and ML-DSA, which take the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignMechanism {
    RsaPkcs1v15(Hash),
    /// MGF1 with the same hash, salt as long as the hash.
    RsaPss(Hash),
    Ecdsa,
    Ed25519,
    /// Pure ML-DSA with an empty context. The pre-hashed form (HashML-DSA) is another algorithm.
    MlDsa,
}

/// Who asks (for fairness between principals) and until when an answer is of use.
#[derive(Debug, Clone)]
pub struct CallContext {
    pub principal: Arc<str>,
    pub deadline: Instant,
    /// For spans: request id and key id, never a value.
    pub request_id: Arc<str>,
}

/// A text of this program: a function's or a mechanism's name. A type of its own, since serde takes a reference for borrowed.
pub type Constant = &'static str;

/// What the audit record says of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `CKM_AES_GCM` for example.
    #[serde(with = "call::names")]
    pub mechanism: Constant,
    /// Time in the token, microseconds.
    pub micros: u32,
    /// Serial of the token that did it.
    pub token: Arc<str>,
    pub slot: u64,
}

#[derive(Debug)]
pub struct Done<T> {
    pub value: T,
    pub facts: Facts,
}

/// AES-GCM output: the IV that was really used, and ciphertext ‖ 16-byte tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcmOutput {
    #[serde(with = "call::bytes")]
    pub iv: Vec<u8>,
    #[serde(with = "call::bytes")]
    pub ciphertext: Vec<u8>,
}

/// The attributes read back after generation: the key's attestation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub token_serial: String,
    pub sensitive: bool,
    pub extractable: bool,
    pub always_sensitive: bool,
    pub never_extractable: bool,
    pub local: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Generated {
    /// Opaque to callers; stored in the key's record and handed back in `KeyRef`.
    pub fingerprint: Vec<u8>,
    /// SubjectPublicKeyInfo, DER; key pairs only.
    pub spki: Option<Vec<u8>>,
    pub evidence: Evidence,
    /// `CKA_ID` of the objects.
    pub object_id: Vec<u8>,
}

/// An object as an officer's report lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectReport {
    /// `CKO_SECRET_KEY` and so on; `None` where the class cannot be read (debris of a killed token).
    pub class: Option<String>,
    /// `CKA_ID`, hex.
    pub id: String,
    pub label: String,
}

/// What the probe found that the token can do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    pub aes_gcm: bool,
    /// `caller`, `zeroed-writeback`, `luna-append16`, `prepended`.
    pub gcm_iv: String,
    pub key_kinds: Vec<String>,
    pub rsa_pkcs1v15: bool,
    pub rsa_pss: Vec<Hash>,
    pub ecdsa: Vec<Curve>,
    pub ed25519: bool,
    pub ml_dsa: Vec<MlDsa>,
    pub hmac: Vec<Hash>,
    pub oaep_hashes: Vec<Hash>,
    /// `None`: the token names no limit.
    pub max_sessions: Option<u64>,
    /// Names of the mechanisms that the token lists.
    pub mechanisms: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    pub label: String,
    pub serial: String,
    pub manufacturer: String,
    pub model: String,
    pub slot: u64,
    pub firmware: String,
    /// Library description and version.
    pub library: String,
    pub user_pin_count_low: bool,
    pub user_pin_final_try: bool,
    pub user_pin_locked: bool,
}

/// Whether the token can be used now, and why not. The reason is safe for `/readyz`: no path, no `CKR_`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    Ready,
    Down(String),
}

/// What an error costs, after tokens.md §1.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorClass {
    /// The input is bad: a ciphertext that does not open. Costs nothing.
    Data,
    /// The token does not hold the object (a healthy token said so).
    KeyMissing,
    /// The object under the handle is another key, or the fingerprint does not match.
    WrongKey,
    /// The session was lost and one retry did not help.
    Session,
    /// Device, module or network: the token is down.
    Context,
    /// The token is full.
    Full,
    /// Too many sessions, no memory, the bounded queue is full: try later.
    Capacity,
    /// The deadline passed.
    Deadline,
    /// PIN wrong, locked, expired: an operator has to act.
    Operator,
    /// Mechanism or template not supported.
    Unsupported,
}

/// How to find the token: label and/or serial, or an RFC 7512 URI; two matches are an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    pub label: Option<String>,
    pub serial: Option<String>,
    pub model: Option<String>,
    pub manufacturer: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    pub module: PathBuf,
    pub selector: Selector,
    /// Another serial behind the selector is an error before any login.
    pub expect_serial: Option<String>,
    /// Contents of the profile file (`hsm-config/profiles/*.toml`), `None`: defaults.
    pub profile: Profile,
    pub workers: usize,
    /// Jobs that may wait, over all principals.
    pub queue: usize,
    pub generate_deadline: Duration,
    /// Where this host keeps the marks of rejected PINs (`token.pin_marks`); nothing to a worker process.
    #[serde(skip)]
    pub pin_marks: PathBuf,
    /// Between tries to bring the token back.
    pub retry: Retry,
    /// After a deadline, until the thread whose call did not come back counts as lost.
    pub hang_grace: Duration,
    /// Which process loads the module.
    #[serde(skip)]
    pub isolation: Isolation,
}

mod adopt;
mod backoff;
mod breaker;
mod call;
mod connection;
mod data;
mod error;
mod facade;
mod fingerprint;
mod frame;
mod gcm;
mod generate;
mod group;
mod guard;
mod handles;
mod keeper;
mod keygen;
mod local;
mod look;
mod marks;
mod mechanism;
mod module;
mod names;
mod object;
mod officer;
mod opened;
mod operations;
mod pin;
mod places;
mod pool;
mod probe;
mod process;
mod profile;
mod queue;
mod raw;
mod recovery;
mod renewal;
mod report;
mod rv;
mod seat;
mod selector;
mod shared;
mod slots;
mod spki;
mod template;
mod watchdog;
mod worker;

pub use adopt::Adopted;
pub use backoff::{Backoff, Retry};
pub use breaker::{BreakerState, Cause, Change, Health, LastError};
pub use call::{About, Answer, Backend, BoxFuture, Request};
pub use connection::Gauges;
pub use data::DataName;
pub use error::{OpenFailure, TokenError};
pub use facade::Token;
#[cfg(fuzzing)]
pub use frame::read_frames;
pub use group::{MemberView, Replicas, TokenGroup};
pub use guard::{HeldPin, Login, LoginVerdict, PinGuard, PinTag, retry_pins};
pub use keeper::login_attempts;
pub use local::Local;
pub use look::{Looked, certificate, look};
pub use marks::{Attempt, Locked, Marks, PinOutcome};
pub use object::{ObjectFacts, ObjectSelector};
pub use process::{Isolation, OPEN_FACTOR, Remote, WorkerCommand, worker_main, worker_on_stdin};
pub use profile::{LoginForm, Profile, Rung};
pub use raw::{apply_environment, exit_now};
pub use slots::{Enforcement, SlotFacts, slots};
