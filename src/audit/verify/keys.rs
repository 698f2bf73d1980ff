//! The keys of a trail as its chain introduces them, and which of them may have signed what. RULE audit.md §7.5: a signature
//! counts only by the key that was valid for the period of what it signs; a later key cannot vouch for earlier records.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::certificate::{self, Trust};
use super::facts::KeyFact;
use super::note::{Note, NoteSignature, key_id};
use super::report::Verdict;
use super::signature::{HashOf, Kind, PublicKey};

/// A key that was replaced may sign what was begun at that moment.
const OVERLAP_MS: i64 = 5 * 60 * 1000;

#[derive(Debug, Clone)]
pub(super) struct Key {
    pub key_use: String,
    pub generation: u32,
    pub fingerprint: String,
    pub public: PublicKey,
    /// DER.
    pub certificate: Option<Vec<u8>>,
    /// The record that introduces it; `None`: known from a file beside the log only.
    pub introduced: Option<u64>,
    /// Milliseconds since the epoch.
    pub since: i64,
    pub until: Option<i64>,
    /// How it is vouched for.
    pub vouched: Option<String>,
}

/// What was signed: how many records there were, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub size: Option<u64>,
    /// Milliseconds since the epoch.
    pub time: Option<i64>,
}

#[derive(Default)]
pub(super) struct Keys {
    /// In the order of their introduction.
    known: Vec<Key>,
}

impl Keys {
    pub fn all(&self) -> &[Key] {
        &self.known
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Takes a key in. `introduced`: seq of the record that does it. Errors leave the key out, or, with a bad certificate, in.
    pub fn introduce(
        &mut self,
        fact: &KeyFact,
        introduced: Option<u64>,
        since: i64,
        until: Option<i64>,
        trust: Option<&Trust>,
    ) -> Result<(), (Verdict, String)> {
        let name = format!("{} key {}", fact.key_use, fact.generation);
        let bad = |what: String| (Verdict::BadSignature, format!("{name}: {what}"));
        let spki = STANDARD.decode(&fact.spki).map_err(|_| bad("the public key is not base64".into()))?;
        let public = PublicKey::from_spki(&spki).map_err(bad)?;
        let kind = match fact.key_use.as_str() {
            "digest" => Kind::Rsa,
            "checkpoint" => Kind::P256,
            _ => return Err(bad("no such use of a key is known".into())),
        };
        if public.kind() != kind {
            return Err(bad("it is of the wrong kind for its use".into()));
        }
        if public.fingerprint() != fact.fingerprint {
            return Err(bad("the fingerprint is not its own".into()));
        }
        let before = self.known.iter().rfind(|key| key.key_use == fact.key_use);
        if let Some(same) = self.known.iter().find(|key| key.public == public && key.key_use == fact.key_use) {
            // Told again, as after a restart.
            return if same.generation == fact.generation {
                Ok(())
            } else {
                Err(bad(format!("it was introduced as key {} before", same.generation)))
            };
        }
        if let Some(before) = before {
            if fact.generation <= before.generation {
                return Err(bad(format!("it is introduced after key {}", before.generation)));
            }
            if fact.previous_fingerprint.as_ref().is_some_and(|named| *named != before.fingerprint) {
                return Err(bad("it follows another key than the one before it".into()));
            }
        }
        let certificate = match &fact.certificate {
            Some(text) => Some(certificate::decode(text).map_err(bad)?),
            None => None,
        };
        let vouched = match &certificate {
            Some(der) => certificate::check(der, &public, trust, since).map(Some),
            None if trust.is_some() => Err("it has no certificate".into()),
            None => Ok(None),
        };
        let mut key = Key {
            key_use: fact.key_use.clone(),
            generation: fact.generation,
            fingerprint: fact.fingerprint.clone(),
            public,
            certificate,
            introduced,
            since,
            until,
            vouched: None,
        };
        match vouched {
            Ok(text) => {
                key.vouched = text;
                self.known.push(key);
                Ok(())
            }
            Err(what) => Err(bad(what)),
        }
    }

    /// The key that signed this checkpoint, if that was its time.
    pub fn signer_of(&self, note: &Note, time: Option<i64>) -> Result<&Key, String> {
        let (signature, key) = note
            .signatures
            .iter()
            .filter(|signature| signature.name == note.origin)
            .find_map(|signature| self.by_id(signature).map(|key| (signature, key)))
            .ok_or("no key that the log introduced signed it")?;
        if !key.public.verifies(HashOf::Sha256, note.text.as_bytes(), &signature.signature) {
            return Err("the signature is wrong".into());
        }
        self.in_period(key, Moment { size: Some(note.size), time })?;
        Ok(key)
    }

    fn by_id(&self, signature: &NoteSignature) -> Option<&Key> {
        self.known.iter().find(|key| key.key_use == "checkpoint" && key_id(&key.public.spki) == signature.key_id)
    }

    /// The digest key of this fingerprint.
    pub fn digest_key(&self, fingerprint: &str) -> Option<&Key> {
        self.known.iter().find(|key| key.key_use == "digest" && key.fingerprint == fingerprint)
    }

    /// Whether it was this key's time.
    pub fn in_period(&self, key: &Key, moment: Moment) -> Result<(), String> {
        let name = format!("{} key {}", key.key_use, key.generation);
        let early = match (key.introduced, moment.size, moment.time) {
            // A size counts the introduction itself, so it is larger than that record's number.
            (Some(introduced), Some(size), _) => size <= introduced,
            // Digests name whole seconds.
            (_, _, Some(time)) => time.div_euclid(1000) < key.since.div_euclid(1000),
            _ => false,
        };
        if early {
            return Err(format!("it is signed by {name}, which was introduced later"));
        }
        let next = self.known.iter().find(|next| next.key_use == key.key_use && next.generation > key.generation);
        let (replaced, since) = match next {
            Some(next) => (next.introduced, Some(next.since)),
            None => (None, key.until),
        };
        let within = match (replaced, moment.size) {
            (Some(replaced), Some(size)) => size <= replaced.saturating_add(1),
            _ => since.is_none(),
        };
        let soon = match (since, moment.time) {
            (Some(since), Some(time)) => time <= since.saturating_add(OVERLAP_MS),
            _ => false,
        };
        if within || soon { Ok(()) } else { Err(format!("it is signed by {name}, which had been replaced")) }
    }
}
