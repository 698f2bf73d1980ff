//! Templates of the objects that the bridge makes: in the token, private, sensitive, not extractable, for one purpose.
//! What a key is not for stands there as false: some tokens grant by default.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, KeyType, MlDsaParameterSetType};

use super::{KeyKind, MlDsa, Rung};

/// `CKA_ID` and `CKA_LABEL`, and whether the object outlives its session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Naming<'a> {
    pub(super) id: &'a [u8],
    pub(super) label: &'a str,
    /// `false` for the probe's throw-away keys.
    pub(super) token: bool,
}

pub(super) enum Recipe {
    Secret { mechanism: Mechanism<'static>, template: Vec<Attribute> },
    Pair { mechanism: Mechanism<'static>, public: Vec<Attribute>, private: Vec<Attribute> },
}

/// DER of the object identifier 1.3.101.112.
pub(super) const ED25519_PARAMETERS: [u8; 5] = [0x06, 0x03, 0x2b, 0x65, 0x70];

/// The templates for a new object, as much of them as the rung says.
pub(super) fn recipe(kind: KeyKind, naming: Naming<'_>, rung: Rung) -> Recipe {
    match full(kind, naming) {
        Recipe::Secret { mechanism, template } => Recipe::Secret { mechanism, template: cut(template, rung) },
        Recipe::Pair { mechanism, public, private } => {
            Recipe::Pair { mechanism, public: cut(public, rung), private: cut(private, rung) }
        }
    }
}

/// RULE: what protects the key stays on every rung. What a rung leaves out is read back from the object.
fn cut(mut template: Vec<Attribute>, rung: Rung) -> Vec<Attribute> {
    template.retain(|attribute| match (rung, attribute) {
        (Rung::Full, _) => true,
        // Of a public key: what the token makes of it is its own affair, since nothing in it is secret.
        (_, Attribute::Private(false)) => false,
        (Rung::PublicDefault, _) => true,
        (Rung::NoDerive, attribute) => !matches!(attribute, Attribute::Derive(_)),
        (
            Rung::Minimal,
            Attribute::Derive(false)
            | Attribute::Encrypt(false)
            | Attribute::Decrypt(false)
            | Attribute::Sign(false)
            | Attribute::Verify(false)
            | Attribute::Wrap(false)
            | Attribute::Unwrap(false)
            // The mechanism says it.
            | Attribute::KeyType(_),
        ) => false,
        (Rung::Minimal, _) => true,
    });
    template
}

fn full(kind: KeyKind, naming: Naming<'_>) -> Recipe {
    match kind {
        KeyKind::Aes256 => {
            let mut template = guarded(naming);
            template.extend([
                Attribute::KeyType(KeyType::AES),
                Attribute::ValueLen(32.into()),
                Attribute::Encrypt(true),
                Attribute::Decrypt(true),
                Attribute::Sign(false),
                Attribute::Verify(false),
                Attribute::Wrap(false),
                Attribute::Unwrap(false),
            ]);
            Recipe::Secret { mechanism: Mechanism::AesKeyGen, template }
        }
        KeyKind::Hmac(hash) => {
            let mut template = guarded(naming);
            template.extend([
                Attribute::KeyType(KeyType::GENERIC_SECRET),
                Attribute::ValueLen((hash.length() as u64).into()),
                Attribute::Sign(true),
                Attribute::Verify(true),
                Attribute::Encrypt(false),
                Attribute::Decrypt(false),
                Attribute::Wrap(false),
                Attribute::Unwrap(false),
            ]);
            Recipe::Secret { mechanism: Mechanism::GenericSecretKeyGen, template }
        }
        KeyKind::Rsa(bits) => pair(
            naming,
            Mechanism::RsaPkcsKeyPairGen,
            [Attribute::ModulusBits(u64::from(bits).into()), Attribute::PublicExponent(vec![1, 0, 1])],
        ),
        KeyKind::Ec(curve) => {
            pair(naming, Mechanism::EccKeyPairGen, [Attribute::EcParams(curve.parameters().to_vec())])
        }
        KeyKind::Ed25519 => {
            pair(naming, Mechanism::EccEdwardsKeyPairGen, [Attribute::EcParams(ED25519_PARAMETERS.to_vec())])
        }
        KeyKind::MlDsa(set) => {
            let set = match set {
                MlDsa::MlDsa44 => MlDsaParameterSetType::ML_DSA_44,
                MlDsa::MlDsa65 => MlDsaParameterSetType::ML_DSA_65,
                MlDsa::MlDsa87 => MlDsaParameterSetType::ML_DSA_87,
            };
            pair(naming, Mechanism::MlDsaKeyPairGen, [Attribute::ParameterSet(set.into())])
        }
    }
}

fn pair<const N: usize>(naming: Naming<'_>, mechanism: Mechanism<'static>, parameters: [Attribute; N]) -> Recipe {
    let mut public = vec![
        Attribute::Token(naming.token),
        Attribute::Id(naming.id.to_vec()),
        Attribute::Label(naming.label.as_bytes().to_vec()),
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::Encrypt(false),
        Attribute::Wrap(false),
        Attribute::Derive(false),
    ];
    public.extend(parameters);
    let mut private = guarded(naming);
    private.extend([Attribute::Sign(true), Attribute::Decrypt(false), Attribute::Unwrap(false)]);
    Recipe::Pair { mechanism, public, private }
}

/// What every secret or private key has.
fn guarded(naming: Naming<'_>) -> Vec<Attribute> {
    vec![
        Attribute::Token(naming.token),
        Attribute::Id(naming.id.to_vec()),
        Attribute::Label(naming.label.as_bytes().to_vec()),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Derive(false),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Curve, Hash};

    const KINDS: [KeyKind; 6] = [
        KeyKind::Aes256,
        KeyKind::Hmac(Hash::Sha256),
        KeyKind::Rsa(2048),
        KeyKind::Ec(Curve::P256),
        KeyKind::Ed25519,
        KeyKind::MlDsa(MlDsa::MlDsa65),
    ];

    fn guarded_template(kind: KeyKind, rung: Rung) -> Vec<Attribute> {
        match recipe(kind, Naming { id: &[1], label: "x", token: true }, rung) {
            Recipe::Secret { template, .. } => template,
            Recipe::Pair { private, .. } => private,
        }
    }

    #[test]
    fn no_key_can_leave_the_token_or_serve_two_purposes() {
        for kind in KINDS {
            let template = guarded_template(kind, Rung::Full);
            for wanted in [Attribute::Derive(false), Attribute::Unwrap(false)] {
                assert!(template.contains(&wanted), "{kind:?} lacks {wanted:?}");
            }
        }
        for (kind, rung) in KINDS.iter().flat_map(|kind| Rung::ALL.map(|rung| (*kind, rung))) {
            let template = guarded_template(kind, rung);
            for wanted in [
                Attribute::Token(true),
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Id(vec![1]),
                Attribute::Label(b"x".to_vec()),
            ] {
                assert!(template.contains(&wanted), "{kind:?} {rung:?} lacks {wanted:?}");
            }
            let signs = template.contains(&Attribute::Sign(true));
            let encrypts = template.contains(&Attribute::Encrypt(true)) || template.contains(&Attribute::Decrypt(true));
            assert!(signs != encrypts, "{kind:?} {rung:?}");
        }
    }

    #[test]
    fn each_rung_says_less() {
        for kind in KINDS {
            let lengths = Rung::ALL.map(|rung| guarded_template(kind, rung).len());
            assert!(
                lengths[0] == lengths[1] && lengths[1] > lengths[2] && lengths[2] > lengths[3],
                "{kind:?}: {lengths:?}"
            );
            let naming = Naming { id: &[1], label: "x", token: true };
            if let Recipe::Pair { public: full, .. } = recipe(kind, naming, Rung::Full) {
                let Recipe::Pair { public, .. } = recipe(kind, naming, Rung::PublicDefault) else { panic!("a pair") };
                assert_eq!(full.len(), public.len() + 1);
                assert!(full.contains(&Attribute::Private(false)) && !public.contains(&Attribute::Private(false)));
            }
        }
        let minimal = guarded_template(KeyKind::Aes256, Rung::Minimal);
        assert!(minimal.contains(&Attribute::ValueLen(32.into())), "the length of the key is no guess");
    }
}
