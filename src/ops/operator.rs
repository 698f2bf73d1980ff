//! Commands of the local operator. None of them uses a customer key.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::ids::spec::KeySpec;
use crate::keystore::{MaterialId, Status};
use crate::ops::keys::{cka_id, label, supported};
use crate::ops::resolve::{KeyTarget, Resolved, Subject};
use crate::ops::{
    Context, Effects, KeyDetails, KeyLine, MaterialLine, OpError, OperatorRequest, OperatorResponse, Ops,
    SweeperStatus, store_error,
};
use crate::store::{Lifecycle, Snapshot};

impl Ops {
    pub(super) async fn operator(
        &self,
        request: &OperatorRequest,
        resolved: &Resolved,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        let snapshot = resolved.snapshot();
        match request {
            OperatorRequest::KeyList => {
                let keys = snapshot.keys.values().filter(|r| r.lifecycle != Lifecycle::Creating);
                let targets = keys.map(|r| KeyTarget { record: r.clone(), arn: self.locality.key_arn(&r.id) });
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
                let facts = self.store.restore(path, &wrap, before).await.map_err(told)?;
                self.budgets.forget();
                {
                    let _one_at_a_time = self.keystore.changing().await;
                    self.keystore.follow(&self.store.snapshot());
                }
                effects.store_version = Some(self.store.snapshot().version);
                effects.details = Some(serde_json::json!({ "path": path, "ticket": ticket, "versionBefore": before }));
                Ok(OperatorResponse::Restored { facts })
            }
            OperatorRequest::Doctor => Ok(OperatorResponse::Doctor { report: self.doctor(snapshot).await? }),
            OperatorRequest::SweeperShow => Ok(OperatorResponse::Sweeper { status: self.sweeper_status(snapshot) }),
            OperatorRequest::TokenList
            | OperatorRequest::TokenReconcile { .. }
            | OperatorRequest::TokenPin { .. }
            | OperatorRequest::TokenReplace { .. }
            | OperatorRequest::KeyAdopt(_)
            | OperatorRequest::KeyAttest { .. } => self.officer_command(request, resolved, ctx, effects).await,
            OperatorRequest::AliasList
            | OperatorRequest::AliasHistory { .. }
            | OperatorRequest::AliasHistoryDrop { .. }
            | OperatorRequest::Rotate { .. }
            | OperatorRequest::RotatePlan { .. } => self.alias_command(request, resolved, ctx, effects).await,
            OperatorRequest::RotateReport { .. } | OperatorRequest::RotateRetire(_) => {
                self.retirement_command(request, resolved, ctx, effects).await
            }
            OperatorRequest::SweeperConfirm { ticket } => {
                self.clock.confirm();
                effects.details = Some(serde_json::json!({ "ticket": ticket }));
                Ok(OperatorResponse::Sweeper { status: self.sweeper_status(snapshot) })
            }
        }
    }

    fn key_details(&self, key: &KeyTarget, snapshot: &Snapshot) -> Result<KeyDetails, OpError> {
        let record = &key.record;
        let symmetric = record.spec.is_symmetric();
        let materials = record.materials.iter().map(|material| MaterialLine {
            generation: material.generation,
            material_id: material.material_id.clone(),
            cka_id: cka_id(record, material),
            cka_label: label(&record.id),
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
            policy: record.policy.to_string(),
            policy_version: record.policy_version,
            materials: materials.collect(),
            gcm_reserved: symmetric.then(|| snapshot.usage.get(&record.id).map_or(0, |u| u.reserved)),
            gcm_limit: symmetric.then(|| self.budgets.limit()),
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

    fn sweeper_status(&self, snapshot: &Snapshot) -> SweeperStatus {
        let pending = |l: &Lifecycle| matches!(l, Lifecycle::PendingDeletion { .. } | Lifecycle::Deleting);
        let stopped_because = self.clock.stopped_because();
        SweeperStatus {
            running: stopped_because.is_none(),
            stopped_because,
            pending_deletions: snapshot.keys.values().filter(|r| pending(&r.lifecycle)).count() as u64,
        }
    }

    /// Token, capabilities, what follows from them, and how token and store agree. Nothing is changed.
    async fn doctor(&self, snapshot: &Snapshot) -> Result<serde_json::Value, OpError> {
        let token = self.keystore.token();
        let can = token.capabilities();
        let specs: Vec<_> = KeySpec::ALL.iter().filter(|spec| supported(&can, **spec)).map(|s| s.as_str()).collect();
        let missing: Vec<_> = KeySpec::ALL.iter().filter(|spec| !supported(&can, **spec)).map(|s| s.as_str()).collect();
        let status = match token.status() {
            Status::Ready => "ready".to_owned(),
            Status::Down(reason) => format!("down: {reason}"),
        };
        // A token that is down may list nothing: that says nothing about its objects.
        let objects = match token.status() {
            Status::Ready => {
                let objects = token.objects().await.map_err(|e| OpError::Token(e.to_string()))?;
                compare(&objects, snapshot)
            }
            Status::Down(_) => serde_json::json!("not compared: the token is down"),
        };
        let mut report = serde_json::json!({
            "token": token.info(),
            "status": status,
            "capabilities": can.as_ref(),
            "keySpecs": specs,
            "keySpecsNotSupported": missing,
            "store": { "version": snapshot.version, "keys": snapshot.keys.size(), "aliases": snapshot.aliases.size() },
            "objects": objects,
            "sweeper": self.sweeper_status(snapshot),
        });
        if let Some(members) = report.as_object_mut() {
            members.insert("gcmEncryptionLimit".to_owned(), self.budgets.limit().into());
        }
        Ok(report)
    }
}

/// Objects without a record, records without an object, and debris of a killed token.
fn compare(objects: &[crate::keystore::ObjectReport], snapshot: &Snapshot) -> serde_json::Value {
    let mut held = std::collections::BTreeMap::<&str, Vec<&str>>::new();
    let mut debris = 0;
    for object in objects {
        let readable = object.class.as_deref().is_some_and(|class| !class.is_empty());
        if !readable || (object.id.is_empty() && object.label.is_empty()) {
            debris += 1;
            continue;
        }
        held.entry(object.id.as_str()).or_default().push(object.label.as_str());
    }
    let mut without_object = Vec::new();
    let mut known = std::collections::BTreeSet::new();
    for record in snapshot.keys.values() {
        for material in &record.materials {
            let id = hex::encode(MaterialId { id: record.id.bytes(), generation: material.generation }.cka_id());
            if !held.contains_key(id.as_str()) {
                without_object.push(record.id.to_string());
            }
            known.insert(id);
        }
    }
    let orphans: Vec<_> = held
        .iter()
        .filter(|(id, labels)| labels.iter().any(|l| l.starts_with("hsm-bridge/kms/")) && !known.contains(**id))
        .map(|(id, labels)| serde_json::json!({ "id": id, "labels": labels }))
        .collect();
    serde_json::json!({
        "inToken": objects.len(),
        "withoutRecord": orphans,
        "recordsWithoutObject": without_object,
        "unreadable": debris,
    })
}

/// The operator is told what is wrong with a file; callers of the API never see these texts.
fn told(error: crate::store::StoreError) -> OpError {
    match error {
        crate::store::StoreError::Sql(_) => store_error(error),
        other => OpError::Validation(other.to_string()),
    }
}

fn pem(spki: &[u8]) -> String {
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
