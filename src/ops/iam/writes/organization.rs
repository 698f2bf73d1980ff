//! Accounts and the levels of organisations.

use super::service_control_arn;
use super::{known_account, no_repetition, over, refused, short_text};
use crate::ids::{AccountId, PolicyArn};
use crate::ops::OpError;
use crate::ops::iam::{AccountSpec, UnitSpec, builtin};
use crate::store::{AccountRecord, Snapshot, UnitRecord, Write};

// RULE AWS Organizations quotas: OUs five levels deep below the root, five SCPs on each.
const DEEPEST: usize = 5;
const POLICIES_PER_TARGET: usize = 5;

/// What an account or unit that was given no organisation policy has: AWS's default.
pub fn full_access() -> PolicyArn {
    service_control_arn(&"FullAWSAccess".parse().expect("`FullAWSAccess` is a policy name"))
}

pub fn put_account(snapshot: &Snapshot, spec: &AccountSpec, now: i64) -> Result<Vec<Write>, OpError> {
    short_text(&spec.name, 50, "the account's name")?;
    if spec.name.trim().is_empty() {
        return refused("an account has a name");
    }
    let service_control = match &spec.unit {
        Some(unit) if !snapshot.units.contains_key(unit) => return refused(format!("there is no unit `{unit}`")),
        Some(_) => policies(snapshot, &spec.service_control)?,
        None if spec.service_control.is_empty() => Vec::new(),
        None => {
            return refused(format!(
                "account {} stands in no organisation: organisation policies would have no effect on it",
                spec.id
            ));
        }
    };
    let known = snapshot.accounts.get(&spec.id);
    // RULE authorization.md §4.1: a root user is disabled by default; the deployment's is the bootstrap administrator.
    let own = snapshot.has_account(&spec.id);
    let record = AccountRecord {
        id: spec.id.clone(),
        name: spec.name.clone(),
        created: match known {
            Some(account) => account.created,
            None => snapshot.deployment.as_ref().filter(|d| d.account == spec.id).map_or(now, |d| d.created),
        },
        root_enabled: known.map_or(own, |account| account.root_enabled),
        unit: spec.unit.clone(),
        service_control,
    };
    Ok(if known.is_some_and(|known| **known == record) { Vec::new() } else { vec![Write::PutAccount(record)] })
}

pub fn delete_account(snapshot: &Snapshot, account: &AccountId) -> Result<Vec<Write>, OpError> {
    known_account(snapshot, account)?;
    if snapshot.deployment.as_ref().is_some_and(|own| own.account == *account) {
        return refused(format!("{account} is the deployment's own account and cannot be deleted"));
    }
    let in_arn = format!(":{account}:");
    let left = [
        ("users", snapshot.users.keys().any(|(of, _)| of == account)),
        ("groups", snapshot.groups.keys().any(|(of, _)| of == account)),
        ("roles", snapshot.roles.keys().any(|(of, _)| of == account)),
        ("policies", snapshot.policies.keys().any(|arn| arn.as_str().contains(&in_arn))),
        ("OIDC providers", snapshot.oidc_providers.values().any(|provider| provider.account == *account)),
        ("services", snapshot.services.values().any(|service| service.account == *account)),
        ("access keys", snapshot.access_keys.values().any(|key| key.account == *account)),
        ("keys", snapshot.keys.values().any(|key| key.account == *account)),
        ("aliases", snapshot.aliases.keys().any(|(of, _)| of == account)),
        ("custom key stores", snapshot.key_stores.values().any(|store| store.account == *account)),
    ];
    let left: Vec<&str> = left.iter().filter(|(_, there)| *there).map(|(what, _)| *what).collect();
    if !left.is_empty() {
        return refused(format!("account {account} still has {}: delete them first", left.join(", ")));
    }
    Ok(vec![Write::DeleteAccount(account.clone())])
}

pub fn put_unit(snapshot: &Snapshot, spec: &UnitSpec) -> Result<Vec<Write>, OpError> {
    short_text(&spec.name, 128, "the unit's name")?;
    if spec.name.trim().is_empty() {
        return refused("a unit has a name");
    }
    let prefix = if spec.parent.is_some() { "ou-" } else { "r-" };
    if !is_id(&spec.id, prefix) {
        return refused(format!(
            "`{}` is no id of {}: `{prefix}` and 4 to 68 small letters, digits and dashes",
            spec.id,
            if spec.parent.is_some() { "an organisational unit" } else { "an organisation's root" }
        ));
    }
    if !is_id(&spec.organization, "o-") {
        return refused(format!(
            "`{}` is no id of an organisation: `o-` and 4 to 68 small letters, digits and dashes",
            spec.organization
        ));
    }
    let known = snapshot.units.get(&spec.id);
    match &spec.parent {
        None => {
            let root = snapshot
                .units
                .values()
                .find(|unit| unit.parent.is_none() && unit.organization == spec.organization && unit.id != spec.id);
            if let Some(root) = root {
                return refused(format!("organisation {} has its root already: `{}`", spec.organization, root.id));
            }
        }
        Some(parent) => {
            let above = snapshot.units.get(parent);
            let Some(above) = above else { return refused(format!("there is no unit `{parent}`")) };
            if above.organization != spec.organization {
                return refused(format!(
                    "`{parent}` is of organisation {}, not {}",
                    above.organization, spec.organization
                ));
            }
            let sibling = snapshot
                .units
                .values()
                .find(|unit| unit.parent.as_ref() == Some(parent) && unit.id != spec.id && unit.name == spec.name);
            if let Some(sibling) = sibling {
                return refused(format!("An OU with the same name already exists. `{}` is in `{parent}`", sibling.id));
            }
        }
    }
    if known.is_some_and(|known| known.organization != spec.organization) && has_units(snapshot, &spec.id) {
        return refused(format!("`{}` has units in it and cannot change its organisation", spec.id));
    }
    let service_control = policies(snapshot, &spec.service_control)?;
    let record = UnitRecord {
        id: spec.id.clone(),
        name: spec.name.clone(),
        organization: spec.organization.clone(),
        parent: spec.parent.clone(),
        service_control,
    };
    if known.is_some_and(|known| **known == record) {
        return Ok(Vec::new());
    }
    let write = Write::PutUnit(record);
    let mut after = snapshot.clone();
    after.apply(write.clone());
    for unit in after.units.values() {
        match depth(&after, unit) {
            Some(depth) if depth <= DEEPEST => {}
            Some(_) => {
                return over(format!(
                    "You have exceeded the OU depth limit: `{}` would be deeper than {DEEPEST} levels",
                    unit.id
                ));
            }
            None => return refused(format!("`{}` would stand in itself", unit.id)),
        }
    }
    Ok(vec![write])
}

pub fn delete_unit(snapshot: &Snapshot, id: &str) -> Result<Vec<Write>, OpError> {
    if !snapshot.units.contains_key(id) {
        return refused(format!("there is no unit `{id}`"));
    }
    if has_units(snapshot, id) || snapshot.accounts.values().any(|account| account.unit.as_deref() == Some(id)) {
        return refused(format!("`{id}` is not empty: accounts or units stand in it"));
    }
    Ok(vec![Write::DeleteUnit(id.to_owned())])
}

fn has_units(snapshot: &Snapshot, id: &str) -> bool {
    snapshot.units.values().any(|unit| unit.parent.as_deref() == Some(id))
}

/// Levels below the root; `None`: it does not end.
fn depth(snapshot: &Snapshot, unit: &UnitRecord) -> Option<usize> {
    let mut parent = unit.parent.as_ref();
    for level in 0..=snapshot.units.size() {
        match parent {
            None => return Some(level),
            Some(id) => parent = snapshot.units.get(id).and_then(|unit| unit.parent.as_ref()),
        }
    }
    None
}

/// RULE AWS Organizations: at least one on each level, so that a missing one never means "allowed" or "denied".
fn policies(snapshot: &Snapshot, attached: &[PolicyArn]) -> Result<Vec<PolicyArn>, OpError> {
    if attached.is_empty() {
        return Ok(vec![full_access()]);
    }
    if attached.len() > POLICIES_PER_TARGET {
        return over(format!(
            "You have reached the maximum number of policies of this type on the target: {POLICIES_PER_TARGET}"
        ));
    }
    no_repetition(attached)?;
    for arn in attached {
        let there = super::kind_of(arn) == Some(super::policies::PolicyClass::ServiceControl)
            && (snapshot.policies.contains_key(arn) || builtin::service_control(arn));
        if !there {
            return refused(format!("Policy {arn} does not exist or is no organisation policy."));
        }
    }
    Ok(attached.to_vec())
}

fn is_id(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|rest| {
        (4..=68).contains(&rest.len())
            && rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    })
}
