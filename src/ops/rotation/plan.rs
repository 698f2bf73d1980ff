//! `rotate --plan`: what a rotation would do, and what forbids it. Nothing is changed and no key is made.

use serde_json::json;

use crate::ids::spec::KeySpec;
use crate::ids::{AliasName, KeyId};
use crate::ops::operator::date;
use crate::ops::resolve::AliasSubject;
use crate::ops::rotation::history::days;
use crate::ops::rotation::{Wanted, live_grants};
use crate::ops::{OpError, OperatorResponse, Ops, RotateGrants};
use crate::store::Snapshot;

const SHOWN_PRINCIPALS: usize = 10;

impl Ops {
    pub(super) fn rotation_plan(
        &self,
        alias: &AliasSubject,
        spec: Option<KeySpec>,
        grants: Option<RotateGrants>,
        snapshot: &Snapshot,
        now: i64,
    ) -> Result<OperatorResponse, OpError> {
        let missing = || OpError::AliasNotFound { arn: alias.arn.clone() };
        let (record, old) = (alias.record.as_ref().ok_or_else(missing)?, alias.current.as_ref().ok_or_else(missing)?);
        let spec = spec.unwrap_or(old.record.spec);
        let wanted = Wanted {
            aliases: std::slice::from_ref(alias),
            old,
            // No key has this id: its place in the policy is any other than the old key's.
            new_arn: &self.locality.of(&alias.account).key_arn(&KeyId::new([0; 16], false)),
            spec,
            grants,
            by_service: false,
        };
        let refused: Vec<_> = self.refusals(&wanted, snapshot).iter().map(ToString::to_string).collect();
        let others: Vec<&AliasName> = snapshot
            .aliases_of
            .get(&old.record.id)
            .into_iter()
            .flatten()
            .filter(|name| **name != record.name)
            .collect();
        let reserved = snapshot.usage.get(&old.record.id).map_or(0, |usage| usage.reserved);
        let encryptions =
            old.record.spec.is_symmetric().then(|| json!({ "setAside": reserved, "limit": self.budgets.limit() }));
        let plan = json!({
            "alias": record.name,
            "wouldBeDone": refused.is_empty(),
            "refusedBecause": refused,
            "oldKey": {
                "keyId": old.record.id,
                "state": self.state(&old.record).to_string(),
                "spec": old.record.spec,
                "created": date(old.record.created),
                "ageDays": days(old.record.created, now),
                "aliasSince": date(record.updated),
            },
            "encryptionsUnderOldKey": encryptions,
            "newKey": {
                "spec": spec,
                "usage": spec.default_usage(),
                "keyStore": old.record.key_store.as_ref().map_or("default", |id| id.as_str()),
                "description": old.record.description,
                "policyBytesCopied": old.record.policy.text().len(),
                "tagsCopied": old.record.tags.len(),
            },
            "aliasesThatStayAtOldKey": others,
            "lastDecryptedBy": self.last_decrypted_by(&old.record.id),
            "liveGrantsOfOldKey": live_grants(snapshot, &old.record.id),
            "grants": grants,
            "historyEntriesAfter": record.history.len() + 1,
        });
        Ok(OperatorResponse::RotationPlan { plan })
    }

    /// Who has the old key's ciphertexts, newest first; `null` while the journal is still being read.
    fn last_decrypted_by(&self, key: &KeyId) -> Option<Vec<serde_json::Value>> {
        if !self.last_uses().is_complete() {
            return None;
        }
        let mut uses = self.last_uses().of(key);
        uses.retain(|last| matches!(last.operation.as_ref(), "Decrypt" | "ReEncrypt"));
        uses.sort_by_key(|last| std::cmp::Reverse(last.at));
        let shown = uses.iter().take(SHOWN_PRINCIPALS);
        Some(
            shown
                .map(|last| json!({ "principal": last.principal, "operation": last.operation, "at": date(last.at) }))
                .collect(),
        )
    }
}
