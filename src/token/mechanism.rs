//! Mechanisms: numbers, names for the audit record, and what has to be added to a digest.

use cryptoki_sys as sys;

use super::raw::SignCall;
use super::{Curve, Hash, KeyKind, MlDsa, SignMechanism};

pub(super) const ALL_HASHES: [Hash; 4] = [Hash::Sha224, Hash::Sha256, Hash::Sha384, Hash::Sha512];
pub(super) const ALL_CURVES: [Curve; 4] = [Curve::P256, Curve::P384, Curve::P521, Curve::Secp256k1];
pub(super) const ALL_ML_DSA: [MlDsa; 3] = [MlDsa::MlDsa44, MlDsa::MlDsa65, MlDsa::MlDsa87];

impl Hash {
    /// Digest length in bytes.
    pub fn length(self) -> usize {
        match self {
            Hash::Sha224 => 28,
            Hash::Sha256 => 32,
            Hash::Sha384 => 48,
            Hash::Sha512 => 64,
        }
    }

    pub(super) fn hmac_mechanism(self) -> (u64, &'static str) {
        match self {
            Hash::Sha224 => (sys::CKM_SHA224_HMAC, "CKM_SHA224_HMAC"),
            Hash::Sha256 => (sys::CKM_SHA256_HMAC, "CKM_SHA256_HMAC"),
            Hash::Sha384 => (sys::CKM_SHA384_HMAC, "CKM_SHA384_HMAC"),
            Hash::Sha512 => (sys::CKM_SHA512_HMAC, "CKM_SHA512_HMAC"),
        }
    }

    /// RULE RFC 8017 §9.2 note 1: the DER of DigestInfo up to the digest.
    fn digest_info_prefix(self) -> [u8; 19] {
        let (algorithm, digest, whole) = match self {
            Hash::Sha224 => (0x04, 0x1c, 0x2d),
            Hash::Sha256 => (0x01, 0x20, 0x31),
            Hash::Sha384 => (0x02, 0x30, 0x41),
            Hash::Sha512 => (0x03, 0x40, 0x51),
        };
        [
            0x30, whole, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, algorithm, 0x05, 0x00,
            0x04, digest,
        ]
    }
}

impl Curve {
    /// DER of the curve's object identifier, which is `CKA_EC_PARAMS`.
    pub(super) fn parameters(self) -> &'static [u8] {
        match self {
            Curve::P256 => &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
            Curve::P384 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22],
            Curve::P521 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23],
            Curve::Secp256k1 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a],
        }
    }

    /// Length of a coordinate in bytes.
    pub(super) fn coordinate(self) -> usize {
        match self {
            Curve::P256 | Curve::Secp256k1 => 32,
            Curve::P384 => 48,
            Curve::P521 => 66,
        }
    }

    /// The hash that signatures on this curve go with.
    pub(super) fn hash(self) -> Hash {
        match self {
            Curve::P256 | Curve::Secp256k1 => Hash::Sha256,
            Curve::P384 => Hash::Sha384,
            Curve::P521 => Hash::Sha512,
        }
    }

    pub(super) fn from_parameters(parameters: &[u8]) -> Option<Curve> {
        ALL_CURVES.into_iter().find(|curve| curve.parameters() == parameters)
    }
}

impl MlDsa {
    /// `CKA_PARAMETER_SET`. RULE PKCS#11 v3.2 §6.67: CKP_ML_DSA_44 and so on.
    pub(super) fn parameter_set(self) -> u64 {
        match self {
            MlDsa::MlDsa44 => sys::CKP_ML_DSA_44,
            MlDsa::MlDsa65 => sys::CKP_ML_DSA_65,
            MlDsa::MlDsa87 => sys::CKP_ML_DSA_87,
        }
    }

    pub(super) fn from_parameter_set(number: u64) -> Option<MlDsa> {
        ALL_ML_DSA.into_iter().find(|set| set.parameter_set() == number)
    }

    /// As FIPS 204 spells it.
    pub fn name(self) -> &'static str {
        match self {
            MlDsa::MlDsa44 => "ML-DSA-44",
            MlDsa::MlDsa65 => "ML-DSA-65",
            MlDsa::MlDsa87 => "ML-DSA-87",
        }
    }

    /// Bytes of a public key. RULE FIPS 204 §4, table 2.
    pub(super) fn public_key_length(self) -> usize {
        match self {
            MlDsa::MlDsa44 => 1312,
            MlDsa::MlDsa65 => 1952,
            MlDsa::MlDsa87 => 2592,
        }
    }
}

impl KeyKind {
    /// Name in `Capabilities::key_kinds`.
    pub fn name(self) -> &'static str {
        match self {
            KeyKind::Aes256 => "AES_256",
            KeyKind::Rsa(2048) => "RSA_2048",
            KeyKind::Rsa(3072) => "RSA_3072",
            KeyKind::Rsa(4096) => "RSA_4096",
            KeyKind::Rsa(_) => "RSA_other",
            KeyKind::Ec(Curve::P256) => "EC_P256",
            KeyKind::Ec(Curve::P384) => "EC_P384",
            KeyKind::Ec(Curve::P521) => "EC_P521",
            KeyKind::Ec(Curve::Secp256k1) => "EC_SECP256K1",
            KeyKind::Ed25519 => "ED25519",
            KeyKind::MlDsa(MlDsa::MlDsa44) => "ML_DSA_44",
            KeyKind::MlDsa(MlDsa::MlDsa65) => "ML_DSA_65",
            KeyKind::MlDsa(MlDsa::MlDsa87) => "ML_DSA_87",
            KeyKind::Hmac(Hash::Sha224) => "HMAC_224",
            KeyKind::Hmac(Hash::Sha256) => "HMAC_256",
            KeyKind::Hmac(Hash::Sha384) => "HMAC_384",
            KeyKind::Hmac(Hash::Sha512) => "HMAC_512",
        }
    }
}

impl super::Capabilities {
    /// Whether keys of this kind can be made and used.
    pub fn supports(&self, kind: KeyKind) -> bool {
        self.key_kinds.iter().any(|known| known == kind.name())
    }
}

impl SignMechanism {
    pub(super) fn name(self) -> &'static str {
        match self {
            SignMechanism::RsaPkcs1v15(_) => "CKM_RSA_PKCS",
            SignMechanism::RsaPss(_) => "CKM_RSA_PKCS_PSS",
            SignMechanism::Ecdsa => "CKM_ECDSA",
            SignMechanism::Ed25519 => "CKM_EDDSA",
            SignMechanism::MlDsa => "CKM_ML_DSA",
        }
    }

    pub(super) fn call(self) -> SignCall {
        match self {
            SignMechanism::RsaPkcs1v15(_) => SignCall::Plain(sys::CKM_RSA_PKCS),
            SignMechanism::RsaPss(hash) => {
                let (number, mgf) = match hash {
                    Hash::Sha224 => (sys::CKM_SHA224, sys::CKG_MGF1_SHA224),
                    Hash::Sha256 => (sys::CKM_SHA256, sys::CKG_MGF1_SHA256),
                    Hash::Sha384 => (sys::CKM_SHA384, sys::CKG_MGF1_SHA384),
                    Hash::Sha512 => (sys::CKM_SHA512, sys::CKG_MGF1_SHA512),
                };
                SignCall::Pss { hash: number, mgf, salt_len: hash.length() as u64 }
            }
            SignMechanism::Ecdsa => SignCall::Plain(sys::CKM_ECDSA),
            SignMechanism::Ed25519 => SignCall::Plain(sys::CKM_EDDSA),
            // RULE PKCS#11 v3.2 §6.67.5: without CK_SIGN_ADDITIONAL_CONTEXT the context is empty, as KMS signs.
            SignMechanism::MlDsa => SignCall::Plain(sys::CKM_ML_DSA),
        }
    }

    /// What goes to C_Sign: CKM_RSA_PKCS pads only, so the DigestInfo is made here. `None`: the digest has a wrong length.
    pub(super) fn data(self, input: &[u8]) -> Option<Vec<u8>> {
        match self {
            SignMechanism::RsaPkcs1v15(hash) => {
                (input.len() == hash.length()).then(|| hash.digest_info_prefix().iter().chain(input).copied().collect())
            }
            SignMechanism::RsaPss(hash) => (input.len() == hash.length()).then(|| input.to_vec()),
            SignMechanism::Ecdsa => (!input.is_empty()).then(|| input.to_vec()),
            SignMechanism::Ed25519 | SignMechanism::MlDsa => Some(input.to_vec()),
        }
    }

    pub(super) fn is_rsa(self) -> bool {
        matches!(self, SignMechanism::RsaPkcs1v15(_) | SignMechanism::RsaPss(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_info() {
        let data = SignMechanism::RsaPkcs1v15(Hash::Sha256).data(&[7; 32]).unwrap();
        assert_eq!(hex::encode(&data[..19]), "3031300d060960864801650304020105000420");
        assert_eq!(data[19..], [7; 32]);
        for hash in ALL_HASHES {
            let data = SignMechanism::RsaPkcs1v15(hash).data(&vec![0; hash.length()]).unwrap();
            assert_eq!(usize::from(data[1]) + 2, data.len());
            assert!(SignMechanism::RsaPkcs1v15(hash).data(&vec![0; hash.length() + 1]).is_none());
            assert!(SignMechanism::RsaPss(hash).data(&vec![0; hash.length() - 1]).is_none());
        }
    }
}
