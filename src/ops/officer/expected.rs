//! What the objects of a key ought to be, by its spec and by how it came. Pure: facts in, faults out.

use crate::ids::spec::KeySpec;
use crate::keystore::{Evidence, ObjectFacts};
use crate::ops::officer::object_label;
use crate::store::{KeyRecord, Material, Provenance};

pub const SECRET: &str = "CKO_SECRET_KEY";
pub const PRIVATE: &str = "CKO_PRIVATE_KEY";
pub const PUBLIC: &str = "CKO_PUBLIC_KEY";

/// Classes of the objects that a key of this spec is made of.
pub fn classes(spec: KeySpec) -> &'static [&'static str] {
    if spec.is_key_pair() { &[PRIVATE, PUBLIC] } else { &[SECRET] }
}

/// The key spec that an object is good for: a secret key, or the private half of a pair.
pub fn spec_of(object: &ObjectFacts) -> Result<KeySpec, String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
    let class = object.class.as_deref().unwrap_or_default();
    if ![SECRET, PRIVATE].contains(&class) {
        return Err(format!("it is a {class}, which is no key that can be used"));
    }
    KeySpec::ALL.iter().copied().find(|spec| form(*spec, object, class).is_empty()).ok_or_else(|| {
        let size = match (object.value_len, object.modulus_bits, &object.curve, &object.parameter_set) {
            (Some(bytes), ..) => format!("{bytes} bytes"),
            (_, Some(bits), ..) => format!("{bits} bits"),
            (_, _, Some(curve), _) => format!("curve {curve}"),
            (.., Some(set)) => format!("parameter set {set}"),
            _ => "a size that the token does not tell".to_owned(),
        };
        format!("it is a {class} of type {} with {size}", text(&object.key_type))
    })
}

/// Where class, key type or size of an object are not those of the spec. `class`: what it should be.
pub fn form(spec: KeySpec, object: &ObjectFacts, class: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |name: &str, wanted: String, found: Option<String>, fits: bool| {
        if !fits {
            faults.push(format!("{name} is {}, not {wanted}", found.unwrap_or_else(|| "unreadable".to_owned())));
        }
    };
    let found = object.class.clone();
    check("CKA_CLASS", class.to_owned(), found, object.class.as_deref() == Some(class));
    let types = key_types(spec);
    let fits = object.key_type.as_deref().is_some_and(|found| types.contains(&found));
    check("CKA_KEY_TYPE", types.join(" or "), object.key_type.clone(), fits);
    match size(spec) {
        Size::Bytes(bytes) => check(
            "CKA_VALUE_LEN",
            bytes.to_string(),
            object.value_len.map(|n| n.to_string()),
            object.value_len == Some(bytes),
        ),
        Size::Bits(bits) => check(
            "the modulus's length",
            bits.to_string(),
            object.modulus_bits.map(|n| n.to_string()),
            object.modulus_bits == Some(bits),
        ),
        Size::Curve(curve) => {
            check("CKA_EC_PARAMS", curve.to_owned(), object.curve.clone(), object.curve.as_deref() == Some(curve))
        }
        Size::ParameterSet(set) => check(
            "CKA_PARAMETER_SET",
            set.to_owned(),
            object.parameter_set.clone(),
            object.parameter_set.as_deref() == Some(set),
        ),
    }
    faults
}

enum Size {
    Bytes(u64),
    Bits(u64),
    Curve(&'static str),
    ParameterSet(&'static str),
}

fn size(spec: KeySpec) -> Size {
    match spec {
        KeySpec::SymmetricDefault => Size::Bytes(32),
        KeySpec::Rsa2048 => Size::Bits(2048),
        KeySpec::Rsa3072 => Size::Bits(3072),
        KeySpec::Rsa4096 => Size::Bits(4096),
        KeySpec::EccNistP256 => Size::Curve("P-256"),
        KeySpec::EccNistP384 => Size::Curve("P-384"),
        KeySpec::EccNistP521 => Size::Curve("P-521"),
        KeySpec::EccSecgP256k1 => Size::Curve("secp256k1"),
        KeySpec::EccNistEdwards25519 => Size::Curve("Ed25519"),
        KeySpec::MlDsa44 => Size::ParameterSet("ML-DSA-44"),
        KeySpec::MlDsa65 => Size::ParameterSet("ML-DSA-65"),
        KeySpec::MlDsa87 => Size::ParameterSet("ML-DSA-87"),
        KeySpec::Hmac224 => Size::Bytes(28),
        KeySpec::Hmac256 => Size::Bytes(32),
        KeySpec::Hmac384 => Size::Bytes(48),
        KeySpec::Hmac512 => Size::Bytes(64),
    }
}

/// HMAC keys are generic secrets, or of the type that names their hash where another product made them.
fn key_types(spec: KeySpec) -> &'static [&'static str] {
    match spec {
        KeySpec::SymmetricDefault => &["CKK_AES"],
        KeySpec::Rsa2048 | KeySpec::Rsa3072 | KeySpec::Rsa4096 => &["CKK_RSA"],
        KeySpec::EccNistP256 | KeySpec::EccNistP384 | KeySpec::EccNistP521 | KeySpec::EccSecgP256k1 => &["CKK_EC"],
        KeySpec::EccNistEdwards25519 => &["CKK_EC_EDWARDS"],
        KeySpec::MlDsa44 | KeySpec::MlDsa65 | KeySpec::MlDsa87 => &["CKK_ML_DSA"],
        KeySpec::Hmac224 => &["CKK_GENERIC_SECRET", "CKK_SHA224_HMAC"],
        KeySpec::Hmac256 => &["CKK_GENERIC_SECRET", "CKK_SHA256_HMAC"],
        KeySpec::Hmac384 => &["CKK_GENERIC_SECRET", "CKK_SHA384_HMAC"],
        KeySpec::Hmac512 => &["CKK_GENERIC_SECRET", "CKK_SHA512_HMAC"],
    }
}

/// What a key must be able to do, by class.
pub fn lacking(spec: KeySpec, object: &ObjectFacts) -> Vec<&'static str> {
    let mut needed = Vec::new();
    let class = object.class.as_deref();
    if spec.is_symmetric() {
        needed.extend([("CKA_ENCRYPT", object.encrypt), ("CKA_DECRYPT", object.decrypt)]);
    } else if class != Some(PUBLIC) {
        needed.push(("CKA_SIGN", object.sign));
    }
    // Public halves are used in software: what they may do in the token does not matter.
    needed.into_iter().filter(|(_, flag)| *flag != Some(true)).map(|(name, _)| name).collect()
}

/// Uses that no key of the bridge may have beside its own. RULE: with WRAP beside DECRYPT another key that may leave the
/// token leaves it in clear, with UNWRAP or DERIVE beside ENCRYPT a key comes in or comes about whose value is known
/// outside; and a signing key that unwraps decrypts for whoever asks.
pub fn dangerous(object: &ObjectFacts) -> Vec<&'static str> {
    let uses = [("CKA_WRAP", object.wrap), ("CKA_UNWRAP", object.unwrap), ("CKA_DERIVE", object.derive)];
    uses.into_iter().filter(|(_, flag)| *flag == Some(true)).map(|(name, _)| name).collect()
}

/// Further uses that do no harm and were not asked for: the officer may want to know.
pub fn superfluous(spec: KeySpec, object: &ObjectFacts) -> Vec<&'static str> {
    let uses = if spec.is_symmetric() {
        [("CKA_SIGN", object.sign), ("CKA_VERIFY", object.verify)]
    } else {
        [("CKA_ENCRYPT", object.encrypt), ("CKA_DECRYPT", object.decrypt)]
    };
    uses.into_iter().filter(|(_, flag)| *flag == Some(true)).map(|(name, _)| name).collect()
}

/// The five attributes that protect a key, with what is expected of them.
pub fn protection(expected: &Evidence, object: &ObjectFacts) -> Vec<String> {
    let pairs = [
        ("CKA_SENSITIVE", object.sensitive, expected.sensitive),
        ("CKA_EXTRACTABLE", object.extractable, expected.extractable),
        ("CKA_ALWAYS_SENSITIVE", object.always_sensitive, expected.always_sensitive),
        ("CKA_NEVER_EXTRACTABLE", object.never_extractable, expected.never_extractable),
        ("CKA_LOCAL", object.local, expected.local),
    ];
    let mut faults: Vec<String> = pairs
        .into_iter()
        .filter(|(_, found, wanted)| *found != Some(*wanted))
        .map(|(name, found, wanted)| format!("{name} is {}, not {wanted}", shown(found)))
        .collect();
    if object.private != Some(true) {
        faults.push(format!("CKA_PRIVATE is {}, not true", shown(object.private)));
    }
    faults
}

/// What the token said when the key came. A key that the bridge generated had all of it or was destroyed at once.
pub fn expected_evidence(record: &KeyRecord, material: &Material) -> Evidence {
    let recorded = || serde_json::from_value::<Evidence>(material.evidence.clone()).ok();
    match record.provenance {
        Provenance::Adopted { .. } => recorded().unwrap_or_else(guarded),
        Provenance::Generated | Provenance::Rotated { .. } => guarded(),
    }
}

/// Of a key that was generated in the token and cannot leave it.
pub fn guarded() -> Evidence {
    Evidence {
        token_serial: String::new(),
        sensitive: true,
        extractable: false,
        always_sensitive: true,
        never_extractable: true,
        local: true,
    }
}

/// Everything about one object of a key that is not as it should be.
pub fn faults(record: &KeyRecord, material: &Material, object: &ObjectFacts) -> Vec<String> {
    let class = object.class.as_deref().unwrap_or_default();
    let mut faults = form(record.spec, object, class);
    if class != PUBLIC {
        faults.extend(protection(&expected_evidence(record, material), object));
    }
    faults.extend(lacking(record.spec, object).into_iter().map(|name| format!("{name} is not true")));
    faults.extend(dangerous(object).into_iter().map(|name| format!("{name} is true, not false")));
    // Other products label the halves of a pair as they like.
    let any_label = class == PUBLIC && matches!(record.provenance, Provenance::Adopted { .. });
    let wanted = object_label(record);
    if !any_label && !same_label(&wanted, &object.label) {
        faults.push(format!("CKA_LABEL is `{}`, not `{wanted}`", object.label));
    }
    faults
}

/// Tokens that take short labels have them cut: the beginning, `#`, 16 hex digits.
pub fn same_label(wanted: &str, found: &str) -> bool {
    let cut = || {
        let (head, tag) = found.rsplit_once('#')?;
        Some(tag.len() == 16 && tag.bytes().all(|b| b.is_ascii_hexdigit()) && wanted.starts_with(head))
    };
    wanted == found || cut() == Some(true)
}

fn shown(flag: Option<bool>) -> String {
    flag.map_or_else(|| "unreadable".to_owned(), |flag| flag.to_string())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn aes() -> ObjectFacts {
        ObjectFacts {
            class: Some(SECRET.into()),
            key_type: Some("CKK_AES".into()),
            id: "01".into(),
            label: "x".into(),
            private: Some(true),
            sensitive: Some(true),
            extractable: Some(false),
            always_sensitive: Some(true),
            never_extractable: Some(true),
            local: Some(true),
            encrypt: Some(true),
            decrypt: Some(true),
            value_len: Some(32),
            ..ObjectFacts::default()
        }
    }

    fn pair(key_type: &str, bits: Option<u64>, curve: Option<&str>) -> ObjectFacts {
        ObjectFacts {
            class: Some(PRIVATE.into()),
            key_type: Some(key_type.into()),
            modulus_bits: bits,
            curve: curve.map(str::to_owned),
            sign: Some(true),
            value_len: None,
            encrypt: None,
            ..aes()
        }
    }

    #[test]
    fn specs_by_type_and_size() {
        let hmac = |key_type: &str, len| ObjectFacts {
            key_type: Some(key_type.into()),
            value_len: Some(len),
            sign: Some(true),
            ..aes()
        };
        let of_set = |key_type: &str, set: Option<&str>| ObjectFacts {
            parameter_set: set.map(str::to_owned),
            ..pair(key_type, None, None)
        };
        for (object, spec) in [
            (aes(), Some(KeySpec::SymmetricDefault)),
            (ObjectFacts { value_len: Some(16), ..aes() }, None),
            (ObjectFacts { value_len: None, ..aes() }, None),
            (hmac("CKK_GENERIC_SECRET", 28), Some(KeySpec::Hmac224)),
            (hmac("CKK_SHA384_HMAC", 48), Some(KeySpec::Hmac384)),
            (hmac("CKK_SHA384_HMAC", 64), None),
            (hmac("CKK_DES3", 24), None),
            (pair("CKK_RSA", Some(3072), None), Some(KeySpec::Rsa3072)),
            (pair("CKK_RSA", Some(1024), None), None),
            (pair("CKK_EC", None, Some("P-521")), Some(KeySpec::EccNistP521)),
            (pair("CKK_EC", None, Some("1.3.36.3.3.2.8.1.1.7")), None),
            (pair("CKK_EC_EDWARDS", None, Some("Ed25519")), Some(KeySpec::EccNistEdwards25519)),
            (of_set("CKK_ML_DSA", Some("ML-DSA-87")), Some(KeySpec::MlDsa87)),
            (of_set("CKK_ML_DSA", Some("0x4")), None),
            (of_set("CKK_ML_DSA", None), None),
            (of_set("CKK_ML_KEM", Some("ML-DSA-44")), None),
            (ObjectFacts { class: Some(PUBLIC.into()), ..pair("CKK_RSA", Some(2048), None) }, None),
        ] {
            assert_eq!(spec_of(&object).ok(), spec, "{object:?}: {:?}", spec_of(&object));
        }
        assert!(spec_of(&ObjectFacts { value_len: Some(16), ..aes() }).unwrap_err().contains("16 bytes"));
    }

    #[test]
    fn each_protection_counts_and_what_the_token_does_not_say_counts_against_it() {
        assert!(protection(&guarded(), &aes()).is_empty());
        for (bad, name) in [
            (ObjectFacts { sensitive: Some(false), ..aes() }, "CKA_SENSITIVE"),
            (ObjectFacts { extractable: Some(true), ..aes() }, "CKA_EXTRACTABLE"),
            (ObjectFacts { always_sensitive: None, ..aes() }, "CKA_ALWAYS_SENSITIVE"),
            (ObjectFacts { never_extractable: Some(false), ..aes() }, "CKA_NEVER_EXTRACTABLE"),
            (ObjectFacts { local: Some(false), ..aes() }, "CKA_LOCAL"),
            (ObjectFacts { private: Some(false), ..aes() }, "CKA_PRIVATE"),
        ] {
            let faults = protection(&guarded(), &bad);
            assert!(faults.len() == 1 && faults[0].starts_with(name), "{faults:?}");
        }
    }

    #[test]
    fn uses() {
        let all = ObjectFacts { wrap: Some(true), unwrap: Some(true), derive: Some(true), ..aes() };
        assert_eq!(dangerous(&all), ["CKA_WRAP", "CKA_UNWRAP", "CKA_DERIVE"]);
        assert!(dangerous(&aes()).is_empty());
        assert!(lacking(KeySpec::SymmetricDefault, &aes()).is_empty());
        let no_decrypt = ObjectFacts { decrypt: Some(false), ..aes() };
        assert_eq!(lacking(KeySpec::SymmetricDefault, &no_decrypt), ["CKA_DECRYPT"]);
        assert_eq!(lacking(KeySpec::Rsa2048, &ObjectFacts { sign: None, ..aes() }), ["CKA_SIGN"]);
        assert_eq!(superfluous(KeySpec::SymmetricDefault, &ObjectFacts { sign: Some(true), ..aes() }), ["CKA_SIGN"]);
    }

    #[test]
    fn cut_labels() {
        let whole = "hsm-bridge/kms/4a5f9a4e-7c3b-4dd0-8f0a-0a7b7a3c9d55";
        assert!(same_label(whole, whole));
        assert!(same_label(whole, "hsm-bridge/kms/4a5f#0123456789abcdef"));
        assert!(!same_label(whole, "hsm-bridge/kms/4a5f"));
        assert!(!same_label(whole, "other#0123456789abcdef"));
        assert!(!same_label(whole, "hsm-bridge/kms/4a5f#0123456789abcdeg"));
    }
}
