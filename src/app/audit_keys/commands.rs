//! `audit key …`: what an operator sees of the keys, certificates of the customer's authority, and new generations.

use std::sync::{Arc, PoisonError};

use serde_json::{Value, json};

use super::{AuditKeys, KeyError, base64, certificate, certificates, has_signed, now_ms, public};
use crate::audit::{CoverAudit, KeyUse};
use crate::ops::{AuditKeyAnswer, AuditKeyOffice, AuditKeyRequest, AuditKeyUse, Context, OpError};
use crate::store::{AuditKeyRecord, AuditKeyStage, BoxFuture};

/// Of a certificate and those above it.
const MAX_CHAIN: usize = 64 * 1024;

/// What `ops` holds.
pub(in crate::app) struct Office(pub Arc<AuditKeys>);

impl AuditKeyOffice for Office {
    fn answer<'a>(
        &'a self,
        request: &'a AuditKeyRequest,
        ctx: &'a Context,
    ) -> BoxFuture<'a, Result<AuditKeyAnswer, OpError>> {
        Box::pin(async move {
            match request {
                AuditKeyRequest::Show => Ok(AuditKeyAnswer { report: self.0.show(), ..AuditKeyAnswer::default() }),
                AuditKeyRequest::Csr { key_use } => self.0.request(of(*key_use)).await,
                AuditKeyRequest::Install { key_use, certificate } => {
                    self.0.install(of(*key_use), certificate, ctx).await
                }
                AuditKeyRequest::Rotate { key_use, keep_old, lost } => {
                    self.0.rotate(of(*key_use), *keep_old, lost.as_deref(), ctx).await
                }
            }
        })
    }
}

fn of(key_use: AuditKeyUse) -> KeyUse {
    match key_use {
        AuditKeyUse::Digest => KeyUse::Digest,
        AuditKeyUse::Checkpoint => KeyUse::Checkpoint,
    }
}

impl AuditKeys {
    fn show(&self) -> Value {
        let snapshot = self.store.snapshot();
        let keys = snapshot.audit_keys.values().filter(|record| has_signed(record)).filter_map(|record| {
            let key = public(record)?;
            let (subject, issuer, certificate_until) = certificate::shown(&key.certificate)?;
            Some(json!({
                "keyUse": record.key_use,
                "generation": record.generation,
                "state": match record.stage {
                    AuditKeyStage::Current => "signs",
                    AuditKeyStage::Retired => "retired, destroyed",
                    AuditKeyStage::Kept => "retired, kept in the token",
                    _ => "retired, to be destroyed",
                },
                "label": record.label,
                "ckaId": hex::encode(record.object_id.clone().or_else(|| Some(super::material(record)?.cka_id()))?),
                "fingerprint": key.fingerprint,
                "validFrom": date(key.valid_from),
                "validUntil": key.valid_until.map(date),
                "certificate": {
                    "subject": subject,
                    "issuer": issuer,
                    "until": date(certificate_until),
                    "selfSigned": subject == issuer,
                    "pem": certificates(record).iter().map(|one| certificate::pem(one)).collect::<String>(),
                },
                "spki": base64(&key.spki),
            }))
        });
        json!({ "trail": self.trail.arn, "token": self.token.info().serial, "keys": keys.collect::<Vec<_>>() })
    }

    async fn request(&self, key_use: KeyUse) -> Result<AuditKeyAnswer, OpError> {
        let record = self.existing(key_use)?;
        let unsigned = certificate::request(&self.holder(&record, key_use)).map_err(OpError::Internal)?;
        let signed = self.sign_with(&record, key_use, &unsigned.message).await;
        let (signature, facts) = signed.map_err(|error| OpError::Token(error.to_string()))?;
        let pem = unsigned.signed(&signature).map_err(OpError::Internal)?;
        Ok(AuditKeyAnswer {
            report: json!({ "keyUse": key_use.as_str(), "generation": record.generation, "csr": pem }),
            details: Some(json!({ "keyUse": key_use.as_str(), "generation": record.generation })),
            hsm: Some(facts),
            store_version: None,
        })
    }

    async fn install(&self, key_use: KeyUse, pem: &str, ctx: &Context) -> Result<AuditKeyAnswer, OpError> {
        let _one_at_a_time = self.changing.lock().await;
        let record = self.existing(key_use)?;
        if pem.len() > MAX_CHAIN {
            return Err(OpError::Validation(format!("the certificates are more than {MAX_CHAIN} bytes")));
        }
        let chain = certificate::chain(pem, &record.spki, ctx.now)
            .map_err(|why| OpError::Validation(format!("not installed: {why}")))?;
        let new =
            AuditKeyRecord { certificates: chain.iter().map(|one| base64(one)).collect(), ..record.as_ref().clone() };
        let key = public(&new).ok_or_else(|| OpError::Internal("the record cannot be read".to_owned()))?;
        let (subject, issuer, until) = certificate::shown(&key.certificate).unwrap_or_default();
        let version = self.put(vec![new.clone()], Some(&ctx.request_id)).await.map_err(told)?;
        self.name(&new, self.fingerprint_before(&new), None).await.map_err(told)?;
        self.write_files();
        let facts = json!({
            "keyUse": key.key_use.as_str(),
            "generation": key.generation,
            "fingerprint": key.fingerprint,
            "subject": subject,
            "issuer": issuer,
            "until": date(until),
            "certificates": chain.len(),
        });
        let mut details = facts.clone();
        if let Some(details) = details.as_object_mut() {
            // The log alone has to tell which certificate was given out, and when.
            details.insert("certificate".to_owned(), json!(certificate::pem(&key.certificate)));
        }
        Ok(AuditKeyAnswer { report: facts, details: Some(details), store_version: Some(version), hsm: None })
    }

    /// A new generation. The last act of the old one is to cover the record that names the new one.
    async fn rotate(
        &self,
        key_use: KeyUse,
        keep_old: bool,
        lost: Option<&str>,
        ctx: &Context,
    ) -> Result<AuditKeyAnswer, OpError> {
        let _one_at_a_time = self.changing.lock().await;
        let old = self.current(key_use);
        if let (Some(old), None) = (&old, lost) {
            self.sign_with(old, key_use, b"hsm-bridge/audit-key/check").await.map_err(|error| {
                OpError::InvalidState(format!(
                    "`{}` cannot sign any more ({error}), so it cannot name its successor: if it is lost, name a ticket \
                     with --lost",
                    old.label
                ))
            })?;
        }
        let generation = self.next_generation(key_use).await.map_err(told)?;
        let new = self.make(key_use, generation).await.map_err(told)?;
        let previous = self.last_fingerprint(key_use);
        let covered = match self.name(&new, previous.clone(), None).await {
            Ok(recorded) if lost.is_none() && old.is_some() => self.cover(key_use, recorded.seq()).await,
            Ok(_) => Ok(0),
            Err(error) => Err(error),
        };
        let coverers = match covered {
            Ok(coverers) => coverers,
            Err(error) => {
                if let Err(error) = self.destroy(&new, AuditKeyStage::Abandoned).await {
                    tracing::warn!(label = new.label, %error, "a new audit key is left to the next start");
                }
                return Err(OpError::InvalidState(format!("the old key goes on, nothing was changed: {error}")));
            }
        };
        let version = self.switch(old.as_deref(), &new, keep_old, ctx).await.map_err(told)?;
        let mut left = None;
        if let (Some(old), false) = (&old, keep_old)
            && let Some(retiring) = self.record(key_use, old.generation)
            && let Err(error) = self.destroy(&retiring, AuditKeyStage::Retired).await
        {
            left = Some(format!("the old private key was not destroyed, the next start tries again: {error}"));
        }
        self.write_files();
        let key = public(&new).ok_or_else(|| OpError::Internal("the record cannot be read".to_owned()))?;
        let report = json!({
            "keyUse": key_use.as_str(),
            "generation": generation,
            "fingerprint": key.fingerprint,
            "previousFingerprint": previous,
            "coveredBy": coverers,
            "oldKey": match (&old, keep_old, &left) {
                (None, ..) => "none",
                (_, true, _) => "kept",
                (_, false, None) => "destroyed",
                (_, false, Some(_)) => "not destroyed yet",
            },
            "warning": left,
            "lost": lost,
        });
        Ok(AuditKeyAnswer { details: Some(report.clone()), report, store_version: Some(version), hsm: None })
    }

    async fn cover(&self, key_use: KeyUse, seq: u64) -> Result<usize, KeyError> {
        let coverers: Vec<Arc<dyn CoverAudit>> = self.coverers.read().unwrap_or_else(PoisonError::into_inner).clone();
        for coverer in &coverers {
            coverer.cover(key_use, seq).await.map_err(KeyError::Other)?;
        }
        Ok(coverers.len())
    }

    async fn switch(
        &self,
        old: Option<&AuditKeyRecord>,
        new: &AuditKeyRecord,
        keep_old: bool,
        ctx: &Context,
    ) -> Result<u64, KeyError> {
        let _nobody_signs = self.turn.write().await;
        let now = now_ms();
        let stage = if keep_old { AuditKeyStage::Kept } else { AuditKeyStage::Retiring };
        let retired = old.map(|old| AuditKeyRecord { stage, valid_until: Some(now), ..old.clone() });
        let current = AuditKeyRecord { stage: AuditKeyStage::Current, valid_from: now, ..new.clone() };
        self.put(retired.into_iter().chain([current]).collect(), Some(&ctx.request_id)).await
    }

    fn record(&self, key_use: KeyUse, generation: u32) -> Option<Arc<AuditKeyRecord>> {
        self.store.snapshot().audit_keys.get(&(key_use.as_str().to_owned(), generation)).cloned()
    }

    fn existing(&self, key_use: KeyUse) -> Result<Arc<AuditKeyRecord>, OpError> {
        self.current(key_use)
            .ok_or_else(|| OpError::InvalidState(format!("there is no {} key of the log", key_use.as_str())))
    }
}

fn told(error: KeyError) -> OpError {
    match error {
        KeyError::Token(error) => OpError::Token(error.to_string()),
        other => OpError::InvalidState(other.to_string()),
    }
}

/// RFC 3339, UTC.
fn date(ms: i64) -> String {
    use time::format_description::well_known::Rfc3339;
    time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .ok()
        .and_then(|t| t.format(&Rfc3339).ok())
        .unwrap_or_else(|| ms.to_string())
}
