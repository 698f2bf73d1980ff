//! Aliases: made, pointed to another key, deleted, listed. The history of an alias is kept from the first change on and
//! ends with DeleteAlias.

use crate::ids::AccountId;
use crate::ids::AliasName;
use crate::ids::spec::{KeySpec, KeyUsage};
use crate::ops::keys::{newest, not_pending};
use crate::ops::resolve::{AliasSubject, KeyTarget};
use crate::ops::{AliasEntry, Context, Effects, OpError, Ops, Page, Response};
use crate::store::{AliasHistory, AliasRecord, KeyRecord, Snapshot, Write};

const LIST_ALIASES_DEFAULT: u32 = 50;

impl Ops {
    pub(super) async fn create_alias(
        &self,
        alias: &AliasSubject,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        let target = writable(alias)?;
        self.settled(&target.record.id, &target.arn)?;
        let (account, name, alias_arn) = (alias.account.clone(), alias.name.clone(), alias.arn.clone());
        let (id, key_arn, now) = (target.record.id, target.arn.clone(), ctx.now);
        let ((), version) = self
            .change(ctx, move |snapshot| {
                if snapshot.alias(&account, &name).is_some() {
                    return Err(OpError::AliasExists { arn: alias_arn });
                }
                let key = newest(snapshot, &id, &key_arn)?;
                not_pending(&key, &key_arn)?;
                let record = AliasRecord {
                    name,
                    account: key.account,
                    target: id,
                    created: now,
                    updated: now,
                    history: Vec::new(),
                };
                Ok((vec![Write::PutAlias(record)], ()))
            })
            .await?;
        effects.store_version = Some(version);
        Ok(Response::Empty)
    }

    pub(super) async fn update_alias(
        &self,
        alias: &AliasSubject,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        let target = writable(alias)?;
        self.settled(&target.record.id, &target.arn)?;
        let old = self.current_of(alias)?;
        fits(&alias.arn, &old.record, target.record.spec, target.record.usage)?;
        let authorised = old.record.id;
        let (account, name, alias_arn) = (alias.account.clone(), alias.name.clone(), alias.arn.clone());
        let (id, key_arn, now) = (target.record.id, target.arn.clone(), ctx.now);
        let ((), version) = self
            .change(ctx, move |snapshot| {
                let record = snapshot.alias(&account, &name).ok_or(OpError::AliasNotFound { arn: alias_arn })?;
                // What was authorised is what is changed: the alias moved meanwhile, so the caller asks again.
                if record.target != authorised {
                    return Err(OpError::Throttled);
                }
                not_pending(&newest(snapshot, &id, &key_arn)?, &key_arn)?;
                if record.target == id {
                    return Ok((Vec::new(), ()));
                }
                let mut record = record.as_ref().clone();
                record.history.push(AliasHistory {
                    key: record.target,
                    from: record.updated,
                    until: now,
                    ended_by: AliasHistory::BY_UPDATE.to_owned(),
                    dropped: None,
                });
                record.target = id;
                record.updated = now;
                Ok((vec![Write::PutAlias(record)], ()))
            })
            .await?;
        effects.store_version = Some(version);
        Ok(Response::Empty)
    }

    pub(super) async fn delete_alias(
        &self,
        alias: &AliasSubject,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        not_reserved(&alias.name)?;
        let authorised = self.current_of(alias)?.record.id;
        let (account, name, alias_arn) = (alias.account.clone(), alias.name.clone(), alias.arn.clone());
        let ((), version) = self
            .change(ctx, move |snapshot| {
                let record = snapshot.alias(&account, &name).ok_or(OpError::AliasNotFound { arn: alias_arn })?;
                if record.target != authorised {
                    return Err(OpError::Throttled);
                }
                Ok((vec![Write::DeleteAlias(account, name)], ()))
            })
            .await?;
        effects.store_version = Some(version);
        Ok(Response::Empty)
    }

    pub(super) fn list_aliases(
        &self,
        key: Option<&KeyTarget>,
        page: &Page,
        account: &AccountId,
        snapshot: &Snapshot,
    ) -> Result<Response, OpError> {
        let list = key.map_or_else(|| format!("ListAliases {account}"), |k| format!("ListAliases {}", k.record.id));
        let limit = page.limit.unwrap_or(LIST_ALIASES_DEFAULT) as usize;
        let after: Option<AliasName> = match &page.marker {
            None => None,
            Some(marker) => Some(self.markers.open(&list, marker)?.parse().map_err(|_| OpError::InvalidMarker)?),
        };
        let records: Vec<_> = match key {
            None => snapshot.aliases_in(account, after).take(limit + 1).cloned().collect(),
            Some(key) => {
                let mut names = snapshot.aliases_of.get(&key.record.id).cloned().unwrap_or_default();
                names.sort();
                let rest = names.iter().filter(|name| after.as_ref().is_none_or(|after| *name > after));
                rest.filter_map(|name| snapshot.alias(account, name)).take(limit + 1).cloned().collect()
            }
        };
        let next_marker = match records.get(limit).and_then(|_| records.get(limit.checked_sub(1)?)) {
            Some(last) => Some(self.markers.seal(&list, last.name.as_str())?),
            None => None,
        };
        let aliases = records
            .iter()
            .take(limit)
            .map(|record| AliasEntry {
                name: record.name.clone(),
                arn: self.locality.of(&record.account).alias_arn(&record.name),
                target: record.target,
                creation_date: record.created,
                last_updated_date: record.updated,
            })
            .collect();
        Ok(Response::ListAliases { aliases, next_marker })
    }

    /// The key that an alias points to now. An alias never outlives its key.
    fn current_of<'a>(&self, alias: &'a AliasSubject) -> Result<&'a KeyTarget, OpError> {
        alias.current.as_ref().ok_or_else(|| OpError::Internal(format!("{} points to no key", alias.arn)))
    }
}

fn writable(alias: &AliasSubject) -> Result<&KeyTarget, OpError> {
    not_reserved(&alias.name)?;
    alias.target.as_ref().ok_or_else(|| OpError::Internal(format!("{} was given no key", alias.arn)))
}

/// RULE UpdateAlias: both keys are symmetric or neither is, and their usage is the same.
pub(super) fn fits(alias_arn: &str, old: &KeyRecord, spec: KeySpec, usage: KeyUsage) -> Result<(), OpError> {
    if old.spec.is_symmetric() == spec.is_symmetric() && old.usage == usage {
        return Ok(());
    }
    Err(OpError::Validation(format!(
        "Alias {alias_arn} cannot be changed from a key with usage {} and spec {} to one with usage {usage} and spec {spec}.",
        old.usage, old.spec
    )))
}

pub(super) fn not_reserved(name: &AliasName) -> Result<(), OpError> {
    if name.is_reserved() { Err(OpError::ReservedAlias(name.to_string())) } else { Ok(()) }
}
