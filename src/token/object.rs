//! What can be read of an object: all attributes of interest with one C call, so that the attributes of ten thousand
//! objects cost ten thousand round trips to a token and no more.

use cryptoki::mechanism::MechanismType;
use cryptoki::object::{KeyType, ObjectClass, ObjectHandle};
use cryptoki_sys as sys;
use serde::{Deserialize, Serialize};
use x509_cert::der::Decode;
use x509_cert::spki::ObjectIdentifier;

use super::error::{CallError, Reaction};
use super::fingerprint::is_ed25519;
use super::seat::Seat;
use super::{Curve, ErrorClass, MlDsa};

/// The attributes of an object; `None`: the object has none such, or it cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectFacts {
    /// `CKO_SECRET_KEY` and so on.
    pub class: Option<String>,
    /// `CKK_AES` and so on.
    pub key_type: Option<String>,
    /// `CKA_ID`, hex.
    pub id: String,
    pub label: String,
    pub private: Option<bool>,
    pub sensitive: Option<bool>,
    pub extractable: Option<bool>,
    pub always_sensitive: Option<bool>,
    pub never_extractable: Option<bool>,
    pub local: Option<bool>,
    pub modifiable: Option<bool>,
    pub encrypt: Option<bool>,
    pub decrypt: Option<bool>,
    pub sign: Option<bool>,
    pub verify: Option<bool>,
    pub wrap: Option<bool>,
    pub unwrap: Option<bool>,
    pub derive: Option<bool>,
    /// Of RSA keys, both halves.
    pub modulus_bits: Option<u64>,
    /// `P-256`, `P-384`, `P-521`, `secp256k1`, `Ed25519`, or the hex of other parameters.
    pub curve: Option<String>,
    /// Of ML-DSA keys, both halves: `ML-DSA-44`, or the number where it is none of FIPS 204's.
    #[serde(default)]
    pub parameter_set: Option<String>,
    /// Bytes of a secret key.
    pub value_len: Option<u64>,
    /// `CKA_CHECK_VALUE`, hex.
    pub check_value: Option<String>,
    /// `CKM_AES_KEY_GEN` and so on; `None` also for keys that came from outside.
    pub key_gen_mechanism: Option<String>,
}

/// Which objects to look at; both members empty: all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectSelector {
    /// `CKA_ID`.
    pub id: Option<Vec<u8>>,
    /// `CKA_LABEL`, whole.
    pub label: Option<String>,
}

const FLAG: usize = 1;
const NUMBER: usize = size_of::<sys::CK_ULONG>();
/// Room for texts and ids. SoftHSM takes labels of any length; a longer one counts as unreadable.
const TEXT: usize = 1024;
/// Room for an RSA-8192 modulus and for curves given by their parameters.
const PARAMETER: usize = 1024;

const NAMES: [(u64, usize); 3] = [(sys::CKA_CLASS, NUMBER), (sys::CKA_ID, TEXT), (sys::CKA_LABEL, TEXT)];

/// `CKA_VALUE` is not among them.
const ALL: [(u64, usize); 24] = [
    (sys::CKA_CLASS, NUMBER),
    (sys::CKA_ID, TEXT),
    (sys::CKA_LABEL, TEXT),
    (sys::CKA_KEY_TYPE, NUMBER),
    (sys::CKA_PRIVATE, FLAG),
    (sys::CKA_SENSITIVE, FLAG),
    (sys::CKA_EXTRACTABLE, FLAG),
    (sys::CKA_ALWAYS_SENSITIVE, FLAG),
    (sys::CKA_NEVER_EXTRACTABLE, FLAG),
    (sys::CKA_LOCAL, FLAG),
    (sys::CKA_MODIFIABLE, FLAG),
    (sys::CKA_ENCRYPT, FLAG),
    (sys::CKA_DECRYPT, FLAG),
    (sys::CKA_SIGN, FLAG),
    (sys::CKA_VERIFY, FLAG),
    (sys::CKA_WRAP, FLAG),
    (sys::CKA_UNWRAP, FLAG),
    (sys::CKA_DERIVE, FLAG),
    (sys::CKA_MODULUS, PARAMETER),
    (sys::CKA_EC_PARAMS, PARAMETER),
    (sys::CKA_VALUE_LEN, NUMBER),
    // Three bytes by the standard; some tokens give more.
    (sys::CKA_CHECK_VALUE, 64),
    (sys::CKA_KEY_GEN_MECHANISM, NUMBER),
    // Last: new in PKCS#11 3.2, and a module may give up at what it does not know.
    (sys::CKA_PARAMETER_SET, NUMBER),
];

/// The bytes of the attributes that were asked for.
#[derive(Debug, Default)]
pub(super) struct Attributes(Vec<(u64, Option<Vec<u8>>)>);

impl Attributes {
    /// Class, id and label.
    pub(super) fn names(seat: &mut Seat, object: ObjectHandle) -> Result<Attributes, CallError> {
        read(seat, object, &NAMES)
    }

    /// All attributes of interest.
    pub(super) fn all(seat: &mut Seat, object: ObjectHandle) -> Result<Attributes, CallError> {
        read(seat, object, &ALL)
    }

    pub(super) fn class(&self) -> Option<ObjectClass> {
        self.number(sys::CKA_CLASS).and_then(|class| ObjectClass::try_from(class).ok())
    }

    /// Empty where there is none.
    pub(super) fn bytes(&self, kind: u64) -> &[u8] {
        self.value(kind).unwrap_or_default()
    }

    pub(super) fn number(&self, kind: u64) -> Option<u64> {
        match sys::CK_ULONG::from_ne_bytes(self.value(kind)?.try_into().ok()?) {
            sys::CK_UNAVAILABLE_INFORMATION => None,
            number => Some(number),
        }
    }

    pub(super) fn facts(&self) -> ObjectFacts {
        let flag = |kind| match self.value(kind)? {
            [value] => Some(*value != 0),
            _ => None,
        };
        let name = |kind, name: fn(u64) -> Option<String>| {
            // Numbers of vendors have no name.
            let known = |number| name(number).filter(|name| name.starts_with("CK"));
            self.number(kind).map(|number| known(number).unwrap_or_else(|| format!("{number:#x}")))
        };
        ObjectFacts {
            class: name(sys::CKA_CLASS, |class| Some(ObjectClass::try_from(class).ok()?.to_string())),
            key_type: name(sys::CKA_KEY_TYPE, |kind| Some(KeyType::try_from(kind).ok()?.to_string())),
            id: hex::encode(self.bytes(sys::CKA_ID)),
            label: String::from_utf8_lossy(self.bytes(sys::CKA_LABEL)).into_owned(),
            private: flag(sys::CKA_PRIVATE),
            sensitive: flag(sys::CKA_SENSITIVE),
            extractable: flag(sys::CKA_EXTRACTABLE),
            always_sensitive: flag(sys::CKA_ALWAYS_SENSITIVE),
            never_extractable: flag(sys::CKA_NEVER_EXTRACTABLE),
            local: flag(sys::CKA_LOCAL),
            modifiable: flag(sys::CKA_MODIFIABLE),
            encrypt: flag(sys::CKA_ENCRYPT),
            decrypt: flag(sys::CKA_DECRYPT),
            sign: flag(sys::CKA_SIGN),
            verify: flag(sys::CKA_VERIFY),
            wrap: flag(sys::CKA_WRAP),
            unwrap: flag(sys::CKA_UNWRAP),
            derive: flag(sys::CKA_DERIVE),
            modulus_bits: self.modulus_bits(),
            curve: self.value(sys::CKA_EC_PARAMS).filter(|parameters| !parameters.is_empty()).map(curve),
            parameter_set: self.ml_dsa_number().map(|number| {
                MlDsa::from_parameter_set(number).map_or_else(|| format!("{number:#x}"), |set| set.name().to_owned())
            }),
            value_len: self.number(sys::CKA_VALUE_LEN),
            check_value: self.value(sys::CKA_CHECK_VALUE).filter(|value| !value.is_empty()).map(hex::encode),
            key_gen_mechanism: name(sys::CKA_KEY_GEN_MECHANISM, |mechanism| {
                Some(MechanismType::try_from(mechanism).ok()?.to_string())
            }),
        }
    }

    /// Of the modulus itself: CKA_MODULUS_BITS stands on public keys only.
    pub(super) fn modulus_bits(&self) -> Option<u64> {
        let modulus = self.value(sys::CKA_MODULUS)?;
        let start = modulus.iter().position(|byte| *byte != 0)?;
        let digits = modulus.get(start..)?;
        Some(digits.len() as u64 * 8 - u64::from(digits.first()?.leading_zeros()))
    }

    pub(super) fn ml_dsa(&self) -> Option<MlDsa> {
        self.ml_dsa_number().and_then(MlDsa::from_parameter_set)
    }

    /// The same numbers mean other things for keys of other types.
    fn ml_dsa_number(&self) -> Option<u64> {
        let is_ml_dsa = self.number(sys::CKA_KEY_TYPE) == Some(sys::CKK_ML_DSA);
        self.number(sys::CKA_PARAMETER_SET).filter(|_| is_ml_dsa)
    }

    #[cfg(test)]
    pub(super) fn of(values: Vec<(u64, Vec<u8>)>) -> Attributes {
        Attributes(values.into_iter().map(|(kind, value)| (kind, Some(value))).collect())
    }

    fn value(&self, kind: u64) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| *known == kind)?.1.as_deref()
    }
}

fn curve(parameters: &[u8]) -> String {
    if is_ed25519(parameters) {
        return "Ed25519".to_owned();
    }
    match Curve::from_parameters(parameters) {
        Some(Curve::P256) => "P-256".to_owned(),
        Some(Curve::P384) => "P-384".to_owned(),
        Some(Curve::P521) => "P-521".to_owned(),
        Some(Curve::Secp256k1) => "secp256k1".to_owned(),
        None => {
            <ObjectIdentifier>::from_der(parameters).map_or_else(|_| hex::encode(parameters), |oid| oid.to_string())
        }
    }
}

/// One C call; a token that fails as a whole over one attribute, as it does for the debris of a kill, is asked one by one.
fn read(seat: &mut Seat, object: ObjectHandle, wanted: &[(u64, usize)]) -> Result<Attributes, CallError> {
    let mut once =
        |wanted: &[(u64, usize)]| seat.with(|module, session| module.functions.attributes(session, object, wanted));
    let whole = once(wanted).or_else(|error| match error.reaction() {
        // `with` has dropped the session: this is a fresh one.
        Reaction::FreshSession => once(wanted),
        _ => Err(error),
    });
    let values = match whole {
        Ok(values) => values,
        Err(error) if !about_an_attribute(&error) => return Err(error),
        Err(_) => {
            let mut values = Vec::with_capacity(wanted.len());
            for attribute in wanted {
                values.push(match once(std::slice::from_ref(attribute)) {
                    Ok(mut found) => found.pop().flatten(),
                    Err(error) if about_an_attribute(&error) => None,
                    Err(error) => return Err(error),
                });
            }
            values
        }
    };
    Ok(Attributes(wanted.iter().map(|(kind, _)| *kind).zip(values).collect()))
}

fn about_an_attribute(error: &CallError) -> bool {
    matches!(error.reaction(), Reaction::Ambiguous | Reaction::Report(ErrorClass::Unsupported))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(values: &[(u64, &[u8])]) -> Attributes {
        Attributes::of(values.iter().map(|(kind, value)| (*kind, value.to_vec())).collect())
    }

    #[test]
    fn what_is_read_is_named() {
        let facts = attributes(&[
            (sys::CKA_CLASS, &sys::CKO_PRIVATE_KEY.to_ne_bytes()),
            (sys::CKA_KEY_TYPE, &sys::CKK_EC.to_ne_bytes()),
            (sys::CKA_ID, &[0xab, 1]),
            (sys::CKA_LABEL, b"key"),
            (sys::CKA_EXTRACTABLE, &[0]),
            (sys::CKA_SIGN, &[1]),
            (sys::CKA_EC_PARAMS, Curve::Secp256k1.parameters()),
            (sys::CKA_KEY_GEN_MECHANISM, &sys::CKM_EC_KEY_PAIR_GEN.to_ne_bytes()),
        ])
        .facts();
        let expected = ObjectFacts {
            class: Some("CKO_PRIVATE_KEY".into()),
            key_type: Some("CKK_EC".into()),
            id: "ab01".into(),
            label: "key".into(),
            extractable: Some(false),
            sign: Some(true),
            curve: Some("secp256k1".into()),
            key_gen_mechanism: Some(MechanismType::ECC_KEY_PAIR_GEN.to_string()),
            ..ObjectFacts::default()
        };
        assert_eq!(facts, expected);
        assert!(facts.key_gen_mechanism.unwrap().starts_with("CKM_"));
    }

    #[test]
    fn vendors_numbers_and_unavailable_ones() {
        let facts = attributes(&[
            (sys::CKA_KEY_TYPE, &0x8000_0001u64.to_ne_bytes()),
            (sys::CKA_KEY_GEN_MECHANISM, &sys::CK_UNAVAILABLE_INFORMATION.to_ne_bytes()),
            (sys::CKA_SIGN, &[]),
            (sys::CKA_EC_PARAMS, &[0x06, 0x03, 0x2b, 0x65, 0x71]),
        ])
        .facts();
        assert!(facts.key_type.unwrap().contains("80000001"));
        assert_eq!((facts.key_gen_mechanism, facts.sign), (None, None));
        assert_eq!(facts.curve.as_deref(), Some("1.3.101.113"));
        assert_eq!(curve(&[0x30, 0x00]), "3000");
    }

    #[test]
    fn a_parameter_set_has_a_name_on_ml_dsa_keys_only() {
        let set = |key_type: u64, number: u64| {
            let facts = attributes(&[
                (sys::CKA_KEY_TYPE, &key_type.to_ne_bytes()),
                (sys::CKA_PARAMETER_SET, &number.to_ne_bytes()),
            ]);
            facts.facts().parameter_set
        };
        assert_eq!(set(sys::CKK_ML_DSA, 1).as_deref(), Some("ML-DSA-44"));
        assert_eq!(set(sys::CKK_ML_DSA, 3).as_deref(), Some("ML-DSA-87"));
        assert_eq!(set(sys::CKK_ML_DSA, 9).as_deref(), Some("0x9"));
        assert_eq!(set(sys::CKK_ML_KEM, 1), None);
    }

    #[test]
    fn modulus_lengths() {
        for (modulus, bits) in [(&[0x80, 0][..], Some(16)), (&[0, 0x01, 0xff], Some(9)), (&[0, 0], None), (&[], None)] {
            assert_eq!(attributes(&[(sys::CKA_MODULUS, modulus)]).modulus_bits(), bits, "{modulus:?}");
        }
    }
}
