//! The keys of the audit trail: made in the token, known by a sealed record, used through the token's workers. A signature is
//! given out only when it verifies with the recorded public key, so that an object that was replaced signs nothing here.

mod certificate;
mod commands;
mod files;

pub(super) use commands::Office;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, RwLock as SyncRwLock};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use serde_json::{Value, json};
use tokio::sync::{Mutex, RwLock};

use super::{AppError, now_ms, system_call};
use crate::audit::{
    self, AuditKey, CoverAudit, Event, EventType, Journal, KeyUse, Recorded, SignAudit, SignError, Signed,
};
use crate::keystore::{
    CallContext, Curve, ErrorClass, Facts, Hash, KeyKind, KeyRef, MaterialId, SignMechanism, Token, TokenError,
};
use crate::secret::SecretBytes;
use crate::store::{AppliedRecord, AuditKeyRecord, AuditKeyStage, Snapshot, Store, StoreError, UpdateError, Write};

/// How long a signature may take. Nobody's request waits for it.
const SIGN_DEADLINE: Duration = Duration::from_secs(15);
const RSA_BITS: u32 = 2048;

/// What the keys are of.
pub(super) struct Trail {
    pub dir: PathBuf,
    pub arn: String,
}

/// Keeps the keys of the trail, and signs with them.
pub struct AuditKeys {
    token: Token,
    store: Store,
    journal: Journal,
    trail: Trail,
    generate_deadline: Duration,
    /// Makers of checkpoints and digests.
    coverers: SyncRwLock<Vec<Arc<dyn CoverAudit>>>,
    /// One change of the keys at a time.
    changing: Mutex<()>,
    /// Held for reading by a signature, for writing while one key takes another's place.
    turn: RwLock<()>,
    /// When the last signature of this run has to be there.
    end: OnceLock<Instant>,
}

/// Why a key was not made or not changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    #[error("the token: {0}")]
    Token(#[from] TokenError),
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    #[error("the log: {0}")]
    Audit(#[from] crate::audit::AuditError),
    #[error("{0}")]
    Sign(#[from] SignError),
    #[error("{0}")]
    Other(String),
}

impl AuditKeys {
    pub(super) fn new(
        token: Token,
        store: Store,
        journal: Journal,
        trail: Trail,
        generate_deadline: Duration,
    ) -> AuditKeys {
        AuditKeys {
            token,
            store,
            journal,
            trail,
            generate_deadline,
            coverers: SyncRwLock::default(),
            changing: Mutex::default(),
            turn: RwLock::default(),
            end: OnceLock::new(),
        }
    }

    /// Asked before a key is replaced. Every one has to agree.
    pub fn cover_with(&self, coverer: Arc<dyn CoverAudit>) {
        self.coverers.write().unwrap_or_else(PoisonError::into_inner).push(coverer);
    }

    /// The signatures at the end of a run may take so long in all: a token that hangs must not make the service late for whoever
    /// stops it. What is unsigned then is signed at the next start.
    pub(super) fn end_within(&self, patience: Duration) {
        let _ = self.end.set(Instant::now() + patience);
    }

    /// Nobody is asked any more: those who are hold the signer, which holds the store and its lock.
    pub(super) fn close(&self) {
        self.coverers.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// At start: what a crash left unfinished goes, missing keys are made, those that are there are checked, and the public
    /// copies are written. A key that is not the recorded one is told of and signs nothing.
    pub(super) async fn begin(&self) -> Result<(), AppError> {
        let _one_at_a_time = self.changing.lock().await;
        self.place();
        self.finish_what_was_begun().await;
        for key_use in KeyUse::ALL {
            match self.current(key_use) {
                Some(record) => self.check(&record).await?,
                None => {
                    if let Err(error) = self.introduce(key_use).await {
                        if let KeyError::Audit(error) = error {
                            return Err(error.into());
                        }
                        tracing::error!(key_use = key_use.as_str(), %error, "the log has no key of this use: it is not signed");
                    }
                }
            }
        }
        self.look_at_files().await
    }

    /// Objects whose id does not follow from their names.
    fn place(&self) {
        let snapshot = self.store.snapshot();
        let places = snapshot.audit_keys.values().filter_map(|key| Some((material(key)?, key.object_id.clone()?)));
        self.token.place(places.collect());
    }

    /// What is not finished never signed: its objects go, its number is not given again. A retired key whose destruction a
    /// crash prevented is destroyed.
    async fn finish_what_was_begun(&self) {
        let snapshot = self.store.snapshot();
        for record in snapshot.audit_keys.values() {
            let stage = match record.stage {
                AuditKeyStage::Creating | AuditKeyStage::Made => AuditKeyStage::Abandoned,
                AuditKeyStage::Retiring => AuditKeyStage::Retired,
                AuditKeyStage::Current | AuditKeyStage::Retired | AuditKeyStage::Kept | AuditKeyStage::Abandoned => {
                    continue;
                }
            };
            if let Err(error) = self.destroy(record, stage).await {
                tracing::warn!(label = record.label, %error, "an audit key that is not used any more was not destroyed");
            }
        }
    }

    /// The first key of a use: intent, the pair, its record in the chain, and then it signs.
    async fn introduce(&self, key_use: KeyUse) -> Result<(), KeyError> {
        let request_id = uuid::Uuid::new_v4().to_string();
        let generation = self.next_generation(key_use).await?;
        let details = json!({ "keyUse": key_use.as_str(), "generation": generation });
        let intent = self.event("AuditKey", Some(request_id.clone()), details);
        self.journal.append(Event { event_type: EventType::HsmBridgeIntent, ..intent }).await?;
        let record = self.make(key_use, generation).await?;
        let known = self.last_fingerprint(key_use);
        self.name(&record, known, Some(request_id)).await?;
        self.put(vec![AuditKeyRecord { stage: AuditKeyStage::Current, ..record }], None).await?;
        tracing::info!(key_use = key_use.as_str(), generation, "an audit key was made in the token");
        Ok(())
    }

    /// A pair in the token with a certificate of its own. Nobody knows of it yet.
    async fn make(&self, key_use: KeyUse, generation: u32) -> Result<AuditKeyRecord, KeyError> {
        let now = now_ms();
        let material = self.material_of(key_use, generation);
        let label = format!("hsm-bridge/audit-{}-{generation}", key_use.as_str());
        let creating = AuditKeyRecord {
            key_use: key_use.as_str().to_owned(),
            generation,
            stage: AuditKeyStage::Creating,
            created: now,
            material: material.id.to_vec(),
            object_id: None,
            label: label.clone(),
            fingerprint: Vec::new(),
            spki: Vec::new(),
            evidence: Value::Null,
            certificates: Vec::new(),
            valid_from: now,
            valid_until: None,
        };
        self.put(vec![creating.clone()], None).await?;
        let made = self.finish(key_use, material, creating.clone()).await;
        if made.is_err()
            && let Err(error) = self.destroy(&creating, AuditKeyStage::Abandoned).await
        {
            tracing::warn!(label, %error, "what was made of an audit key is left to the next start");
        }
        made
    }

    async fn finish(
        &self,
        key_use: KeyUse,
        material: MaterialId,
        creating: AuditKeyRecord,
    ) -> Result<AuditKeyRecord, KeyError> {
        let kind = match key_use {
            KeyUse::Digest => KeyKind::Rsa(RSA_BITS),
            KeyUse::Checkpoint => KeyKind::Ec(Curve::P256),
        };
        let done = self.token.generate(&self.call(self.generate_deadline), kind, material, &creating.label).await?;
        let made = done.value;
        let spki = made.spki.ok_or_else(|| KeyError::Other("the token gave no public key".to_owned()))?;
        let evidence = serde_json::to_value(&made.evidence).map_err(|e| KeyError::Other(e.to_string()))?;
        let record = AuditKeyRecord {
            stage: AuditKeyStage::Made,
            object_id: (made.object_id != material.cka_id()).then_some(made.object_id),
            fingerprint: made.fingerprint,
            spki,
            evidence,
            ..creating
        };
        let random = self.token.random(&self.call(SIGN_DEADLINE), 16).await?.value;
        let serial = random.expose().first_chunk().copied().unwrap_or([1; 16]);
        let holder = self.holder(&record, key_use);
        let unsigned = certificate::self_signed(&holder, record.created, serial).map_err(KeyError::Other)?;
        let (signature, _) = self.sign_with(&record, key_use, &unsigned.message).await?;
        let signed = unsigned.signed(&signature).map_err(KeyError::Other)?;
        let record = AuditKeyRecord { certificates: vec![base64(&signed)], ..record };
        self.put(vec![record.clone()], None).await?;
        Ok(record)
    }

    /// The key's introduction in the chain, before its first use; and once more when it has another certificate.
    async fn name(
        &self,
        record: &AuditKeyRecord,
        previous: Option<String>,
        request_id: Option<String>,
    ) -> Result<Recorded, KeyError> {
        let key = public(record).ok_or_else(|| unreadable(record))?;
        let details = json!({
            "keyUse": key.key_use.as_str(),
            "generation": key.generation,
            "fingerprint": key.fingerprint,
            "spki": base64(&key.spki),
            "certificate": certificates(record).iter().map(|one| certificate::pem(one)).collect::<String>(),
            "previousFingerprint": previous,
            "label": record.label,
            "token": self.token.info().serial,
        });
        Ok(self.journal.append(self.event("AuditKey", request_id, details)).await?)
    }

    /// The recorded key is in the token, and it is that one.
    async fn check(&self, record: &AuditKeyRecord) -> Result<(), AppError> {
        let Some(reference) = reference(record) else { return Ok(()) };
        let Err(error) = self.token.check(&self.call(SIGN_DEADLINE), &reference).await else { return Ok(()) };
        let why = match error.class {
            ErrorClass::WrongKey => "the object in the token is not the recorded key",
            ErrorClass::KeyMissing => "the token does not hold the key",
            _ => {
                tracing::error!(label = record.label, %error, "the audit key cannot be checked");
                return Ok(());
            }
        };
        tracing::error!(label = record.label, %error, "{why}: nothing is signed until `audit key rotate --lost`");
        let details = json!({
            "keyUse": record.key_use,
            "generation": record.generation,
            "label": record.label,
            "why": why,
            "token": self.token.info().serial,
        });
        self.journal.append(self.event("AuditFailure", None, details)).await?;
        Ok(())
    }

    /// Public copies that say something else than the store are told of, and written anew.
    async fn look_at_files(&self) -> Result<(), AppError> {
        let keys = self.published();
        let entries: Vec<Value> = keys.iter().map(|(key, chain)| files::entry(key, chain)).collect();
        let differences = files::differences(&self.trail.dir, &entries);
        if !differences.is_empty() {
            tracing::error!(?differences, "the public copies of the audit keys were changed: they are written anew");
            let details = json!({ "file": "keys/keys.json", "differences": differences });
            self.journal.append(self.event("AuditTampering", None, details)).await?;
        }
        // A crash came between a certificate's way into the store and its way into the chain, maybe: told twice is no harm.
        let snapshot = self.store.snapshot();
        let others = files::other_certificates(&self.trail.dir, &entries);
        for record in others.iter().filter_map(|name| snapshot.audit_keys.get(name)) {
            if let Err(KeyError::Audit(error)) = self.name(record, self.fingerprint_before(record), None).await {
                return Err(error.into());
            }
        }
        self.write_files();
        Ok(())
    }

    fn write_files(&self) {
        if let Err(error) = files::write(&self.trail.dir, &self.published()) {
            tracing::error!(%error, "the public copies of the audit keys cannot be written");
        }
    }

    /// Every key that ever signed, oldest first of each use, with its certificates.
    fn published(&self) -> Vec<(AuditKey, Vec<Vec<u8>>)> {
        let snapshot = self.store.snapshot();
        let signed = snapshot.audit_keys.values().filter(|record| has_signed(record));
        signed.filter_map(|record| Some((public(record)?, certificates(record)))).collect()
    }

    fn current(&self, key_use: KeyUse) -> Option<Arc<AuditKeyRecord>> {
        current(&self.store.snapshot(), key_use)
    }

    fn last_fingerprint(&self, key_use: KeyUse) -> Option<String> {
        let keys = self.published().into_iter().map(|(key, _)| key);
        keys.filter(|key| key.key_use == key_use).max_by_key(|key| key.generation).map(|key| key.fingerprint)
    }

    /// Of the generation that signed before this one.
    fn fingerprint_before(&self, record: &AuditKeyRecord) -> Option<String> {
        let keys = self.published().into_iter().map(|(key, _)| key);
        let before = keys.filter(|key| key.key_use.as_str() == record.key_use && key.generation < record.generation);
        before.max_by_key(|key| key.generation).map(|key| key.fingerprint)
    }

    /// Above all that the store knows, and free in the token: an older store may know fewer.
    async fn next_generation(&self, key_use: KeyUse) -> Result<u32, KeyError> {
        let snapshot = self.store.snapshot();
        let known = snapshot.audit_keys.values().filter(|record| record.key_use == key_use.as_str());
        let mut next = known.map(|record| record.generation).max().unwrap_or(0) + 1;
        while self.token.holds(&self.call(self.generate_deadline), self.material_of(key_use, next)).await? {
            next += 1;
        }
        Ok(next)
    }

    async fn sign_now(&self, key_use: KeyUse, message: &[u8]) -> Result<(Signed, Facts), SignError> {
        let _in_turn = self.turn.read().await;
        let record = self.current(key_use).ok_or_else(|| SignError("there is no key of this use".to_owned()))?;
        let key = public(&record).ok_or_else(|| SignError("its record cannot be read".to_owned()))?;
        let (signature, facts) = self.sign_with(&record, key_use, message).await?;
        Ok((Signed { key: Arc::new(key), signature }, facts))
    }

    /// RULE: no signature leaves that the recorded public key does not verify.
    async fn sign_with(
        &self,
        record: &AuditKeyRecord,
        key_use: KeyUse,
        message: &[u8],
    ) -> Result<(Vec<u8>, Facts), SignError> {
        let reference = reference(record).ok_or_else(|| SignError("its record cannot be read".to_owned()))?;
        let mechanism = match key_use {
            KeyUse::Digest => SignMechanism::RsaPkcs1v15(Hash::Sha256),
            KeyUse::Checkpoint => SignMechanism::Ecdsa,
        };
        let hash = SecretBytes::new(digest::digest(&digest::SHA256, message).as_ref().to_vec());
        let done = self.token.sign(&self.call(SIGN_DEADLINE), &reference, mechanism, hash).await;
        let done = done.map_err(|error| SignError(error.to_string()))?;
        if !key_use.verifies(&record.spki, message, &done.value) {
            return Err(SignError("the signature does not verify with the recorded public key".to_owned()));
        }
        Ok((done.value, done.facts))
    }

    /// The objects go, and the record says so.
    async fn destroy(&self, record: &AuditKeyRecord, stage: AuditKeyStage) -> Result<(), KeyError> {
        if let Some(material) = material(record) {
            self.token.destroy(&self.call(self.generate_deadline), material).await?;
        }
        self.put(vec![AuditKeyRecord { stage, ..record.clone() }], None).await?;
        Ok(())
    }

    /// `request_id`: the change that an intent told of takes effect with this write.
    async fn put(&self, records: Vec<AuditKeyRecord>, request_id: Option<&str>) -> Result<u64, KeyError> {
        let applied = request_id.map(|id| Write::PutApplied(AppliedRecord { request_id: id.to_owned() }));
        let writes: Vec<Write> = records.into_iter().map(Write::PutAuditKey).chain(applied).collect();
        match self.store.update(move |_| Ok::<_, StoreError>((writes, ()))).await {
            Ok(((), version)) => Ok(version),
            Err(UpdateError::Refused(error) | UpdateError::Failed(error)) => Err(error.into()),
        }
    }

    fn material_of(&self, key_use: KeyUse, generation: u32) -> MaterialId {
        // Several instances may share a token.
        let name = format!("hsm-bridge/audit-key/1\0{}\0{}", self.store.deployment_id(), key_use.as_str());
        let hash = digest::digest(&digest::SHA256, name.as_bytes());
        MaterialId { id: hash.as_ref().first_chunk().copied().unwrap_or_default(), generation }
    }

    fn holder<'a>(&'a self, record: &'a AuditKeyRecord, key_use: KeyUse) -> certificate::Holder<'a> {
        certificate::Holder { key_use, generation: record.generation, spki: &record.spki, trail_arn: &self.trail.arn }
    }

    fn event(&self, name: &str, request_id: Option<String>, details: Value) -> Event {
        Event { request_id, ..self.journal.event(name, now_ms(), details) }
    }

    /// A lane of its own in the token's queue.
    fn call(&self, deadline: Duration) -> CallContext {
        let call = system_call("audit-key", deadline);
        let deadline = self.end.get().map_or(call.deadline, |end| call.deadline.min(*end));
        CallContext { principal: "audit".into(), deadline, ..call }
    }
}

/// The same keys, for those who only sign.
impl SignAudit for AuditKeys {
    fn sign(&self, key_use: KeyUse, message: Vec<u8>) -> audit::BoxFuture<'_, Result<Signed, SignError>> {
        Box::pin(async move { Ok(self.sign_now(key_use, &message).await?.0) })
    }

    fn keys(&self) -> Vec<Arc<AuditKey>> {
        let mut keys: Vec<_> = self.published().into_iter().map(|(key, _)| Arc::new(key)).collect();
        keys.sort_by_key(|key| (key.valid_from, key.key_use, key.generation));
        keys
    }
}

fn current(snapshot: &Snapshot, key_use: KeyUse) -> Option<Arc<AuditKeyRecord>> {
    let mut keys = snapshot.audit_keys.values();
    keys.find(|key| key.key_use == key_use.as_str() && key.stage == AuditKeyStage::Current).cloned()
}

fn has_signed(record: &AuditKeyRecord) -> bool {
    match record.stage {
        AuditKeyStage::Current | AuditKeyStage::Retiring | AuditKeyStage::Retired | AuditKeyStage::Kept => true,
        AuditKeyStage::Creating | AuditKeyStage::Made | AuditKeyStage::Abandoned => false,
    }
}

fn material(record: &AuditKeyRecord) -> Option<MaterialId> {
    Some(MaterialId { id: record.material.as_slice().try_into().ok()?, generation: record.generation })
}

fn reference(record: &AuditKeyRecord) -> Option<KeyRef> {
    Some(KeyRef::Kms { material: material(record)?, fingerprint: record.fingerprint.as_slice().into() })
}

fn certificates(record: &AuditKeyRecord) -> Vec<Vec<u8>> {
    use ::base64::Engine;
    record.certificates.iter().filter_map(|one| ::base64::engine::general_purpose::STANDARD.decode(one).ok()).collect()
}

/// As an auditor sees it.
fn public(record: &AuditKeyRecord) -> Option<AuditKey> {
    let key_use = KeyUse::parse(&record.key_use)?;
    Some(AuditKey {
        key_use,
        generation: record.generation,
        fingerprint: key_use.fingerprint(&record.spki)?,
        spki: record.spki.clone(),
        certificate: certificates(record).into_iter().next()?,
        valid_from: record.valid_from,
        valid_until: record.valid_until,
    })
}

fn unreadable(record: &AuditKeyRecord) -> KeyError {
    KeyError::Other(format!("the record of `{}` cannot be read", record.label))
}

fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}
