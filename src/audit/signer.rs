//! What the log wants signed, and by whom. The keys live in the token; `app` hands the signer in.

use std::sync::Arc;

use crate::audit::BoxFuture;

/// The two keys of a trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyUse {
    /// RSA, RSASSA-PKCS1-v1_5 with SHA-256: digest files and exports, which the stock AWS CLI verifies.
    Digest,
    /// ECDSA P-256 with SHA-256: checkpoints.
    Checkpoint,
}

impl KeyUse {
    pub fn as_str(self) -> &'static str {
        match self {
            KeyUse::Digest => "digest",
            KeyUse::Checkpoint => "checkpoint",
        }
    }
}

/// A public key of the trail, as an auditor sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditKey {
    pub key_use: KeyUse,
    /// 1, 2, …: one more with each rotation.
    pub generation: u32,
    /// Digest: lower-case hex MD5 of the PKCS#1 DER (CloudTrail's fingerprint). Checkpoint: lower-case hex SHA-256 of the SPKI.
    pub fingerprint: String,
    /// SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
    /// X.509 certificate, DER.
    pub certificate: Vec<u8>,
    /// Milliseconds since the epoch.
    pub valid_from: i64,
    /// `None`: it signs now.
    pub valid_until: Option<i64>,
}

#[derive(Debug, Clone)]
pub struct Signed {
    pub key: Arc<AuditKey>,
    /// RSA: as long as the modulus. ECDSA: ASN.1 DER.
    pub signature: Vec<u8>,
}

/// Why nothing was signed: the token is away, busy or refuses. Tried again at the next occasion.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the audit key cannot sign: {0}")]
pub struct SignError(pub String);

pub trait SignAudit: Send + Sync {
    /// Signs `message` (hashed inside) with the current key of this use.
    fn sign(&self, key_use: KeyUse, message: Vec<u8>) -> BoxFuture<'_, Result<Signed, SignError>>;

    /// Every key that this trail ever had, oldest first.
    fn keys(&self) -> Vec<Arc<AuditKey>>;
}
