//! Public keys: SubjectPublicKeyInfo from a token's attributes, and signatures in the form that KMS gives out.

use aws_lc_rs::signature;
use x509_cert::der::asn1::{AnyRef, BitStringRef, OctetStringRef, UintRef};
use x509_cert::der::{Decode, Encode, Tag};
use x509_cert::spki::{AlgorithmIdentifierRef, ObjectIdentifier, SubjectPublicKeyInfoRef};

use super::mechanism::ALL_ML_DSA;
use super::{Curve, Hash, MlDsa, SignMechanism};

const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const ML_DSA_44: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.3.17");
const ML_DSA_65: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.3.18");
const ML_DSA_87: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.3.19");

/// From `CKA_MODULUS` and `CKA_PUBLIC_EXPONENT`.
pub(super) fn rsa(modulus: &[u8], exponent: &[u8]) -> Option<Vec<u8>> {
    // RULE RFC 8017 §A.1.1: RSAPublicKey is a sequence of two integers; RFC 3279 §2.3.1: the parameters are NULL.
    let mut body = UintRef::new(modulus).ok()?.to_der().ok()?;
    body.extend(UintRef::new(exponent).ok()?.to_der().ok()?);
    let key = AnyRef::new(Tag::Sequence, &body).ok()?.to_der().ok()?;
    wrap(RSA_ENCRYPTION, Some(AnyRef::NULL), &key)
}

/// From `CKA_EC_PARAMS` and `CKA_EC_POINT`.
pub(super) fn ec(parameters: &[u8], point: &[u8]) -> Option<Vec<u8>> {
    let curve = Curve::from_parameters(parameters)?;
    let point = unwrapped(point, 1 + 2 * curve.coordinate())?;
    // RULE RFC 5480 §2.2: the first octet says whether the point is compressed; only uncompressed ones are given out.
    if point.first() != Some(&4) {
        return None;
    }
    wrap(EC_PUBLIC_KEY, Some(AnyRef::from_der(parameters).ok()?), point)
}

/// From the `CKA_EC_POINT` of an Edwards key.
pub(super) fn ed25519(point: &[u8]) -> Option<Vec<u8>> {
    // RULE RFC 8410 §3: no parameters.
    wrap(ED25519, None, unwrapped(point, 32)?)
}

/// From the `CKA_VALUE` of a public key.
pub(super) fn ml_dsa(set: MlDsa, value: &[u8]) -> Option<Vec<u8>> {
    // RULE RFC 9881 §2 and §4: no parameters, and the bytes of the key without a wrapping.
    (value.len() == set.public_key_length()).then(|| wrap(ml_dsa_oid(set), None, value))?
}

/// RULE RFC 9881 §2.
fn ml_dsa_oid(set: MlDsa) -> ObjectIdentifier {
    match set {
        MlDsa::MlDsa44 => ML_DSA_44,
        MlDsa::MlDsa65 => ML_DSA_65,
        MlDsa::MlDsa87 => ML_DSA_87,
    }
}

/// PKCS#11 says that the point is wrapped into an OCTET STRING; some tokens give it bare. The length tells.
fn unwrapped(point: &[u8], length: usize) -> Option<&[u8]> {
    if point.len() == length {
        return Some(point);
    }
    let inner = <&OctetStringRef>::from_der(point).ok()?.as_bytes();
    (inner.len() == length).then_some(inner)
}

fn wrap(oid: ObjectIdentifier, parameters: Option<AnyRef<'_>>, key: &[u8]) -> Option<Vec<u8>> {
    let info = SubjectPublicKeyInfoRef {
        algorithm: AlgorithmIdentifierRef { oid, parameters },
        subject_public_key: BitStringRef::from_bytes(key).ok()?,
    };
    info.to_der().ok()
}

/// RULE RFC 3279 §2.2.3: Ecdsa-Sig-Value. PKCS#11 gives r and s one after the other, each half of the length.
pub(super) fn ecdsa_der(signature: &[u8]) -> Option<Vec<u8>> {
    if signature.is_empty() || !signature.len().is_multiple_of(2) {
        return None;
    }
    let (r, s) = signature.split_at(signature.len() / 2);
    let mut body = UintRef::new(r).ok()?.to_der().ok()?;
    body.extend(UintRef::new(s).ok()?.to_der().ok()?);
    AnyRef::new(Tag::Sequence, &body).ok()?.to_der().ok()
}

/// How a key pair proves itself: mechanism, and the hash of the message where the mechanism takes a digest.
pub(super) fn proof(spki: &[u8]) -> Option<(SignMechanism, Option<Hash>)> {
    let info = SubjectPublicKeyInfoRef::from_der(spki).ok()?;
    match info.algorithm.oid {
        RSA_ENCRYPTION => Some((SignMechanism::RsaPkcs1v15(Hash::Sha256), Some(Hash::Sha256))),
        EC_PUBLIC_KEY => Some((SignMechanism::Ecdsa, Some(curve(&info)?.hash()))),
        ED25519 => Some((SignMechanism::Ed25519, None)),
        oid if ALL_ML_DSA.into_iter().any(|set| ml_dsa_oid(set) == oid) => Some((SignMechanism::MlDsa, None)),
        _ => None,
    }
}

/// Verifies the signature that `proof` names, with code that is not the token's.
pub(super) fn verifies(spki: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let verified = || {
        let info = SubjectPublicKeyInfoRef::from_der(spki).ok()?;
        let algorithm: &dyn signature::VerificationAlgorithm = match info.algorithm.oid {
            RSA_ENCRYPTION => &signature::RSA_PKCS1_2048_8192_SHA256,
            EC_PUBLIC_KEY => match curve(&info)? {
                Curve::P256 => &signature::ECDSA_P256_SHA256_ASN1,
                Curve::P384 => &signature::ECDSA_P384_SHA384_ASN1,
                Curve::P521 => &signature::ECDSA_P521_SHA512_ASN1,
                Curve::Secp256k1 => &signature::ECDSA_P256K1_SHA256_ASN1,
            },
            ED25519 => &signature::ED25519,
            ML_DSA_44 => &signature::ML_DSA_44,
            ML_DSA_65 => &signature::ML_DSA_65,
            ML_DSA_87 => &signature::ML_DSA_87,
            _ => return None,
        };
        let key = info.subject_public_key.as_bytes()?;
        signature::UnparsedPublicKey::new(algorithm, key).verify(message, signature).ok()
    };
    verified().is_some()
}

fn curve(info: &SubjectPublicKeyInfoRef<'_>) -> Option<Curve> {
    Curve::from_parameters(&info.algorithm.parameters?.to_der().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{
        ECDSA_P521_SHA512_ASN1_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    };
    use x509_cert::der::SliceReader;

    fn octet_string(bytes: &[u8]) -> Vec<u8> {
        OctetStringRef::new(bytes).unwrap().to_der().unwrap()
    }

    #[test]
    fn an_ec_point_bare_or_wrapped_gives_the_spki_that_others_make() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P521_SHA512_ASN1_SIGNING).unwrap();
        let expected: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let point = pair.public_key().as_ref();
        let parameters = Curve::P521.parameters();
        assert_eq!(ec(parameters, point).unwrap(), expected.as_ref());
        assert_eq!(ec(parameters, &octet_string(point)).unwrap(), expected.as_ref());
        assert!(ec(Curve::P256.parameters(), point).is_none());
        assert!(ec(parameters, &point[1..]).is_none());
    }

    #[test]
    fn ed25519_and_rsa() {
        let pair = Ed25519KeyPair::generate().unwrap();
        let expected: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        assert_eq!(ed25519(pair.public_key().as_ref()).unwrap(), expected.as_ref());
        assert_eq!(ed25519(&octet_string(pair.public_key().as_ref())).unwrap(), expected.as_ref());

        let pair = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
        let expected: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let key = SubjectPublicKeyInfoRef::from_der(expected.as_ref()).unwrap().subject_public_key;
        let mut numbers = SliceReader::new(AnyRef::from_der(key.as_bytes().unwrap()).unwrap().value()).unwrap();
        let modulus = UintRef::decode(&mut numbers).unwrap();
        let exponent = UintRef::decode(&mut numbers).unwrap();
        let made = rsa(modulus.as_bytes(), exponent.as_bytes()).unwrap();
        assert_eq!(made, expected.as_ref());
    }

    #[test]
    fn ml_dsa_keys_give_the_spki_that_others_make() {
        let signing: [(MlDsa, &signature::PqdsaSigningAlgorithm); 3] = [
            (MlDsa::MlDsa44, &signature::ML_DSA_44_SIGNING),
            (MlDsa::MlDsa65, &signature::ML_DSA_65_SIGNING),
            (MlDsa::MlDsa87, &signature::ML_DSA_87_SIGNING),
        ];
        for (set, algorithm) in signing {
            let pair = signature::PqdsaKeyPair::generate(algorithm).unwrap();
            let expected: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
            let made = ml_dsa(set, pair.public_key().as_ref()).unwrap();
            assert_eq!(made, expected.as_ref());
            assert!(ml_dsa(set, &pair.public_key().as_ref()[1..]).is_none());
            assert_eq!(proof(&made), Some((SignMechanism::MlDsa, None)));
            let mut signed = vec![0; algorithm.signature_len()];
            pair.sign(b"m", &mut signed).unwrap();
            assert!(verifies(&made, b"m", &signed) && !verifies(&made, b"n", &signed));
            for other in ALL_ML_DSA.into_iter().filter(|other| *other != set) {
                assert!(ml_dsa(other, pair.public_key().as_ref()).is_none());
            }
        }
    }

    #[test]
    fn a_signature_of_two_halves_becomes_der_that_verifies() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING).unwrap();
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        for n in 0u8..40 {
            let fixed = pair.sign(&SystemRandom::new(), &[n]).unwrap();
            let der = ecdsa_der(fixed.as_ref()).unwrap();
            assert!(verifies(spki.as_ref(), &[n], &der));
            assert!(!verifies(spki.as_ref(), &[n + 1], &der));
        }
        assert!(ecdsa_der(&[1, 2, 3]).is_none());
        assert!(ecdsa_der(&[]).is_none());
    }
}
