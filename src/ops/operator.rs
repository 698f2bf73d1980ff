//! Commands of the local operator. None of them uses a customer key.

use std::sync::Arc;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::authn::Caller;
use crate::ops::key_policy::shown;
use crate::ops::officer::{material_id, object_id, object_label};
use crate::ops::resolve::{KeyTarget, Resolved, Subject, target};
use crate::ops::{
    AttestReview, AuditAnswer, AuditRequest, Context, DAY_MS, Effects, KeyDetails, KeyLine, MaterialLine, OpError,
    OperatorRequest, OperatorResponse, Ops, SweeperStatus, store_error,
};
use crate::store::{Lifecycle, Snapshot};

/// How long a scheduled deletion of an older store waits at least: it may have been cancelled since. As long as the shortest
/// window of ScheduleKeyDeletion.
pub const RESTORED_DELETIONS_WAIT_MS: i64 = 7 * DAY_MS;

impl Ops {
    pub(super) async fn operator(
        &self,
        request: &OperatorRequest,
        caller: &Caller,
        resolved: &Resolved,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        let snapshot = resolved.snapshot();
        match request {
            OperatorRequest::KeyList => {
                let keys = snapshot.keys.values().filter(|r| r.lifecycle != Lifecycle::Creating);
                let targets = keys.map(|r| target(r, &self.locality));
                Ok(OperatorResponse::Keys { keys: targets.map(|t| self.key_line(&t, snapshot)).collect() })
            }
            OperatorRequest::KeyShow { .. } => match resolved.subject() {
                Subject::Key(key) => Ok(OperatorResponse::Key { key: Box::new(self.key_details(key, snapshot)?) }),
                other => Err(OpError::Internal(format!("key show was resolved to {other:?}"))),
            },
            OperatorRequest::AccessKeyCreate { user } => self.create_access_key(user.as_ref(), ctx, effects).await,
            OperatorRequest::AccessKeyList => Ok(self.list_access_keys(snapshot)),
            OperatorRequest::AccessKeyDisable { id } => self.disable_access_key(id, ctx, effects).await,
            OperatorRequest::StoreBackup { path } => {
                let facts = self.store.backup(path).await.map_err(told)?;
                effects.details = Some(serde_json::json!({ "path": path, "storeVersion": facts.version }));
                Ok(OperatorResponse::Backup { facts })
            }
            OperatorRequest::StoreRestore { path, ticket } => {
                let wrap = crate::ops::store_key::TokenWrap::new(self.keystore.token().clone());
                let before = snapshot.version;
                let _one_at_a_time = self.keystore.changing().await;
                let replaced = self.store.snapshot();
                let wait = ctx.now + RESTORED_DELETIONS_WAIT_MS;
                let facts = self.store.restore(path, &wrap, before, wait).await.map_err(told)?;
                self.budgets.forget();
                self.keystore.follow(&replaced, &self.store.snapshot());
                self.store_was_replaced();
                self.restored.notify_one();
                effects.store_version = Some(self.store.snapshot().version);
                effects.details = Some(serde_json::json!({ "path": path, "ticket": ticket, "versionBefore": before }));
                Ok(OperatorResponse::Restored { facts })
            }
            OperatorRequest::Doctor => Ok(OperatorResponse::Doctor { report: self.doctor(snapshot, ctx).await? }),
            OperatorRequest::SweeperShow => Ok(OperatorResponse::Sweeper { status: self.sweeper_status(snapshot) }),
            OperatorRequest::TokenList
            | OperatorRequest::TokenReconcile { .. }
            | OperatorRequest::TokenPin { .. }
            | OperatorRequest::TokenReplace { .. }
            | OperatorRequest::KeyAdopt(_)
            | OperatorRequest::KeyAttest { .. } => self.officer_command(request, caller, resolved, ctx, effects).await,
            OperatorRequest::AliasList
            | OperatorRequest::AliasHistory { .. }
            | OperatorRequest::AliasHistoryDrop { .. }
            | OperatorRequest::Rotate { .. }
            | OperatorRequest::RotatePlan { .. } => self.alias_command(request, resolved, ctx, effects).await,
            OperatorRequest::RotateReport { .. } | OperatorRequest::RotateRetire(_) => {
                self.retirement_command(request, resolved, ctx, effects).await
            }
            OperatorRequest::Iam(request) => self.iam(request, caller, resolved, ctx, effects).await,
            OperatorRequest::AuditHash { value } => {
                let hash = self.hashed_contexts().shown(value);
                Ok(OperatorResponse::AuditHash { hash: hash.unwrap_or_default() })
            }
            OperatorRequest::AuditExport(request) => {
                Box::pin(self.audit_command(AuditRequest::Export(request.clone()), ctx, effects)).await
            }
            OperatorRequest::AuditKey(request) => self.audit_key(request, ctx, effects).await,
            OperatorRequest::AuditReport(request) => {
                let asked = AuditRequest::Report(request.clone());
                match self.audit(&asked, ctx).await? {
                    AuditAnswer::Made(report) => {
                        effects.details = Some(report.clone());
                        Ok(OperatorResponse::AuditReport { report })
                    }
                    other => Err(OpError::Internal(format!("a report was answered with {other:?}"))),
                }
            }
            // The record is what they are about: it holds the request.
            OperatorRequest::AttestReview(review) => {
                if !AttestReview::DECISIONS.contains(&review.decision.as_str()) {
                    let known = AttestReview::DECISIONS.join("`, `");
                    return Err(OpError::Validation(format!("`{}` is no decision: `{known}`", review.decision)));
                }
                Ok(OperatorResponse::AuditNoted { what: format!("{} by {}", review.decision, review.reviewer) })
            }
            OperatorRequest::Ceremony(ceremony) => {
                Ok(OperatorResponse::AuditNoted { what: format!("ceremony {}", ceremony.id) })
            }
            OperatorRequest::PolicySimulate(request) => self.simulate(request, snapshot, ctx),
            OperatorRequest::KeyCreate(request) => match resolved.subject() {
                Subject::NewKey { id, arn } => {
                    Box::pin(self.create_key_by_operator(request, *id, arn, snapshot, ctx, effects)).await
                }
                other => Err(OpError::Internal(format!("key create was resolved to {other:?}"))),
            },
            OperatorRequest::AuditPrune { dry_run } => {
                Ok(OperatorResponse::Pruned { plan: self.prune_audit(*dry_run).await? })
            }
            OperatorRequest::SweeperConfirm { ticket } => {
                self.clock.confirm();
                effects.details = Some(serde_json::json!({ "ticket": ticket }));
                Ok(OperatorResponse::Sweeper { status: self.sweeper_status(snapshot) })
            }
        }
    }

    pub(super) fn key_details(&self, key: &KeyTarget, snapshot: &Snapshot) -> Result<KeyDetails, OpError> {
        let record = &key.record;
        let symmetric = record.spec.is_symmetric();
        let token = self.keystore.token_of(record.key_store.as_ref());
        let names = |names: &[Arc<str>]| names.iter().map(ToString::to_string).collect();
        let replicas = |material| token.as_ref().and_then(|token| token.replicas(material)).unwrap_or_default();
        let materials = record.materials.iter().map(|material| MaterialLine {
            held_by: names(&replicas(material_id(record, material)).held_by),
            missing_from: names(&replicas(material_id(record, material)).missing_from),
            generation: material.generation,
            material_id: material.material_id.clone(),
            cka_id: hex::encode(object_id(record, material)),
            cka_label: object_label(record),
            evidence: material.evidence.clone(),
        });
        Ok(KeyDetails {
            line: self.key_line(key, snapshot),
            created: date(record.created),
            deletion_date: match record.lifecycle {
                Lifecycle::PendingDeletion { deletion_date } => Some(date(deletion_date)),
                _ => None,
            },
            tags: record.tags.clone(),
            policy: shown(&record.policy, snapshot).to_string(),
            policy_version: record.policy_version,
            materials: materials.collect(),
            gcm_reserved: symmetric.then(|| snapshot.usage.get(&record.id).map_or(0, |u| u.reserved)),
            gcm_limit: symmetric.then(|| self.budgets.limit()),
            grants: snapshot.grants_of(record.id).count() as u64,
            public_key: record.current().and_then(|m| m.spki.as_deref()).map(pem),
        })
    }

    pub(super) fn key_line(&self, key: &KeyTarget, snapshot: &Snapshot) -> KeyLine {
        let aliases = snapshot.aliases_of.get(&key.record.id).cloned().unwrap_or_default();
        KeyLine {
            key_id: key.record.id.to_string(),
            arn: key.arn.clone(),
            spec: key.record.spec.to_string(),
            usage: key.record.usage.to_string(),
            state: self.state(&key.record).to_string(),
            aliases: aliases.iter().map(ToString::to_string).collect(),
            description: key.record.description.clone(),
        }
    }

    pub(super) fn sweeper_status(&self, snapshot: &Snapshot) -> SweeperStatus {
        let pending = |l: &Lifecycle| matches!(l, Lifecycle::PendingDeletion { .. } | Lifecycle::Deleting);
        let stopped_because = self.clock.stopped_because();
        SweeperStatus {
            running: stopped_because.is_none(),
            stopped_because,
            pending_deletions: snapshot.keys.values().filter(|r| pending(&r.lifecycle)).count() as u64,
        }
    }
}

/// The operator is told what is wrong with a file; callers of the API never see these texts.
fn told(error: crate::store::StoreError) -> OpError {
    match error {
        crate::store::StoreError::Sql(_) => store_error(error),
        other => OpError::Validation(other.to_string()),
    }
}

pub(super) fn pem(spki: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(spki);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

/// RFC 3339, UTC.
pub(super) fn date(ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .ok()
        .and_then(|t| t.format(&Rfc3339).ok())
        .unwrap_or_else(|| ms.to_string())
}
