//! Making keys: the objects, their attributes read back, the fingerprint. Whatever fails after an object exists destroys it.

use std::sync::Arc;
use std::time::Instant;

use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::session::Session;

use super::error::CallError;
use super::fingerprint::{Fingerprint, Mismatch, read_spki};
use super::handles::Class;
use super::keygen::{Keygen, Task, destroy};
use super::template::{Naming, Recipe, recipe};
use super::{Done, ErrorClass, Evidence, Generated, KeyKind, MaterialId, SystemKey, TokenError};

pub(super) struct Generate {
    pub(super) kind: KeyKind,
    pub(super) material: MaterialId,
    pub(super) label: String,
}

impl Task for Generate {
    type Output = Done<Generated>;
    const NAME: &'static str = "generate";

    fn run(self, keygen: &mut Keygen) -> Result<Done<Generated>, TokenError> {
        keygen.ready()?;
        if keygen.shared.handles.knows(self.material) {
            return Err(TokenError::own(
                ErrorClass::WrongKey,
                "C_GenerateKey",
                "the token already holds an object with this id",
            ));
        }
        let started = Instant::now();
        let id = self.material.cka_id();
        let naming = Naming { id: &id, label: &self.label, token: true };
        let made = Made::make(keygen, self.kind, naming)?;
        let (evidence, fingerprint, spki) = made.attest_or_destroy(keygen, self.kind)?;
        let fingerprint = fingerprint.encode();
        keygen.shared.handles.put(self.material, &made.objects(), Some(Arc::from(fingerprint.as_slice())));
        let facts = keygen.shared.facts(generation_mechanism(self.kind), started);
        Ok(Done { value: Generated { fingerprint, spki, evidence, object_id: id }, facts })
    }
}

/// Makes a system key unless the token has it. `true`: made now.
pub(super) struct EnsureSystemKey {
    pub(super) key: SystemKey,
}

impl Task for EnsureSystemKey {
    type Output = bool;
    const NAME: &'static str = "ensure_system_key";

    fn run(self, keygen: &mut Keygen) -> Result<bool, TokenError> {
        keygen.ready()?;
        match keygen.find_system(self.key)?.as_slice() {
            [] => {}
            [handle] => {
                keygen.made_system(self.key, *handle);
                return Ok(false);
            }
            _ => {
                return Err(TokenError::own(
                    ErrorClass::WrongKey,
                    "C_FindObjects",
                    "several objects carry the label of this system key: none is used",
                ));
            }
        }
        // A token that went away also shows nothing.
        keygen.anchor()?;
        let label = self.key.label(&keygen.shared.prefix);
        // Eight bytes, so that the id can be no `MaterialId` and no KMS call can name the key.
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, label.as_bytes());
        let id = digest.as_ref().get(..8).unwrap_or_default();
        let made = Made::make(keygen, KeyKind::Aes256, Naming { id, label: &label, token: true })?;
        made.attest_or_destroy(keygen, KeyKind::Aes256)?;
        keygen.made_system(self.key, made.key);
        Ok(true)
    }
}

/// Objects that exist now.
#[derive(Debug, Clone, Copy)]
struct Made {
    class: Class,
    /// The secret key, or the private half.
    key: ObjectHandle,
    public: Option<ObjectHandle>,
}

impl Made {
    fn make(keygen: &mut Keygen, kind: KeyKind, naming: Naming<'_>) -> Result<Made, TokenError> {
        keygen
            .seat
            .with(|_, session| create(session, kind, naming))
            .map(|(key, public)| Made {
                class: if public.is_some() { Class::Private } else { Class::Secret },
                key,
                public,
            })
            .map_err(|error| error.into_error(format!("the token makes no {} key", kind.name())))
    }

    fn objects(&self) -> Vec<(Class, ObjectHandle)> {
        std::iter::once((self.class, self.key)).chain(self.public.map(|public| (Class::Public, public))).collect()
    }

    fn attest_or_destroy(
        &self,
        keygen: &mut Keygen,
        kind: KeyKind,
    ) -> Result<(Evidence, Fingerprint, Option<Vec<u8>>), TokenError> {
        self.attest(keygen, kind).inspect_err(|_| {
            for (_, object) in self.objects() {
                if let Err(error) = destroy(&mut keygen.seat, object) {
                    tracing::error!(?error, "an object that failed its checks could not be destroyed");
                }
            }
        })
    }

    fn attest(
        &self,
        keygen: &mut Keygen,
        kind: KeyKind,
    ) -> Result<(Evidence, Fingerprint, Option<Vec<u8>>), TokenError> {
        let evidence = self.evidence(keygen)?;
        if !enforced(&evidence) {
            return Err(TokenError::own(
                ErrorClass::Unsupported,
                "C_GetAttributeValue",
                format!("the token does not protect the key as asked ({evidence:?}): it was destroyed"),
            ));
        }
        let unusable = |error: CallError| error.into_error("the new key cannot be used");
        let seat = &mut keygen.seat;
        match (kind, self.public) {
            (KeyKind::Aes256, _) => Ok((evidence, Fingerprint::of_aes(seat, self.key).map_err(unusable)?, None)),
            (KeyKind::Hmac(hash), _) => {
                Ok((evidence, Fingerprint::of_hmac(seat, self.key, hash).map_err(unusable)?, None))
            }
            (KeyKind::Rsa(_) | KeyKind::Ec(_) | KeyKind::Ed25519, Some(public)) => {
                let spki = read_spki(seat, public).map_err(unusable)?.ok_or_else(|| {
                    TokenError::own(ErrorClass::Unsupported, "C_GetAttributeValue", "the public key cannot be read")
                })?;
                let fingerprint = Fingerprint::of_pair(seat, self.key, &spki).map_err(|mismatch| match mismatch {
                    Mismatch::Call(error) => unusable(error),
                    Mismatch::WrongKey(detail) => TokenError::own(ErrorClass::Unsupported, "C_Sign", detail),
                })?;
                Ok((evidence, fingerprint, Some(spki)))
            }
            (KeyKind::Rsa(_) | KeyKind::Ec(_) | KeyKind::Ed25519, None) => {
                Err(TokenError::own(ErrorClass::Unsupported, "C_GenerateKeyPair", "the pair has no public half"))
            }
        }
    }

    fn evidence(&self, keygen: &mut Keygen) -> Result<Evidence, TokenError> {
        let found = keygen
            .seat
            .attributes(
                self.key,
                &[
                    AttributeType::Sensitive,
                    AttributeType::Extractable,
                    AttributeType::AlwaysSensitive,
                    AttributeType::NeverExtractable,
                    AttributeType::Local,
                ],
            )
            .map_err(|error| error.into_error("the attributes of the new key cannot be read"))?;
        // What the token does not say counts against it.
        let mut evidence = Evidence {
            token_serial: keygen.shared.info.serial.clone(),
            sensitive: false,
            extractable: true,
            always_sensitive: false,
            never_extractable: false,
            local: false,
        };
        for attribute in found {
            match attribute {
                Attribute::Sensitive(value) => evidence.sensitive = value,
                Attribute::Extractable(value) => evidence.extractable = value,
                Attribute::AlwaysSensitive(value) => evidence.always_sensitive = value,
                Attribute::NeverExtractable(value) => evidence.never_extractable = value,
                Attribute::Local(value) => evidence.local = value,
                _ => {}
            }
        }
        Ok(evidence)
    }
}

/// C_GenerateKey or C_GenerateKeyPair: the secret or private object, and the public one.
pub(super) fn create(
    session: &Session,
    kind: KeyKind,
    naming: Naming<'_>,
) -> Result<(ObjectHandle, Option<ObjectHandle>), CallError> {
    match recipe(kind, naming) {
        Recipe::Secret { mechanism, template } => session
            .generate_key(&mechanism, &template)
            .map(|key| (key, None))
            .map_err(|error| CallError::from_cryptoki("C_GenerateKey", &error)),
        Recipe::Pair { mechanism, public, private } => session
            .generate_key_pair(&mechanism, &public, &private)
            .map(|(public, private)| (private, Some(public)))
            .map_err(|error| CallError::from_cryptoki("C_GenerateKeyPair", &error)),
    }
}

fn enforced(evidence: &Evidence) -> bool {
    evidence.sensitive
        && !evidence.extractable
        && evidence.always_sensitive
        && evidence.never_extractable
        && evidence.local
}

fn generation_mechanism(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Aes256 => "CKM_AES_KEY_GEN",
        KeyKind::Rsa(_) => "CKM_RSA_PKCS_KEY_PAIR_GEN",
        KeyKind::Ec(_) => "CKM_EC_KEY_PAIR_GEN",
        KeyKind::Ed25519 => "CKM_EC_EDWARDS_KEY_PAIR_GEN",
        KeyKind::Hmac(_) => "CKM_GENERIC_SECRET_KEY_GEN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attribute_counts() {
        let good = Evidence {
            token_serial: String::new(),
            sensitive: true,
            extractable: false,
            always_sensitive: true,
            never_extractable: true,
            local: true,
        };
        assert!(enforced(&good));
        assert!(!enforced(&Evidence { sensitive: false, ..good.clone() }));
        assert!(!enforced(&Evidence { extractable: true, ..good.clone() }));
        assert!(!enforced(&Evidence { always_sensitive: false, ..good.clone() }));
        assert!(!enforced(&Evidence { never_extractable: false, ..good.clone() }));
        assert!(!enforced(&Evidence { local: false, ..good }));
    }
}
