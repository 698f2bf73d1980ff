//! What the log wants signed, and by whom. The keys live in the token; `app` hands the signer in.

use std::sync::Arc;

use aws_lc_rs::{digest, signature};
use md5::{Digest, Md5};
use x509_cert::der::Decode;
use x509_cert::spki::SubjectPublicKeyInfoRef;

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

    pub const ALL: [KeyUse; 2] = [KeyUse::Digest, KeyUse::Checkpoint];

    pub fn parse(text: &str) -> Option<KeyUse> {
        KeyUse::ALL.into_iter().find(|known| known.as_str() == text)
    }

    /// What a public key of this use is called: `AuditKey::fingerprint`. `None`: it is no key of this use.
    pub fn fingerprint(self, spki: &[u8]) -> Option<String> {
        match self {
            // RULE audit.md §2.3: CloudTrail's fingerprint is the MD5 of the PKCS#1 form.
            KeyUse::Digest => Some(hex::encode(Md5::digest(pkcs1(spki)?))),
            KeyUse::Checkpoint => Some(hex::encode(digest::digest(&digest::SHA256, spki))),
        }
    }

    /// Whether the key of `spki` signed `message`.
    pub fn verifies(self, spki: &[u8], message: &[u8], signed: &[u8]) -> bool {
        let by: &dyn signature::VerificationAlgorithm = match self {
            KeyUse::Digest => &signature::RSA_PKCS1_2048_8192_SHA256,
            KeyUse::Checkpoint => &signature::ECDSA_P256_SHA256_ASN1,
        };
        signature::UnparsedPublicKey::new(by, spki).verify(message, signed).is_ok()
    }
}

/// `RSAPublicKey` (PKCS#1, DER) of a SubjectPublicKeyInfo: what ListPublicKeys gives out.
pub fn pkcs1(spki: &[u8]) -> Option<Vec<u8>> {
    const RSA: &str = "1.2.840.113549.1.1.1";
    let info = SubjectPublicKeyInfoRef::from_der(spki).ok()?;
    (info.algorithm.oid.to_string() == RSA).then(|| info.subject_public_key.raw_bytes().to_vec())
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

/// Who can bring the records up to one under a signature of the key that signs now: checkpoints and digests are made by
/// others than the keys' keeper. Asked before a key is replaced: the last act of the old one covers the record that names
/// the new one.
pub trait CoverAudit: Send + Sync {
    /// Signs a checkpoint (a digest) now that covers the record `seq`.
    fn cover(&self, key_use: KeyUse, seq: u64) -> BoxFuture<'_, Result<(), String>>;
}
