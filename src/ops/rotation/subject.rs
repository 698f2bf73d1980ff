//! What a rotation is about, from one snapshot: the aliases, the old key, and the new key as it would be.

use std::sync::Arc;

use aws_lc_rs::digest;

use crate::ids::spec::KeySpec;
use crate::ids::{KeyId, Locality};
use crate::ops::resolve::{AliasSubject, KeyTarget, alias_subject, by_id, target};
use crate::ops::{OpError, RotateAlias, RotateGrants};
use crate::store::{KeyRecord, Lifecycle, Provenance, RotationRecord, Snapshot};

#[derive(Debug, Clone)]
pub struct RotationSubject {
    /// All move to the new key.
    pub aliases: Vec<AliasSubject>,
    pub old: KeyTarget,
    /// The would-be record: what the new key is authorised as, without material.
    pub new: KeyTarget,
    pub reason: Option<String>,
    pub grants: Option<RotateGrants>,
    pub ticket: Option<Ticket>,
    /// The same request was done before under the same ClientToken: `old` and `new` are those of that time.
    pub earlier: Option<Arc<RotationRecord>>,
}

/// A ClientToken and what it stands for.
#[derive(Debug, Clone)]
pub struct Ticket {
    /// With whose it is: nobody can take a token before another principal does, or learn what was done under it.
    pub client_token: String,
    /// SHA-256 over the request's members, hex.
    pub request: String,
}

/// `HsmBridge.RotateAlias` and `hsm-bridge rotate`. `who`: the principal that asks.
pub fn resolve(
    request: RotateAlias,
    who: &str,
    snapshot: &Snapshot,
    here: &Locality,
    new_id: KeyId,
) -> Result<RotationSubject, OpError> {
    let ticket = request
        .client_token
        .as_ref()
        .map(|token| Ticket { client_token: digest_of(&[Some(who), Some(token)]), request: fingerprint(&request) });
    let RotateAlias { alias, key_spec, reason, grants, .. } = request;
    let earlier = ticket.as_ref().and_then(|t| known(snapshot, &t.client_token).filter(|r| r.request == t.request));
    if let Some(earlier) = earlier {
        return Ok(RotationSubject {
            aliases: earlier.aliases.iter().map(|name| alias_subject(snapshot, here, name, None)).collect(),
            old: by_id(snapshot, here, &earlier.old_key)?,
            new: by_id(snapshot, here, &earlier.new_key)?,
            reason,
            grants,
            ticket,
            earlier: Some(earlier.clone()),
        });
    }
    let alias = alias_subject(snapshot, here, &alias, None);
    let Some(record) = &alias.record else { return Err(OpError::AliasNotFound { arn: alias.arn }) };
    let old = by_id(snapshot, here, &record.target)?;
    let new = successor(&old.record, new_id, key_spec.unwrap_or(old.record.spec));
    let new = KeyTarget { record: Arc::new(new), arn: here.key_arn(&new_id) };
    Ok(RotationSubject { aliases: vec![alias], old, new, reason, grants, ticket, earlier: None })
}

/// The usage timer: all aliases of the key move at once.
pub fn resolve_key(
    key: &KeyId,
    snapshot: &Snapshot,
    here: &Locality,
    new_id: KeyId,
) -> Result<RotationSubject, OpError> {
    let old = snapshot
        .keys
        .get(key)
        .map(|record| target(record, here))
        .ok_or_else(|| OpError::KeyNotFound { arn: here.key_arn(key) })?;
    let here = &here.of(&old.record.account);
    let names = snapshot.aliases_of.get(key).map_or(&[][..], Vec::as_slice);
    let aliases: Vec<_> = names.iter().map(|name| alias_subject(snapshot, here, name, None)).collect();
    if aliases.is_empty() {
        return Err(OpError::InvalidState(format!("No alias points to {}.", old.arn)));
    }
    let new = successor(&old.record, new_id, old.record.spec);
    Ok(RotationSubject {
        aliases,
        new: KeyTarget { record: Arc::new(new), arn: here.key_arn(&new_id) },
        old,
        reason: Some("rotation.at_usage".to_owned()),
        // Nobody is there to be asked, and callers who lose their access are no better off than at the limit.
        grants: Some(RotateGrants::Carry),
        ticket: None,
        earlier: None,
    })
}

/// The new key before it has a material: in the same key store, with what a rotation copies.
pub(super) fn successor(old: &KeyRecord, id: KeyId, spec: KeySpec) -> KeyRecord {
    KeyRecord {
        id,
        account: old.account.clone(),
        // Set when it is made.
        created: 0,
        description: old.description.clone(),
        spec,
        usage: spec.default_usage(),
        lifecycle: Lifecycle::Creating,
        policy: old.policy.clone(),
        policy_version: 1,
        tags: old.tags.clone(),
        materials: Vec::new(),
        key_store: old.key_store.clone(),
        provenance: Provenance::Rotated { from: old.id },
        managed_by: old.managed_by.clone(),
    }
}

/// The rotation that was done under a ClientToken, as long as it can be told: its keys may be gone when the token is old.
pub(super) fn known<'a>(snapshot: &'a Snapshot, client_token: &str) -> Option<&'a Arc<RotationRecord>> {
    let lives = |id: &KeyId| snapshot.keys.get(id).is_some_and(|r| r.lifecycle != Lifecycle::Deleting);
    snapshot.rotations.get(client_token).filter(|r| lives(&r.old_key) && lives(&r.new_key))
}

/// The request without its ClientToken.
pub(super) fn fingerprint(request: &RotateAlias) -> String {
    let RotateAlias { alias, key_spec, reason, grants, client_token: _ } = request;
    let grants = grants.map(|grants| match grants {
        RotateGrants::Carry => "carry",
        RotateGrants::Leave => "leave",
    });
    digest_of(&[Some(alias.as_str()), key_spec.map(KeySpec::as_str), reason.as_deref(), grants])
}

/// SHA-256 over the members, each with its presence and length, so that no two lists give the same bytes.
fn digest_of(members: &[Option<&str>]) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    for member in members {
        match member {
            None => hash.update(&[0]),
            Some(text) => {
                hash.update(&[1]);
                hash.update(&(text.len() as u64).to_be_bytes());
                hash.update(text.as_bytes());
            }
        }
    }
    hex::encode(hash.finish().as_ref())
}
