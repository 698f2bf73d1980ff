//! Aliases as the officer sees them: where they point, where they pointed, and which of that no longer counts.

use serde_json::json;

use crate::ids::KeyId;
use crate::ops::aliases::not_reserved;
use crate::ops::operator::date;
use crate::ops::resolve::AliasSubject;
use crate::ops::{Context, DAY_MS, Effects, OpError, OperatorResponse, Ops};
use crate::store::{AliasRecord, Snapshot, Write};

impl Ops {
    pub(super) fn alias_lines(&self, snapshot: &Snapshot, now: i64) -> OperatorResponse {
        let line = |record: &AliasRecord| {
            let key = snapshot.keys.get(&record.target);
            json!({
                "alias": record.name,
                "keyId": record.target,
                "keyState": self.key_state(snapshot, &record.target),
                "created": date(record.created),
                "updated": date(record.updated),
                "keyAgeDays": key.map(|key| days(key.created, now)),
                "historyEntries": record.history.len(),
            })
        };
        OperatorResponse::Aliases { aliases: snapshot.aliases.values().map(|record| line(record)).collect() }
    }

    /// Oldest first; the last one is where the alias points now.
    pub(super) fn alias_history(&self, alias: &AliasSubject, snapshot: &Snapshot) -> Result<OperatorResponse, OpError> {
        let record = alias.record.as_ref().ok_or_else(|| OpError::AliasNotFound { arn: alias.arn.clone() })?;
        let mut entries: Vec<_> = record
            .history
            .iter()
            .map(|entry| {
                json!({
                    "keyId": entry.key,
                    "from": date(entry.from),
                    "until": date(entry.until),
                    "endedBy": entry.ended_by,
                    "dropped": entry.dropped.map(date),
                    "keyState": self.key_state(snapshot, &entry.key),
                })
            })
            .collect();
        entries.push(json!({
            "keyId": record.target,
            "from": date(record.updated),
            "until": null,
            "endedBy": null,
            "dropped": null,
            "keyState": self.key_state(snapshot, &record.target),
        }));
        Ok(OperatorResponse::AliasHistory { alias: record.name.clone(), entries })
    }

    pub(super) async fn drop_from_history(
        &self,
        alias: &AliasSubject,
        key: KeyId,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        not_reserved(&alias.name)?;
        let (account, name) = (alias.account.clone(), alias.name.clone());
        let (arn, now) = (alias.arn.clone(), ctx.now);
        let (entries, version) = self
            .change(ctx, move |snapshot| {
                let record = snapshot.alias(&account, &name).ok_or(OpError::AliasNotFound { arn })?;
                let (record, entries) = dropped(record, key, now)?;
                Ok((vec![Write::PutAlias(record)], entries))
            })
            .await?;
        effects.store_version = Some(version);
        effects.details = Some(json!({ "key": self.locality.of(&alias.account).key_arn(&key), "entries": entries }));
        Ok(OperatorResponse::AliasHistoryDropped { alias: alias.name.clone(), key })
    }

    fn key_state(&self, snapshot: &Snapshot, id: &KeyId) -> String {
        snapshot.keys.get(id).map_or_else(|| "Destroyed".to_owned(), |record| self.state(record).to_string())
    }
}

/// The alias without this key in what its history means, and how many entries that took. The entries stay to be seen.
pub(super) fn dropped(record: &AliasRecord, key: KeyId, now: i64) -> Result<(AliasRecord, usize), OpError> {
    if record.target == key {
        return Err(OpError::Validation(format!(
            "{} points to {key} now: only earlier keys can be dropped.",
            record.name
        )));
    }
    let mut record = record.clone();
    let mut entries = 0;
    for entry in record.history.iter_mut().filter(|entry| entry.key == key && entry.dropped.is_none()) {
        entry.dropped = Some(now);
        entries += 1;
    }
    if entries == 0 {
        return Err(OpError::Validation(format!("{} has no entry of {key} in its history.", record.name)));
    }
    Ok((record, entries))
}

pub(in crate::ops) fn days(since: i64, now: i64) -> i64 {
    now.saturating_sub(since).max(0) / DAY_MS
}
