//! Making keys: the objects, their attributes read back, the fingerprint. Whatever fails after an object exists destroys it.

use std::sync::Arc;
use std::time::Instant;

use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki_sys as sys;

use super::error::{CallError, Reaction};
use super::fingerprint::{Fingerprint, Mismatch, read_spki};
use super::handles::Class;
use super::keygen::{Keygen, Task, destroy};
use super::names::system_id;
use super::object::Attributes;
use super::template::{Naming, Recipe, recipe};
use super::{Done, ErrorClass, Evidence, Generated, KeyKind, MaterialId, ObjectFacts, Rung, SystemKey, TokenError};

/// Ids to try before the token counts as full.
const FREE_ID_TRIES: usize = 64;

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
        let id = match keygen.shared.names.id_bytes {
            None => keygen.shared.handles.placed(self.material).unwrap_or_else(|| self.material.cka_id()),
            Some(bytes) => free_id(keygen, bytes)?,
        };
        let label = keygen.shared.names.label(&self.label, self.material);
        let made = Made::make(keygen, self.kind, Naming { id: &id, label: &label, token: true })?;
        // Nobody has this key yet: that its object is gone is the token's failure, not a key that somebody misses.
        let (evidence, fingerprint, spki) =
            made.attest_or_destroy(keygen, self.kind).map_err(|error| match error.class {
                ErrorClass::KeyMissing => TokenError { class: ErrorClass::Context, ..error },
                _ => error,
            })?;
        let fingerprint = fingerprint.encode();
        if id != self.material.cka_id() {
            keygen.shared.handles.place(vec![(self.material, id.clone())]);
        }
        keygen.shared.handles.put(self.material, &made.objects(), Some(Arc::from(fingerprint.as_slice())));
        let facts = keygen.shared.facts(generation_mechanism(self.kind), started);
        Ok(Done { value: Generated { fingerprint, spki, evidence, object_id: id }, facts })
    }
}

/// A `CKA_ID` of this length that no object has, by lot: ids of a token with short ones are handed out to others too.
fn free_id(keygen: &mut Keygen, bytes: usize) -> Result<Vec<u8>, TokenError> {
    for _ in 0..FREE_ID_TRIES {
        let mut id = vec![0; bytes];
        getrandom::fill(&mut id)
            .map_err(|_| TokenError::own(ErrorClass::Context, "getrandom", "no random bytes for an id"))?;
        // The ends of the range mean "any" to some tokens.
        let special = id.iter().all(|byte| *byte == 0) || id.iter().all(|byte| *byte == 0xff);
        if !special && keygen.shared.handles.placed_at(&id).is_none() && keygen.find_id(&id)?.is_empty() {
            return Ok(id);
        }
    }
    Err(TokenError::own(ErrorClass::Full, "C_FindObjects", format!("no free id of {bytes} bytes was found")))
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
        let found = keygen.find_system(self.key)?;
        let halves = |class| found.iter().filter(|(found, _)| *found == class).count();
        match (halves(self.key.class()), halves(Class::Public)) {
            (0, 0) => {}
            (1, public) if public == usize::from(self.key.class() == Class::Private) => {
                keygen.made_system(self.key, &found);
                return Ok(false);
            }
            _ => {
                return Err(TokenError::own(
                    ErrorClass::WrongKey,
                    "C_FindObjects",
                    "the objects with the label of this system key are several, or half a pair: none is used",
                ));
            }
        }
        // A token that went away also shows nothing, and one whose search failed: a second key would take this one's place.
        keygen.anchor_is_found()?;
        if !keygen.find_system(self.key)?.is_empty() {
            return Err(TokenError::own(
                ErrorClass::Context,
                "C_FindObjects",
                "a search did not show a system key that the next one shows",
            ));
        }
        let kind = match self.key {
            SystemKey::StoreKek | SystemKey::IamWrap | SystemKey::Anchor => KeyKind::Aes256,
            SystemKey::Attest => KeyKind::Rsa(3072),
        };
        let label = keygen.shared.names.system(self.key);
        let id = match keygen.shared.names.id_bytes {
            None => system_id(&label),
            // RULE: system keys are found by label; their id must only be nobody else's.
            Some(bytes) => free_id(keygen, bytes)?,
        };
        let made = Made::make(keygen, kind, Naming { id: &id, label: &label, token: true })?;
        made.attest_or_destroy(keygen, kind)?;
        // Another key than the one that was there, if one was.
        keygen.shared.handles.forget_proof(self.key);
        keygen.made_system(self.key, &made.objects());
        Ok(true)
    }
}

/// Objects that exist now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    pub(super) class: Class,
    /// The secret key, or the private half.
    pub(super) key: ObjectHandle,
    pub(super) public: Option<ObjectHandle>,
}

impl Made {
    /// RULE: what a try that failed left under this id and label is destroyed before the next one: an error may come after the
    /// effect, and two objects with one id make a key that nobody may use.
    fn make(keygen: &mut Keygen, kind: KeyKind, naming: Naming<'_>) -> Result<Made, TokenError> {
        let ladder = Arc::clone(&keygen.shared.ladder);
        let mut rungs = ladder.iter().copied().peekable();
        let mut retried = false;
        loop {
            let Some(rung) = rungs.peek().copied() else {
                return Err(TokenError::own(ErrorClass::Unsupported, "C_GenerateKey", "no template is known to work"));
            };
            let made = keygen.seat.with_exclusive(|_, session| create(session, kind, naming, &[rung]));
            let error = match made {
                Ok((key, public)) => {
                    let class = if public.is_some() { Class::Private } else { Class::Secret };
                    return Ok(Made { class, key, public });
                }
                Err(error) => error,
            };
            let again = if is_about_the_template(error.rv) {
                tracing::debug!(?rung, ?error, "the token does not like the template");
                rungs.next();
                rungs.peek().is_some()
            } else {
                let lost = matches!(error.reaction(), Reaction::FreshSession | Reaction::LogIn);
                lost && !std::mem::replace(&mut retried, true)
            };
            if !again {
                return Err(error.into_error(format!("the token makes no {} key", kind.name())));
            }
            if retried {
                keygen.seat.renew();
                keygen.ready()?;
            }
            clear_away(keygen, naming)?;
        }
    }

    pub(super) fn objects(&self) -> Vec<(Class, ObjectHandle)> {
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
        let attributes = self.attributes(keygen)?;
        let evidence = evidence(&keygen.shared.serial, &attributes);
        if !enforced(&evidence) || serves_more(&attributes) {
            return Err(TokenError::own(
                ErrorClass::Unsupported,
                "C_GetAttributeValue",
                format!("the token does not protect the key as asked ({attributes:?}): it was destroyed"),
            ));
        }
        let (fingerprint, spki) = self.prove(keygen, kind)?;
        Ok((evidence, fingerprint, spki))
    }

    /// Uses the key: the fingerprint, and the public key of a pair.
    pub(super) fn prove(
        &self,
        keygen: &mut Keygen,
        kind: KeyKind,
    ) -> Result<(Fingerprint, Option<Vec<u8>>), TokenError> {
        let unusable = |error: CallError| error.into_error("the key cannot be used");
        let seat = &mut keygen.seat;
        match (kind, self.public) {
            (KeyKind::Aes256, _) => Ok((Fingerprint::of_aes(seat, self.key).map_err(unusable)?, None)),
            (KeyKind::Hmac(hash), _) => Ok((Fingerprint::of_hmac(seat, self.key, hash).map_err(unusable)?, None)),
            (KeyKind::Rsa(_) | KeyKind::Ec(_) | KeyKind::Ed25519 | KeyKind::MlDsa(_), Some(public)) => {
                let spki = read_spki(seat, public).map_err(unusable)?.ok_or_else(|| {
                    TokenError::own(ErrorClass::Unsupported, "C_GetAttributeValue", "the public key cannot be read")
                })?;
                let fingerprint = Fingerprint::of_pair(seat, self.key, &spki).map_err(|mismatch| match mismatch {
                    Mismatch::Call(error) => unusable(error),
                    Mismatch::WrongKey(detail) => TokenError::own(ErrorClass::Unsupported, "C_Sign", detail),
                })?;
                Ok((fingerprint, Some(spki)))
            }
            (KeyKind::Rsa(_) | KeyKind::Ec(_) | KeyKind::Ed25519 | KeyKind::MlDsa(_), None) => {
                Err(TokenError::own(ErrorClass::Unsupported, "C_GenerateKeyPair", "the pair has no public half"))
            }
        }
    }

    fn attributes(&self, keygen: &mut Keygen) -> Result<ObjectFacts, TokenError> {
        Attributes::all(&mut keygen.seat, self.key)
            .map(|attributes| attributes.facts())
            .map_err(|error| error.into_error("the attributes of the new key cannot be read"))
    }
}

/// Destroys what a try to make an object left. Nobody else has an object with this id: it was looked for, or is new.
fn clear_away(keygen: &mut Keygen, naming: Naming<'_>) -> Result<(), TokenError> {
    let left = |keygen: &mut Keygen| -> Result<Vec<_>, TokenError> {
        let mut seen = keygen.find_id(naming.id)?;
        seen.retain(|seen| seen.label == naming.label.as_bytes());
        Ok(seen)
    };
    let told = "what a failed call left cannot be destroyed";
    for seen in left(keygen)? {
        tracing::warn!(label = naming.label, "an object of a call that failed is there: it is destroyed");
        destroy(&mut keygen.seat, seen.handle).map_err(|error| error.with_class(ErrorClass::Context, told))?;
    }
    if left(keygen)?.is_empty() { Ok(()) } else { Err(TokenError::own(ErrorClass::Context, "C_DestroyObject", told)) }
}

/// What the token does not say counts against it.
pub(super) fn evidence(serial: &str, facts: &ObjectFacts) -> Evidence {
    Evidence {
        token_serial: serial.to_owned(),
        sensitive: facts.sensitive.unwrap_or(false),
        extractable: facts.extractable.unwrap_or(true),
        always_sensitive: facts.always_sensitive.unwrap_or(false),
        never_extractable: facts.never_extractable.unwrap_or(false),
        local: facts.local.unwrap_or(false),
    }
}

/// The lower rungs of the template ladder leave unsaid what the key is not for; whoever may wrap with it, unwrap with it
/// or derive from it needs no permission to decrypt.
fn serves_more(facts: &ObjectFacts) -> bool {
    [facts.wrap, facts.unwrap, facts.derive].contains(&Some(true))
}

/// C_GenerateKey or C_GenerateKeyPair: the secret or private object, and the public one.
pub(super) fn create(
    session: &Session,
    kind: KeyKind,
    naming: Naming<'_>,
    ladder: &[Rung],
) -> Result<(ObjectHandle, Option<ObjectHandle>), CallError> {
    climb(ladder, |rung| match recipe(kind, naming, rung) {
        Recipe::Secret { mechanism, template } => session
            .generate_key(&mechanism, &template)
            .map(|key| (key, None))
            .map_err(|error| CallError::from_cryptoki("C_GenerateKey", &error)),
        Recipe::Pair { mechanism, public, private } => session
            .generate_key_pair(&mechanism, &public, &private)
            .map(|(public, private)| (private, Some(public)))
            .map_err(|error| CallError::from_cryptoki("C_GenerateKeyPair", &error)),
    })
}

/// The first rung whose template the token does not complain about. The last complaint is told.
fn climb<T>(ladder: &[Rung], mut make: impl FnMut(Rung) -> Result<T, CallError>) -> Result<T, CallError> {
    let mut complaint = CallError { function: "C_GenerateKey", rv: sys::CKR_TEMPLATE_INCONSISTENT };
    for rung in ladder {
        match make(*rung) {
            Err(error) if is_about_the_template(error.rv) => {
                tracing::debug!(?rung, ?error, "the token does not like the template");
                complaint = error;
            }
            answer => return answer,
        }
    }
    Err(complaint)
}

fn is_about_the_template(rv: u64) -> bool {
    matches!(
        rv,
        sys::CKR_TEMPLATE_INCONSISTENT
            | sys::CKR_TEMPLATE_INCOMPLETE
            | sys::CKR_ATTRIBUTE_TYPE_INVALID
            | sys::CKR_ATTRIBUTE_VALUE_INVALID
            | sys::CKR_ATTRIBUTE_READ_ONLY
    )
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
        KeyKind::MlDsa(_) => "CKM_ML_DSA_KEY_PAIR_GEN",
        KeyKind::Hmac(_) => "CKM_GENERIC_SECRET_KEY_GEN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_is_climbed_only_for_templates() {
        let complain = |rv| CallError { function: "C_GenerateKey", rv };
        let mut tried = Vec::new();
        let made = climb(&Rung::ALL, |rung| {
            tried.push(rung);
            if rung == Rung::Minimal { Ok(7) } else { Err(complain(sys::CKR_ATTRIBUTE_TYPE_INVALID)) }
        });
        assert_eq!((made, tried.as_slice()), (Ok(7), &Rung::ALL[..]));
        let mut tries = 0;
        let full = climb::<()>(&Rung::ALL, |_| {
            tries += 1;
            Err(complain(sys::CKR_DEVICE_MEMORY))
        });
        assert_eq!((full, tries), (Err(complain(sys::CKR_DEVICE_MEMORY)), 1));
        let never = climb::<()>(&Rung::ALL, |_| Err(complain(sys::CKR_TEMPLATE_INCOMPLETE)));
        assert_eq!(never, Err(complain(sys::CKR_TEMPLATE_INCOMPLETE)));
    }

    #[test]
    fn silence_about_an_attribute_counts_against_the_token() {
        assert!(!enforced(&evidence("s", &ObjectFacts::default())));
        let facts = ObjectFacts { sensitive: Some(true), extractable: Some(false), ..ObjectFacts::default() };
        let good = ObjectFacts {
            always_sensitive: Some(true),
            never_extractable: Some(true),
            local: Some(true),
            ..facts.clone()
        };
        assert!(enforced(&evidence("s", &good)) && !enforced(&evidence("s", &facts)));
        assert!(!serves_more(&good));
        assert!(serves_more(&ObjectFacts { derive: Some(true), ..good.clone() }));
        assert!(serves_more(&ObjectFacts { unwrap: Some(true), ..good.clone() }));
        assert!(serves_more(&ObjectFacts { wrap: Some(true), ..good }));
    }

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
