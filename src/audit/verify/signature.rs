//! Signatures, by what their key is. The only file of the verifier that knows algorithms.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey,
    VerificationAlgorithm,
};
use md5::{Digest as _, Md5};
use x509_cert::der::{Decode, Encode};
use x509_cert::spki::SubjectPublicKeyInfoOwned;

use super::tree::Hash;

const RSA: &str = "1.2.840.113549.1.1.1";
const EC: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";

/// A public key of a kind that we can check signatures of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublicKey {
    kind: Kind,
    /// RSA: PKCS#1. EC: the point.
    bytes: Vec<u8>,
    /// SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Rsa,
    P256,
    P384,
}

/// The hash that is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HashOf {
    Sha256,
    Sha384,
    Sha512,
}

impl PublicKey {
    pub fn from_spki(spki: &[u8]) -> Result<PublicKey, String> {
        let wrong = |what: &str| format!("the public key {what}");
        let parsed = SubjectPublicKeyInfoOwned::from_der(spki).map_err(|e| wrong(&format!("does not parse: {e}")))?;
        if parsed.to_der().is_ok_and(|der| der != spki) {
            return Err(wrong("is not in its only right form"));
        }
        let curve = || {
            let parameters = parsed.algorithm.parameters.as_ref()?;
            parameters.decode_as::<x509_cert::der::asn1::ObjectIdentifier>().ok().map(|oid| oid.to_string())
        };
        let kind = match parsed.algorithm.oid.to_string().as_str() {
            RSA => Kind::Rsa,
            EC => match curve().as_deref() {
                Some(P256) => Kind::P256,
                Some(P384) => Kind::P384,
                _ => return Err(wrong("is on an unknown curve")),
            },
            other => return Err(wrong(&format!("is of the unknown kind {other}"))),
        };
        let bytes = parsed.subject_public_key.as_bytes().ok_or_else(|| wrong("has unused bits"))?.to_vec();
        Ok(PublicKey { kind, bytes, spki: spki.to_vec() })
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// RSASSA-PKCS1-v1_5 or ECDSA (ASN.1), over the hash of `message`.
    pub fn verifies(&self, hash: HashOf, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match (self.kind, hash) {
            (Kind::Rsa, HashOf::Sha256) => &RSA_PKCS1_2048_8192_SHA256,
            (Kind::Rsa, HashOf::Sha384) => &RSA_PKCS1_2048_8192_SHA384,
            (Kind::Rsa, HashOf::Sha512) => &RSA_PKCS1_2048_8192_SHA512,
            (Kind::P256, HashOf::Sha256) => &ECDSA_P256_SHA256_ASN1,
            (Kind::P256, HashOf::Sha384) => &ECDSA_P256_SHA384_ASN1,
            (Kind::P384, HashOf::Sha256) => &ECDSA_P384_SHA256_ASN1,
            (Kind::P384, HashOf::Sha384) => &ECDSA_P384_SHA384_ASN1,
            (Kind::P256 | Kind::P384, HashOf::Sha512) => return false,
        };
        UnparsedPublicKey::new(algorithm, &self.bytes).verify(message, signature).is_ok()
    }

    /// CloudTrail's name of an RSA key: the MD5 of its PKCS#1 form, in hex. Of others: SHA-256 of the SubjectPublicKeyInfo.
    pub fn fingerprint(&self) -> String {
        match self.kind {
            Kind::Rsa => hex(&Md5::digest(&self.bytes)),
            Kind::P256 | Kind::P384 => hex(&sha256(&self.spki)),
        }
    }
}

pub(super) fn sha256(bytes: &[u8]) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// Lower case.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Lower case only: each value has one spelling.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    rest.is_empty().then_some(())?;
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}
