//! The keys of a trail as its chain introduces them, and which of them may have signed what. RULE audit.md §7.5: a signature
//! counts only by the key that was valid for the period of what it signs; a later key cannot vouch for earlier records.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::certificate::{self, Trust};
use super::facts::KeyFact;
use super::note::{Note, NoteSignature, key_id};
use super::report::{Report, Verdict};
use super::signature::{HashOf, Kind, PublicKey};

#[derive(Debug, Clone)]
pub(super) struct Key {
    pub key_use: String,
    pub generation: u32,
    pub fingerprint: String,
    pub public: PublicKey,
    /// The newest that the log tells of, and who issued it: DER.
    pub certificates: Vec<Vec<u8>>,
    /// The record that introduces it; `None`: known from a file beside the log only.
    pub introduced: Option<u64>,
    /// Milliseconds since the epoch.
    pub since: i64,
    pub until: Option<i64>,
    /// How it is vouched for, or why not.
    pub vouched: Result<String, String>,
    /// The smallest size and the first time that it signed.
    first_use: Option<Moment>,
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
        let certificates = match &fact.certificate {
            Some(text) => certificate::decode(text).map_err(bad)?,
            None => Vec::new(),
        };
        let vouched = certificate::check(&certificates, &public, trust, since);
        if let Some(same) = self.known.iter_mut().find(|key| key.public == public && key.key_use == fact.key_use) {
            if same.generation != fact.generation {
                return Err(bad(format!("it was introduced as key {} before", same.generation)));
            }
            // Told again, maybe with a certificate from somebody else.
            if !certificates.is_empty() {
                same.certificates = certificates;
                same.vouched = vouched.or(std::mem::replace(&mut same.vouched, Ok(String::new())));
            }
            return Ok(());
        }
        let before = self.known.iter().rfind(|key| key.key_use == fact.key_use);
        if let Some(before) = before {
            if fact.generation <= before.generation {
                return Err(bad(format!("it is introduced after key {}", before.generation)));
            }
            if fact.previous_fingerprint.as_ref().is_some_and(|named| *named != before.fingerprint) {
                return Err(bad("it follows another key than the one before it".into()));
            }
        }
        self.known.push(Key {
            key_use: fact.key_use.clone(),
            generation: fact.generation,
            fingerprint: fact.fingerprint.clone(),
            public,
            certificates,
            introduced,
            since,
            until,
            vouched,
            first_use: None,
        });
        Ok(())
    }

    /// Keys that nobody whom the auditor trusts vouches for, or whose own certificate is wrong.
    pub fn check_vouched(&self, report: &mut Report) {
        for key in &self.known {
            if let Err(what) = &key.vouched {
                let what = format!("{} key {}: {what}", key.key_use, key.generation);
                report.find(Verdict::BadSignature, "keys", 0, key.introduced, what);
            }
        }
    }

    /// The key that signed this checkpoint, if that was its time.
    pub fn signer_of(&mut self, note: &Note, time: Option<i64>) -> Result<&Key, String> {
        let (signature, at) = note
            .signatures
            .iter()
            .filter(|signature| signature.name == note.origin)
            .find_map(|signature| self.by_id(signature).map(|at| (signature, at)))
            .ok_or("no key that the log introduced signed it")?;
        let key = self.known.get(at).ok_or("no key")?;
        if !key.public.verifies(HashOf::Sha256, note.text.as_bytes(), &signature.signature) {
            return Err("the signature is wrong".into());
        }
        self.in_period(at, Moment { size: Some(note.size), time })?;
        self.known.get(at).ok_or_else(|| "no key".into())
    }

    fn by_id(&self, signature: &NoteSignature) -> Option<usize> {
        self.known.iter().position(|key| key.key_use == "checkpoint" && key_id(&key.public.spki) == signature.key_id)
    }

    /// The digest key of this fingerprint, if it signed `text` and that was its time.
    pub fn digest_signer(
        &mut self,
        fingerprint: &str,
        text: &[u8],
        signature: &[u8],
        moment: Moment,
    ) -> Result<&Key, String> {
        let at = self
            .known
            .iter()
            .position(|key| key.key_use == "digest" && key.fingerprint == fingerprint)
            .ok_or_else(|| format!("its key `{fingerprint}` was not introduced by the log"))?;
        let key = self.known.get(at).ok_or("no key")?;
        if !key.public.verifies(HashOf::Sha256, text, signature) {
            return Err("the signature is wrong".into());
        }
        self.in_period(at, moment)?;
        self.known.get(at).ok_or_else(|| "no key".into())
    }

    /// Whether it was this key's time: not before the log introduced it, and not after a later key had signed. (A key that was
    /// introduced and given up again never signs, and the one before goes on.)
    fn in_period(&mut self, at: usize, moment: Moment) -> Result<(), String> {
        let Some(key) = self.known.get(at) else { return Ok(()) };
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
        let after = |first: &Moment| match (first.size, moment.size, first.time, moment.time) {
            (Some(first), Some(size), ..) => first < size,
            (_, _, Some(first), Some(time)) => first < time,
            _ => false,
        };
        let later = |next: &&Key| next.key_use == key.key_use && next.generation > key.generation;
        if self.known.iter().filter(later).any(|next| next.first_use.as_ref().is_some_and(after)) {
            return Err(format!("it is signed by {name}, after a later key had signed"));
        }
        if let (None, Some(until), Some(time)) = (key.introduced, key.until, moment.time)
            && time.div_euclid(1000) > until.div_euclid(1000) + 1
        {
            return Err(format!("it is signed by {name}, which had been replaced"));
        }
        if let Some(key) = self.known.get_mut(at)
            && key.first_use.as_ref().is_none_or(|first| moment.size < first.size)
        {
            key.first_use = Some(moment);
        }
        Ok(())
    }
}
