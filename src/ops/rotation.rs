//! Rotation by alias: a new key in the same key store, the aliases remapped and their history written, all or nothing.
//!
//! Row `Creating` → object in the token → one transaction (row `Enabled`, aliases, history, ClientToken, marker). Whatever
//! ends it before that transaction is undone, at once or at the next start; nothing is half done after it.

mod commit;
pub(super) mod history;
mod plan;
mod subject;
#[cfg(test)]
mod tests;

use crate::ids::AccountId;
use crate::ids::KeyId;
use crate::ids::spec::KeySpec;
use crate::ops::aliases::{fits, not_reserved};
use crate::ops::crypto::in_use;
use crate::ops::key_policy::lockout::survives_rotation;
use crate::ops::keys::supported;
use crate::ops::resolve::{AliasSubject, KeyTarget, Resolved, Subject};
use crate::ops::{
    Context, Effects, OpError, OperatorRequest, OperatorResponse, Ops, Response, RotateGrants, RotationDone, Task,
};
use crate::store::{KeyRecord, Lifecycle, RotationRecord, Snapshot};
use commit::{Commit, live_grants};
pub use subject::{RotationSubject, resolve, resolve_key};

impl Ops {
    pub(super) async fn rotate_alias(
        &self,
        resolved: &Resolved,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        self.rotate(resolved, ctx, effects).await.map(|done| Response::RotateAlias(Box::new(done)))
    }

    pub(super) async fn rotate_by_timer(
        &self,
        resolved: &Resolved,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<(), OpError> {
        self.rotate(resolved, ctx, effects).await.map(drop)
    }

    /// `alias list`, `alias history`, `alias history drop`, `rotate`, `rotate --plan`.
    pub(super) async fn alias_command(
        &self,
        request: &OperatorRequest,
        resolved: &Resolved,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        match (request, resolved.subject()) {
            (OperatorRequest::AliasList, _) => Ok(self.alias_lines(resolved.snapshot(), ctx.now)),
            (OperatorRequest::AliasHistory { .. }, Subject::Alias(alias)) => {
                self.alias_history(alias, resolved.snapshot())
            }
            (OperatorRequest::AliasHistoryDrop { key, .. }, Subject::Alias(alias)) => {
                self.drop_from_history(alias, *key, ctx, effects).await
            }
            (OperatorRequest::Rotate { .. }, _) => {
                Ok(OperatorResponse::Rotated { done: self.rotate(resolved, ctx, effects).await? })
            }
            (OperatorRequest::RotatePlan { key_spec, grants, .. }, Subject::Alias(alias)) => {
                self.rotation_plan(alias, *key_spec, *grants, resolved.snapshot(), ctx.now)
            }
            (request, subject) => Err(OpError::Internal(format!("{} was resolved to {subject:?}", request.name()))),
        }
    }

    async fn rotate(&self, resolved: &Resolved, ctx: &Context, effects: &mut Effects) -> Result<RotationDone, OpError> {
        let Subject::Rotation(subject) = resolved.subject() else {
            return Err(OpError::Internal(format!("a rotation was resolved to {:?}", resolved.subject())));
        };
        if let Some(earlier) = &subject.earlier {
            effects.details = Some(details(subject, true));
            return Ok(self.told_again(&subject.old.record.account, earlier));
        }
        let Ok(_turn) = tokio::time::timeout_at(ctx.deadline.into(), self.rotating.lock()).await else {
            return Err(OpError::Throttled);
        };
        let snapshot = self.store.snapshot();
        if let Some(ticket) = &subject.ticket
            && let Some(earlier) = subject::known(&snapshot, &ticket.client_token)
        {
            if earlier.request != ticket.request {
                return Err(OpError::Validation(
                    "The ClientToken was used before with another request: take a new one.".to_owned(),
                ));
            }
            // Both came at once, and both were authorised for the same alias and old key. The new key is the other's: its
            // policy and tags are the old key's too.
            if earlier.old_key == subject.old.record.id {
                effects.details = Some(details(subject, true));
                return Ok(self.told_again(&subject.old.record.account, earlier));
            }
            return Err(OpError::Throttled);
        }
        let still_there = |alias: &AliasSubject| {
            snapshot.alias(&alias.account, &alias.name).is_some_and(|record| record.target == subject.old.record.id)
        };
        if !subject.aliases.iter().all(still_there) {
            return Err(OpError::Throttled);
        }
        let wanted = Wanted {
            aliases: &subject.aliases,
            old: &subject.old,
            new_arn: &subject.new.arn,
            spec: subject.new.record.spec,
            grants: subject.grants,
            by_service: matches!(resolved.task(), Task::Timer(_)),
        };
        if let Some(refusal) = self.refusals(&wanted, &snapshot).into_iter().next() {
            return Err(refusal);
        }
        let record = KeyRecord { created: ctx.now, ..subject.new.record.as_ref().clone() };
        let (id, store) = (record.id, record.key_store.clone());
        let enabled = self.make_material(record, &subject.new.arn, ctx, effects).await?;
        effects.key_store = self.backing_key(&enabled);
        let commit = Commit::new(subject, enabled, ctx.now);
        let committed = self
            .change(ctx, move |snapshot| match commit.writes(snapshot) {
                Ok((writes, done)) => Ok((writes, Ok(done))),
                Err(refusal) => Ok((Vec::new(), Err(refusal))),
            })
            .await;
        match committed {
            Ok((Ok(done), version)) => {
                effects.store_version = Some(version);
                effects.details = Some(details(subject, false));
                Ok(done)
            }
            Ok((Err(refusal), _)) => {
                match self.keystore.token_of(store.as_ref()) {
                    Some(token) => self.undo_creation(&token, id, false, &self.generate_call(ctx)).await,
                    None => self.mark_unsettled(id),
                }
                Err(refusal)
            }
            // The store failed, and what the disk holds is not known before the next start: the object stays as long, in case
            // the transaction comes back with it.
            Err(error) => {
                self.mark_unsettled(id);
                Err(error)
            }
        }
    }

    fn told_again(&self, account: &AccountId, earlier: &RotationRecord) -> RotationDone {
        let here = self.locality.of(account);
        RotationDone {
            aliases: earlier.aliases.clone(),
            old_key_arn: here.key_arn(&earlier.old_key),
            new_key_arn: here.key_arn(&earlier.new_key),
            at: earlier.at,
        }
    }

    /// Everything that forbids this rotation now; `rotate --plan` shows all, a rotation ends with the first.
    fn refusals(&self, wanted: &Wanted<'_>, snapshot: &Snapshot) -> Vec<OpError> {
        let Wanted { aliases, old, new_arn, spec, grants, by_service } = *wanted;
        let old = &match snapshot.keys.get(&old.record.id) {
            Some(record) => KeyTarget { record: record.clone(), arn: old.arn.clone() },
            None => return vec![OpError::KeyNotFound { arn: old.arn.clone() }],
        };
        let mut refused = Vec::new();
        let mut check = |result: Result<(), OpError>| refused.extend(result.err());
        for alias in aliases {
            // RULE KMS: nobody rotates an AWS managed key; AWS itself does.
            if !by_service {
                check(not_reserved(&alias.name));
            }
            check(fits(&alias.arn, &old.record, spec, spec.default_usage()));
        }
        check(match old.record.lifecycle {
            Lifecycle::Disabled => Err(OpError::InvalidState(format!(
                "{} is disabled, and a rotation would bring its aliases back into use: enable it first, or point the alias to \
                 another key with UpdateAlias.",
                old.arn
            ))),
            _ => in_use(old),
        });
        check(self.settled(&old.record.id, &old.arn));
        match self.token_of(old) {
            Err(error) => check(Err(error)),
            Ok(token) if !supported(&token.capabilities(), spec) => {
                check(Err(OpError::Unsupported(format!("The token does not support keys of spec {spec}."))));
            }
            Ok(_) => {}
        }
        if old.record.key_store.is_some() && spec != old.record.spec {
            check(self.spec_in_custom_store(spec));
        }
        check(policy_fits(&old.record, &old.arn, new_arn));
        let live = live_grants(snapshot, &old.record.id);
        if live > 0 && grants.is_none() {
            check(Err(OpError::InvalidState(format!(
                "{} has {live} live grants: say whether they are carried to the new key or left.",
                old.arn
            ))));
        }
        refused
    }

    /// Keys reached through an alias whose share of the GCM budget is used up (`rotation.at_usage`).
    pub fn due_for_rotation(&self) -> Vec<KeyId> {
        let snapshot = self.store.snapshot();
        let Some(share) = self.budgets.rotate_at() else { return Vec::new() };
        let due = |id: &KeyId| {
            snapshot.aliases_of.contains_key(id)
                && snapshot.keys.get(id).is_some_and(|record| {
                    record.lifecycle == Lifecycle::Enabled
                        && self.keystore.token_of(record.key_store.as_ref()).is_some()
                })
        };
        let used = snapshot.usage.iter().filter(|(_, usage)| usage.reserved >= share);
        used.map(|(id, _)| *id).filter(due).collect()
    }

    /// Returns when a key's use has passed `rotation.at_usage`.
    pub async fn share_passed(&self) {
        self.budgets.share_passed().await;
    }
}

/// What a rotation would have to be allowed.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    aliases: &'a [AliasSubject],
    old: &'a KeyTarget,
    new_arn: &'a str,
    spec: KeySpec,
    grants: Option<RotateGrants>,
    /// The usage timer asks.
    by_service: bool,
}

/// The policy is copied as it is.
fn policy_fits(old: &KeyRecord, old_arn: &str, new_arn: &str) -> Result<(), OpError> {
    if !survives_rotation(old, old_arn, new_arn) {
        return Err(OpError::MalformedPolicy(format!(
            "The key policy of {old_arn} names this key as its resource, so nobody could change the policy of the new key. Write \
             \"Resource\": \"*\" in it."
        )));
    }
    Ok(())
}

fn details(subject: &RotationSubject, again: bool) -> serde_json::Value {
    let aliases: Vec<&str> = subject.aliases.iter().map(|alias| alias.name.as_str()).collect();
    let mut details = serde_json::json!({ "aliases": aliases, "oldKey": subject.old.arn, "reason": subject.reason, "grants": subject.grants });
    if let Some(members) = details.as_object_mut() {
        if again {
            members.insert("answeredBefore".to_owned(), true.into());
        } else {
            members.insert("newKey".to_owned(), subject.new.arn.as_str().into());
        }
    }
    details
}
