//! What became of rotated keys: how old each alias's key is, who still uses the retired ones and when last, and their end.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::ids::{AliasName, KeyId};
use crate::ops::aliases::not_reserved;
use crate::ops::keys::state;
use crate::ops::operator::date;
use crate::ops::resolve::Resolved;
use crate::ops::rotation::history::days;
use crate::ops::{Context, DAY_MS, Effects, KeyUse, OpError, OperatorRequest, OperatorResponse, Ops, RotateRetire};
use crate::store::{AliasRecord, KeyRecord, Lifecycle, Snapshot, Write};

/// Uses are known to the second.
const SECOND_MS: i64 = 1_000;
/// How long a command waits for the replay of the journal.
const REPLAY_PATIENCE: Duration = Duration::from_secs(120);
const REPLAY_POLL: Duration = Duration::from_millis(50);

impl Ops {
    /// `rotate report`, `rotate retire`.
    pub(super) async fn retirement_command(
        &self,
        request: &OperatorRequest,
        resolved: &Resolved,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        self.replayed().await?;
        match request {
            OperatorRequest::RotateReport { max_age_days } => {
                let days = max_age_days.unwrap_or(self.rotation.max_age_days);
                Ok(OperatorResponse::RotationReport {
                    report: self.rotation_report(resolved.snapshot(), days, ctx.now),
                })
            }
            OperatorRequest::RotateRetire(request) => self.retire(request, ctx, effects).await,
            other => Err(OpError::Internal(format!("`{}` is no command on retired keys", other.name()))),
        }
    }

    /// Waits until every use in the journal is known: nothing is said of keys before.
    async fn replayed(&self) -> Result<(), OpError> {
        let patience = tokio::time::Instant::now() + REPLAY_PATIENCE;
        while !self.last_uses.is_complete() {
            if tokio::time::Instant::now() >= patience {
                return Err(OpError::InvalidState(
                    "the audit log is still being read for last uses: ask again later".to_owned(),
                ));
            }
            tokio::time::sleep(REPLAY_POLL).await;
        }
        Ok(())
    }

    fn rotation_report(&self, snapshot: &Snapshot, max_age_days: u32, now: i64) -> Value {
        let aliases: Vec<Value> = snapshot
            .aliases
            .values()
            .filter_map(|alias| {
                Some(self.alias_line(alias, snapshot.keys.get(&alias.target)?, snapshot, max_age_days, now))
            })
            .collect();
        let overdue = aliases.iter().filter(|line| line.get("overdue") == Some(&Value::Bool(true))).count();
        json!({
            "maxAgeDays": max_age_days,
            "usesKnownSince": date(self.last_uses.since()),
            "overdue": overdue,
            "aliases": aliases,
        })
    }

    fn alias_line(
        &self,
        alias: &AliasRecord,
        key: &KeyRecord,
        snapshot: &Snapshot,
        max_age_days: u32,
        now: i64,
    ) -> Value {
        // The age of the material counts, not of the alias: that is what a cryptoperiod is about.
        let age = days(key.created, now);
        let retired: Vec<Value> = retired_keys(alias)
            .into_iter()
            .map(|(id, until, ended_by, dropped)| {
                let uses = self.last_uses.of(&id);
                json!({
                    "keyId": id,
                    "keyState": snapshot.keys.get(&id).map_or("Destroyed", |record| state(&record.lifecycle).as_str()),
                    "retired": date(until),
                    "endedBy": ended_by,
                    "dropped": dropped.map(date),
                    "lastUse": uses.iter().max_by_key(|u| u.at).map(use_line),
                    // Who still needs it: these operations read what it made.
                    "stillUsedBy": uses.iter().filter(|u| u.at + SECOND_MS > until && reads(&u.operation)).map(use_line).collect::<Vec<_>>(),
                })
            })
            .collect();
        json!({
            "alias": alias.name,
            "keyId": key.id,
            "keyState": state(&key.lifecycle).as_str(),
            "keyCreated": date(key.created),
            "ageDays": age,
            "overdue": age > i64::from(max_age_days),
            "retired": retired,
        })
    }

    async fn retire(
        &self,
        request: &RotateRetire,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        if !(7..=30).contains(&request.pending_window_in_days) {
            return Err(OpError::Validation("PendingWindowInDays must be between 7 and 30".to_owned()));
        }
        not_reserved(&request.alias)?;
        let unused_days = request.unused_days.unwrap_or(self.rotation.retire_unused_days);
        let deletion_date = ctx.now + i64::from(request.pending_window_in_days) * DAY_MS;
        let not_found = OpError::AliasNotFound { arn: self.locality.of(&ctx.account).alias_arn(&request.alias) };
        let snapshot = self.store.snapshot();
        let alias = snapshot.alias(&ctx.account, &request.alias).ok_or(not_found.clone())?;
        let history: BTreeSet<KeyId> = retired_keys(alias).into_iter().map(|(id, ..)| id).collect();
        let wanted: Vec<KeyId> = match request.key {
            Some(key) if !history.contains(&key) => {
                return Err(OpError::Validation(format!("{key} is not in the history of {}", request.alias)));
            }
            Some(key) => vec![key],
            None => history.into_iter().collect(),
        };
        let mut refused = Vec::new();
        let mut chosen = Vec::new();
        for id in wanted {
            match self.keeps_from_retiring(&id, alias, &snapshot, unused_days, ctx.now) {
                Some(Obstacle::Final(why)) => refused.push((id.to_string(), why)),
                Some(Obstacle::Use(why)) if request.force.is_none() => refused.push((id.to_string(), why)),
                Some(Obstacle::Use(why)) => chosen.push((id, Some(why))),
                None => chosen.push((id, None)),
            }
        }
        let (account, name) = (ctx.account.clone(), request.alias.clone());
        let ids: Vec<KeyId> = chosen.iter().map(|(id, _)| *id).collect();
        if !ids.is_empty() {
            let ((), version) = self
                .change(ctx, move |snapshot| {
                    let alias = snapshot.alias(&account, &name).ok_or(not_found)?;
                    let writes = ids.iter().map(|id| match snapshot.keys.get(id) {
                        // It was brought back, or changed, since it was looked at: ask again.
                        Some(record) if alias.target == *id || in_the_way(&record.lifecycle).is_some() => {
                            Err(OpError::Throttled)
                        }
                        Some(record) => Ok(Write::PutKey(KeyRecord {
                            lifecycle: Lifecycle::PendingDeletion { deletion_date },
                            ..record.as_ref().clone()
                        })),
                        None => Err(OpError::Throttled),
                    });
                    Ok((writes.collect::<Result<Vec<_>, _>>()?, ()))
                })
                .await?;
            effects.store_version = Some(version);
        }
        let scheduled: Vec<String> = chosen.iter().map(|(id, _)| self.locality.of(&ctx.account).key_arn(id)).collect();
        let forced: Vec<Value> =
            chosen.iter().filter_map(|(id, why)| Some(json!({ "keyId": id, "inSpiteOf": why.as_ref()? }))).collect();
        effects.details = Some(json!({
            "alias": request.alias,
            "scheduled": scheduled,
            "deletionDate": date(deletion_date),
            "refused": refused,
            "forced": forced,
            "forceReason": request.force,
        }));
        Ok(OperatorResponse::Retired { scheduled, refused })
    }

    /// Why a retired key stays.
    fn keeps_from_retiring(
        &self,
        id: &KeyId,
        alias: &AliasRecord,
        snapshot: &Snapshot,
        unused_days: u32,
        now: i64,
    ) -> Option<Obstacle> {
        if alias.target == *id {
            return Some(Obstacle::Final("the alias points to it again".to_owned()));
        }
        let Some(record) = snapshot.keys.get(id) else {
            return Some(Obstacle::Final("it is destroyed already".to_owned()));
        };
        if let Some(why) = in_the_way(&record.lifecycle) {
            return Some(Obstacle::Final(why.to_owned()));
        }
        if self.settled(id, "").is_err() {
            return Some(Obstacle::Final("it has a change of unknown outcome".to_owned()));
        }
        if let Some(others) = snapshot.aliases_of.get(id).filter(|names| !names.is_empty()) {
            let names: Vec<&str> = others.iter().map(AliasName::as_str).collect();
            return Some(Obstacle::Use(format!("{} points to it", names.join(", "))));
        }
        let since = now - i64::from(unused_days) * DAY_MS;
        if let Some(last) = self.last_uses.of(id).into_iter().max_by_key(|u| u.at).filter(|u| u.at >= since) {
            return Some(Obstacle::Use(format!(
                "{} used it for {} on {}, less than {unused_days} days ago",
                last.principal,
                last.operation,
                date(last.at)
            )));
        }
        // What happened before the log began is not known. A key that is younger than the log has no such past.
        let known = self.last_uses.since();
        if known > since && record.created < known {
            return Some(Obstacle::Use(format!("uses are known only since {}", date(known))));
        }
        None
    }
}

enum Obstacle {
    /// Force does not help.
    Final(String),
    /// The operator may know better.
    Use(String),
}

fn in_the_way(lifecycle: &Lifecycle) -> Option<&'static str> {
    match lifecycle {
        Lifecycle::Enabled | Lifecycle::Disabled | Lifecycle::Unavailable { .. } => None,
        Lifecycle::PendingDeletion { .. } => Some("its deletion is scheduled already"),
        Lifecycle::Creating | Lifecycle::Deleting => Some("it is being made or destroyed"),
    }
}

/// Each key that the alias pointed to and does not point to now: its last stay. Oldest first.
fn retired_keys(alias: &AliasRecord) -> Vec<(KeyId, i64, &str, Option<i64>)> {
    let mut seen = BTreeSet::from([alias.target]);
    let mut keys: Vec<_> = alias
        .history
        .iter()
        .rev()
        .filter(|entry| seen.insert(entry.key))
        .map(|entry| (entry.key, entry.until, entry.ended_by.as_str(), entry.dropped))
        .collect();
    keys.reverse();
    keys
}

/// Operations that need what a retired key made.
fn reads(operation: &str) -> bool {
    matches!(operation, "Decrypt" | "ReEncrypt" | "Verify" | "VerifyMac")
}

fn use_line(u: &KeyUse) -> Value {
    json!({ "operation": u.operation, "principal": u.principal, "at": date(u.at) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::AliasHistory;
    use crate::store::testing::{alias, key_id};

    fn stay(key: u16, until: i64) -> AliasHistory {
        AliasHistory { key: key_id(key), from: until - 1, until, ended_by: "rotate".into(), dropped: None }
    }

    #[test]
    fn the_last_stay_of_each_key_counts_and_the_current_key_is_not_retired() {
        let mut record = alias("alias/a", key_id(1));
        record.history = vec![stay(1, 10), stay(2, 20), stay(3, 30), stay(2, 40)];
        let found: Vec<_> = retired_keys(&record).into_iter().map(|(id, until, ..)| (id, until)).collect();
        assert_eq!(found, [(key_id(3), 30), (key_id(2), 40)]);
    }
}
