//! Adoption: a key that somebody else made in the token comes under management.

use std::sync::Arc;
use std::time::Instant;

use cryptoki::object::ObjectHandle;
use cryptoki_sys as sys;
use serde::{Deserialize, Serialize};

use super::fingerprint::is_ed25519;
use super::gcm::IvContract;
use super::generate::{Made, evidence};
use super::handles::Class;
use super::keygen::{Keygen, Task};
use super::mechanism::ALL_HASHES;
use super::object::Attributes;
use super::{Curve, Done, ErrorClass, Generated, KeyKind, MaterialId, ObjectFacts, SignMechanism, TokenError};

/// A key that was found, with what makes it a key of the bridge.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Adopted {
    pub kind: KeyKind,
    pub generated: Generated,
    /// All objects with the id, as they were found.
    pub objects: Vec<ObjectFacts>,
}

pub(super) struct Adopt {
    pub(super) id: Vec<u8>,
    pub(super) material: MaterialId,
}

/// One object with the id.
struct Found {
    class: Option<Class>,
    handle: ObjectHandle,
    attributes: Attributes,
}

impl Task for Adopt {
    type Output = Done<Adopted>;
    const NAME: &'static str = "adopt";

    fn run(self, keygen: &mut Keygen) -> Result<Done<Adopted>, TokenError> {
        let started = Instant::now();
        keygen.ready()?;
        let handles = &keygen.shared.handles;
        if handles.placed_at(&self.id).is_some_and(|material| material != self.material) {
            return Err(refused(ErrorClass::WrongKey, "the key with this id serves another key of the bridge already"));
        }
        if handles.placed(self.material).is_some_and(|id| id != self.id) {
            return Err(refused(ErrorClass::WrongKey, "the new key has objects with another id already"));
        }
        let found = self.find(keygen)?;
        let by_class: Vec<_> = found.iter().map(|object| (object.class, object.handle)).collect();
        let (class, key, public) = key_of(&by_class)?;
        let made = Made { class, key, public };
        let speaking = found.iter().find(|object| object.handle == made.public.unwrap_or(made.key));
        let kind = speaking
            .and_then(|object| kind(&object.attributes))
            .ok_or_else(|| refused(ErrorClass::Unsupported, "no KMS key spec fits the type and length of the key"))?;
        let objects: Vec<ObjectFacts> = found.iter().map(|object| object.attributes.facts()).collect();
        let (fingerprint, spki) = made.prove(keygen, kind)?;
        let fingerprint = fingerprint.encode();
        let evidence = found
            .iter()
            .zip(&objects)
            .find(|(object, _)| object.handle == made.key)
            .map(|(_, facts)| evidence(&keygen.shared.serial, facts))
            .ok_or_else(|| refused(ErrorClass::KeyMissing, "the key is gone"))?;
        let handles = &keygen.shared.handles;
        if self.id != self.material.cka_id() {
            handles.place(vec![(self.material, self.id.clone())]);
        }
        handles.put(self.material, &made.objects(), Some(Arc::from(fingerprint.as_slice())));
        let facts = keygen.shared.facts(mechanism(kind, keygen.shared.iv), started);
        let generated = Generated { fingerprint, spki, evidence, object_id: self.id };
        Ok(Done { value: Adopted { kind, generated, objects }, facts })
    }
}

impl Adopt {
    fn find(&self, keygen: &mut Keygen) -> Result<Vec<Found>, TokenError> {
        let seen = keygen.find_id(&self.id)?;
        if seen.iter().any(|seen| keygen.shared.names.system_key(&seen.label).is_some()) {
            return Err(refused(ErrorClass::WrongKey, "an object with this id has the label of a system key"));
        }
        if seen.is_empty() {
            keygen.anchor()?;
        }
        seen.into_iter()
            .map(|seen| {
                let attributes = Attributes::all(&mut keygen.seat, seen.handle)
                    .map_err(|error| error.into_error("the attributes of the key cannot be read"))?;
                Ok(Found { class: seen.class.and_then(Class::of), handle: seen.handle, attributes })
            })
            .collect()
    }
}

/// The key among objects of one id. Certificates and data beside it do no harm.
fn key_of<H: Copy>(found: &[(Option<Class>, H)]) -> Result<(Class, H, Option<H>), TokenError> {
    let of = |wanted| found.iter().filter(move |(class, _)| *class == Some(wanted)).map(|(_, handle)| *handle);
    let counts = [Class::Secret, Class::Private, Class::Public].map(|class| of(class).count());
    match (counts, of(Class::Secret).next(), of(Class::Private).next(), of(Class::Public).next()) {
        ([1, 0, 0], Some(key), ..) => Ok((Class::Secret, key, None)),
        ([0, 1, 1], _, Some(key), Some(public)) => Ok((Class::Private, key, Some(public))),
        ([0, 0, 0], ..) => Err(refused(ErrorClass::KeyMissing, "the token holds no key with this id")),
        ([secret, private, public], ..) => Err(refused(
            ErrorClass::WrongKey,
            &format!(
                "{secret} secret, {private} private and {public} public keys have this id: wanted is one secret key, or \
                 one private and one public key"
            ),
        )),
    }
}

/// From a secret key, or the public half of a pair.
fn kind(attributes: &Attributes) -> Option<KeyKind> {
    let of_length = |length: u64| ALL_HASHES.into_iter().find(|hash| hash.length() as u64 == length);
    let length = attributes.number(sys::CKA_VALUE_LEN);
    let parameters = attributes.bytes(sys::CKA_EC_PARAMS);
    match attributes.number(sys::CKA_KEY_TYPE)? {
        sys::CKK_AES if length? == 32 => Some(KeyKind::Aes256),
        sys::CKK_GENERIC_SECRET => of_length(length?).map(KeyKind::Hmac),
        typed @ (sys::CKK_SHA224_HMAC | sys::CKK_SHA256_HMAC | sys::CKK_SHA384_HMAC | sys::CKK_SHA512_HMAC) => {
            let expected = match typed {
                sys::CKK_SHA224_HMAC => 28,
                sys::CKK_SHA256_HMAC => 32,
                sys::CKK_SHA384_HMAC => 48,
                _ => 64,
            };
            of_length(length?).filter(|hash| hash.length() == expected).map(KeyKind::Hmac)
        }
        sys::CKK_RSA => match attributes.modulus_bits()? {
            bits @ (2048 | 3072 | 4096) => u32::try_from(bits).ok().map(KeyKind::Rsa),
            _ => None,
        },
        sys::CKK_EC => Curve::from_parameters(parameters).map(KeyKind::Ec),
        sys::CKK_EC_EDWARDS if is_ed25519(parameters) => Some(KeyKind::Ed25519),
        sys::CKK_ML_DSA => attributes.ml_dsa().map(KeyKind::MlDsa),
        _ => None,
    }
}

/// With which the key proved itself.
fn mechanism(kind: KeyKind, gcm: IvContract) -> &'static str {
    match kind {
        KeyKind::Aes256 => gcm.mechanism_name(),
        KeyKind::Hmac(hash) => hash.hmac_mechanism().1,
        KeyKind::Rsa(_) => SignMechanism::RsaPkcs1v15(super::Hash::Sha256).name(),
        KeyKind::Ec(_) => SignMechanism::Ecdsa.name(),
        KeyKind::Ed25519 => SignMechanism::Ed25519.name(),
        KeyKind::MlDsa(_) => SignMechanism::MlDsa.name(),
    }
}

fn refused(class: ErrorClass, detail: &str) -> TokenError {
    TokenError::own(class, "adopt", detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Hash, MlDsa};

    fn kind_of(key_type: u64, value_len: u64, other: &[(u64, &[u8])]) -> Option<KeyKind> {
        let mut values = vec![
            (sys::CKA_KEY_TYPE, key_type.to_ne_bytes().to_vec()),
            (sys::CKA_VALUE_LEN, value_len.to_ne_bytes().to_vec()),
        ];
        values.extend(other.iter().map(|(kind, value)| (*kind, value.to_vec())));
        kind(&Attributes::of(values))
    }

    #[test]
    fn kinds() {
        let generic = sys::CKK_GENERIC_SECRET;
        let mut modulus = [0u8; 257];
        modulus[1] = 0x80;
        let small: &[u8] = &[0x7f; 256];
        for (key_type, length, other, expected) in [
            (sys::CKK_AES, 32, &[][..], Some(KeyKind::Aes256)),
            (sys::CKK_AES, 16, &[], None),
            (generic, 28, &[], Some(KeyKind::Hmac(Hash::Sha224))),
            (generic, 64, &[], Some(KeyKind::Hmac(Hash::Sha512))),
            (generic, 20, &[], None),
            (sys::CKK_SHA384_HMAC, 48, &[], Some(KeyKind::Hmac(Hash::Sha384))),
            (sys::CKK_SHA384_HMAC, 32, &[], None),
            (sys::CKK_RSA, 0, &[(sys::CKA_MODULUS, &modulus[..])], Some(KeyKind::Rsa(2048))),
            (sys::CKK_RSA, 0, &[(sys::CKA_MODULUS, small)], None),
            (sys::CKK_EC, 0, &[(sys::CKA_EC_PARAMS, Curve::P384.parameters())], Some(KeyKind::Ec(Curve::P384))),
            (sys::CKK_EC, 0, &[(sys::CKA_EC_PARAMS, &[0x06, 0x01, 0x2a])], None),
            (sys::CKK_EC_EDWARDS, 0, &[(sys::CKA_EC_PARAMS, &[0x06, 0x03, 0x2b, 0x65, 0x70])], Some(KeyKind::Ed25519)),
            (sys::CKK_EC_EDWARDS, 0, &[(sys::CKA_EC_PARAMS, &[0x06, 0x03, 0x2b, 0x65, 0x71])], None),
            (
                sys::CKK_ML_DSA,
                0,
                &[(sys::CKA_PARAMETER_SET, &2u64.to_ne_bytes())],
                Some(KeyKind::MlDsa(MlDsa::MlDsa65)),
            ),
            (sys::CKK_ML_DSA, 0, &[(sys::CKA_PARAMETER_SET, &4u64.to_ne_bytes())], None),
            (sys::CKK_ML_DSA, 0, &[], None),
            (sys::CKK_DES3, 24, &[], None),
        ] {
            assert_eq!(kind_of(key_type, length, other), expected, "{key_type:#x} {length}");
        }
    }

    #[test]
    fn one_key_and_no_more() {
        let found = |classes: &[Option<Class>]| -> Vec<_> { classes.iter().copied().zip(1u64..).collect() };
        let (secret, private, public) = (Some(Class::Secret), Some(Class::Private), Some(Class::Public));
        assert_eq!(key_of(&found(&[None, secret])).unwrap(), (Class::Secret, 2, None));
        assert_eq!(key_of(&found(&[None, public, private])).unwrap(), (Class::Private, 3, Some(2)));
        for (bad, class) in [
            (&[][..], ErrorClass::KeyMissing),
            (&[None], ErrorClass::KeyMissing),
            (&[secret, secret], ErrorClass::WrongKey),
            (&[private], ErrorClass::WrongKey),
            (&[public], ErrorClass::WrongKey),
            (&[private, public, public], ErrorClass::WrongKey),
            (&[secret, private, public], ErrorClass::WrongKey),
        ] {
            assert_eq!(key_of(&found(bad)).unwrap_err().class, class, "{bad:?}");
        }
    }
}
