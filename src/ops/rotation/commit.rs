//! The one transaction of a rotation: new key, aliases, history, grants and ClientToken, or nothing. A function of the newest
//! snapshot, but for the ids of carried grants.

use crate::ids::{AliasName, KeyId};
use crate::ops::grants::new_grant_id;
use crate::ops::keys::{newest, not_pending};
use crate::ops::rotation::subject::{RotationSubject, Ticket};
use crate::ops::{OpError, RotateGrants, RotationDone};
use crate::store::{AliasHistory, GrantRecord, KeyRecord, RotationRecord, Snapshot, Write};

/// How long a ClientToken is known at least.
const TOKENS_KEPT_MS: i64 = 24 * 3_600_000;
/// Old ones that one transaction takes away at most.
const TOKENS_FORGOTTEN_AT_ONCE: usize = 64;

pub(super) struct Commit {
    aliases: Vec<AliasName>,
    old: KeyRecord,
    old_arn: String,
    new: KeyRecord,
    new_arn: String,
    grants: Option<RotateGrants>,
    ticket: Option<Ticket>,
    now: i64,
}

impl Commit {
    /// `new`: with its material, enabled.
    pub fn new(subject: &RotationSubject, new: KeyRecord, now: i64) -> Self {
        Self {
            aliases: subject.aliases.iter().map(|alias| alias.name.clone()).collect(),
            old: subject.old.record.as_ref().clone(),
            old_arn: subject.old.arn.clone(),
            new,
            new_arn: subject.new.arn.clone(),
            grants: subject.grants,
            ticket: subject.ticket.clone(),
            now,
        }
    }

    /// What was authorised is what is changed: where old key or aliases are not what they were, the caller comes again.
    pub fn writes(self, snapshot: &Snapshot) -> Result<(Vec<Write>, RotationDone), OpError> {
        let old = newest(snapshot, &self.old.id, &self.old_arn)?;
        not_pending(&old, &self.old_arn)?;
        let copied = |r: &KeyRecord| (r.policy.clone(), r.tags.clone(), r.description.clone(), r.lifecycle.clone());
        if copied(&old) != copied(&self.old) {
            return Err(OpError::Throttled);
        }
        let ticket_taken = |ticket: &Ticket| super::subject::known(snapshot, &ticket.client_token).is_some();
        if self.ticket.as_ref().is_some_and(ticket_taken) {
            return Err(OpError::Throttled);
        }
        let mut writes = vec![Write::PutKey(self.new.clone())];
        for name in &self.aliases {
            let record = snapshot.alias(&self.old.account, name).filter(|record| record.target == self.old.id);
            let mut record = record.ok_or(OpError::Throttled)?.as_ref().clone();
            record.history.push(AliasHistory {
                key: record.target,
                from: record.updated,
                until: self.now,
                ended_by: AliasHistory::BY_ROTATE.to_owned(),
                dropped: None,
            });
            record.target = self.new.id;
            record.updated = self.now;
            writes.push(Write::PutAlias(record));
        }
        writes.extend(self.carried(snapshot)?);
        writes.extend(forgotten(snapshot, self.now));
        if let Some(Ticket { client_token, request }) = self.ticket {
            writes.push(Write::PutRotation(RotationRecord {
                client_token,
                request,
                aliases: self.aliases.clone(),
                old_key: self.old.id,
                new_key: self.new.id,
                at: self.now,
            }));
        }
        let (old_key_arn, new_key_arn) = (self.old_arn, self.new_arn);
        Ok((writes, RotationDone { aliases: self.aliases, old_key_arn, new_key_arn, at: self.now }))
    }
}

impl Commit {
    /// The old key's grants as grants of the new key: to the same principals, who keep the unique ids that they were bound to.
    fn carried(&self, snapshot: &Snapshot) -> Result<Vec<Write>, OpError> {
        match self.grants {
            Some(RotateGrants::Leave) => Ok(Vec::new()),
            Some(RotateGrants::Carry) => snapshot
                .grants_of(self.old.id)
                .map(|grant| {
                    let (id, created) = (new_grant_id()?, self.now);
                    Ok(Write::PutGrant(GrantRecord { id, key: self.new.id, created, ..grant.as_ref().clone() }))
                })
                .collect(),
            // Made since the rotation was found to need no word about grants.
            None if live_grants(snapshot, &self.old.id) > 0 => Err(OpError::Throttled),
            None => Ok(Vec::new()),
        }
    }
}

/// ClientTokens that nobody can come back with any more.
fn forgotten(snapshot: &Snapshot, now: i64) -> impl Iterator<Item = Write> {
    let old = snapshot.rotations.iter().filter(move |(_, r)| r.at.saturating_add(TOKENS_KEPT_MS) < now);
    old.take(TOKENS_FORGOTTEN_AT_ONCE).map(|(token, _)| Write::DeleteRotation(token.clone()))
}

/// Live grants of a key.
pub(super) fn live_grants(snapshot: &Snapshot, key: &KeyId) -> u64 {
    snapshot.grants_of(*key).count() as u64
}
