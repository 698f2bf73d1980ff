//! Users, groups and roles.

use super::{
    IdKind, Names, Trust, check_attached, check_tags, documents, known_account, no_repetition, over, policies, refused,
    short_text, unique,
};
use crate::ids::{AccountId, GroupName, PolicyArn, RoleName, UserName};
use crate::ops::OpError;
use crate::ops::iam::{GroupSpec, RoleSpec, UserSpec};
use crate::store::{GroupRecord, Owner, Policies, RoleRecord, Snapshot, UserRecord, Write};

// RULE IAM quotas.
const GROUPS_PER_USER: usize = 10;
const USER_INLINE: usize = 2_048;
const GROUP_INLINE: usize = 5_120;
const ROLE_INLINE: usize = 10_240;
const SESSION_SECONDS: std::ops::RangeInclusive<u32> = 3_600..=43_200;
const LONGEST_DESCRIPTION: usize = 1_000;

pub fn put_user(
    snapshot: &Snapshot,
    spec: &UserSpec,
    names: Names,
    now: i64,
    ids: &mut impl FnMut(IdKind) -> String,
) -> Result<Vec<Write>, OpError> {
    known_account(snapshot, &spec.account)?;
    let known = snapshot.user(&spec.account, &spec.name);
    if known.is_none() && names == Names::Compared {
        let others = snapshot.users.iter().filter(|((account, _), _)| *account == spec.account);
        unique(spec.name.as_str(), others.map(|((_, name), _)| name.as_str()), "User with name")?;
    }
    check_tags(&spec.tags)?;
    if spec.groups.len() > GROUPS_PER_USER {
        return over(format!("Cannot exceed quota for GroupsPerUser: {GROUPS_PER_USER}"));
    }
    no_repetition(&spec.groups)?;
    for group in &spec.groups {
        existing_group(snapshot, &spec.account, group)?;
    }
    check_attached(snapshot, &spec.account, &spec.attached, "PoliciesPerUser")?;
    check_boundary(snapshot, &spec.account, spec.boundary.as_ref())?;
    let inline = documents::inline(&spec.inline, USER_INLINE, &format!("user {}", spec.name))?;
    let record = UserRecord {
        name: spec.name.clone(),
        account: spec.account.clone(),
        user_id: known.map_or_else(|| ids(IdKind::User), |user| user.user_id.clone()),
        created: known.map_or(now, |user| user.created),
        path: spec.path.clone(),
        tags: spec.tags.clone(),
        groups: spec.groups.clone(),
        policies: Policies { attached: spec.attached.clone(), inline },
        boundary: spec.boundary.clone(),
    };
    Ok(if known.is_some_and(|known| **known == record) { Vec::new() } else { vec![Write::PutUser(record)] })
}

pub fn delete_user(snapshot: &Snapshot, account: &AccountId, name: &UserName) -> Result<Vec<Write>, OpError> {
    existing_user(snapshot, account, name)?;
    let mut writes = access_keys_of(snapshot, account, Owner::User(name.clone()));
    writes.push(Write::DeleteUser(account.clone(), name.clone()));
    Ok(writes)
}

pub fn put_group(
    snapshot: &Snapshot,
    spec: &GroupSpec,
    names: Names,
    now: i64,
    ids: &mut impl FnMut(IdKind) -> String,
) -> Result<Vec<Write>, OpError> {
    known_account(snapshot, &spec.account)?;
    let known = snapshot.groups.get(&(spec.account.clone(), spec.name.clone()));
    if known.is_none() && names == Names::Compared {
        let others = snapshot.groups.keys().filter(|(account, _)| *account == spec.account);
        unique(spec.name.as_str(), others.map(|(_, name)| name.as_str()), "Group with name")?;
    }
    check_attached(snapshot, &spec.account, &spec.attached, "PoliciesPerGroup")?;
    let inline = documents::inline(&spec.inline, GROUP_INLINE, &format!("group {}", spec.name))?;
    let record = GroupRecord {
        name: spec.name.clone(),
        account: spec.account.clone(),
        group_id: known.map_or_else(|| ids(IdKind::Group), |group| group.group_id.clone()),
        created: known.map_or(now, |group| group.created),
        path: spec.path.clone(),
        policies: Policies { attached: spec.attached.clone(), inline },
    };
    Ok(if known.is_some_and(|known| **known == record) { Vec::new() } else { vec![Write::PutGroup(record)] })
}

pub fn delete_group(snapshot: &Snapshot, account: &AccountId, name: &GroupName) -> Result<Vec<Write>, OpError> {
    existing_group(snapshot, account, name)?;
    let member = snapshot.users.values().find(|user| user.account == *account && user.groups.contains(name));
    if let Some(user) = member {
        return refused(format!(
            "Cannot delete entity, must remove users from group first. {} is in {name}",
            user.name
        ));
    }
    Ok(vec![Write::DeleteGroup(account.clone(), name.clone())])
}

pub fn put_role(
    snapshot: &Snapshot,
    spec: &RoleSpec,
    trust: Trust,
    names: Names,
    now: i64,
    ids: &mut impl FnMut(IdKind) -> String,
) -> Result<Vec<Write>, OpError> {
    known_account(snapshot, &spec.account)?;
    let known = snapshot.role(&spec.account, &spec.name);
    if known.is_none() && names == Names::Compared {
        let others = snapshot.roles.keys().filter(|(account, _)| *account == spec.account);
        unique(spec.name.as_str(), others.map(|(_, name)| name.as_str()), "Role with name")?;
    }
    check_tags(&spec.tags)?;
    short_text(&spec.description, LONGEST_DESCRIPTION, "the description")?;
    if !SESSION_SECONDS.contains(&spec.max_session_seconds) {
        return refused(format!(
            "the longest session of role {} is {} seconds: {} to {} are allowed",
            spec.name,
            spec.max_session_seconds,
            SESSION_SECONDS.start(),
            SESSION_SECONDS.end()
        ));
    }
    check_attached(snapshot, &spec.account, &spec.attached, "PoliciesPerRole")?;
    check_boundary(snapshot, &spec.account, spec.boundary.as_ref())?;
    let inline = documents::inline(&spec.inline, ROLE_INLINE, &format!("role {}", spec.name))?;
    let trust = match (trust, known) {
        (Trust::AsStored, Some(known)) if *known.trust.text().as_ref() == *spec.trust => known.trust.clone(),
        _ => documents::trust(snapshot, &spec.trust, &format!("the trust policy of role {}", spec.name))?,
    };
    let record = RoleRecord {
        name: spec.name.clone(),
        account: spec.account.clone(),
        role_id: known.map_or_else(|| ids(IdKind::Role), |role| role.role_id.clone()),
        created: known.map_or(now, |role| role.created),
        path: spec.path.clone(),
        description: spec.description.clone(),
        trust,
        max_session_seconds: spec.max_session_seconds,
        tags: spec.tags.clone(),
        policies: Policies { attached: spec.attached.clone(), inline },
        boundary: spec.boundary.clone(),
        sessions_revoked_before: known.and_then(|role| role.sessions_revoked_before),
    };
    Ok(if known.is_some_and(|known| **known == record) { Vec::new() } else { vec![Write::PutRole(record)] })
}

pub fn delete_role(snapshot: &Snapshot, account: &AccountId, name: &RoleName) -> Result<Vec<Write>, OpError> {
    match snapshot.role(account, name) {
        Some(_) => Ok(vec![Write::DeleteRole(account.clone(), name.clone())]),
        None => refused(format!("The role with name {name} cannot be found.")),
    }
}

pub fn access_keys_of(snapshot: &Snapshot, account: &AccountId, owner: Owner) -> Vec<Write> {
    let ids = snapshot.access_keys_of.get(&(account.clone(), owner));
    ids.into_iter().flatten().cloned().map(Write::DeleteAccessKey).collect()
}

fn existing_user(snapshot: &Snapshot, account: &AccountId, name: &UserName) -> Result<(), OpError> {
    match snapshot.user(account, name) {
        Some(_) => Ok(()),
        None => refused(format!("The user with name {name} cannot be found.")),
    }
}

fn existing_group(snapshot: &Snapshot, account: &AccountId, name: &GroupName) -> Result<(), OpError> {
    match snapshot.groups.contains_key(&(account.clone(), name.clone())) {
        true => Ok(()),
        false => refused(format!("The group with name {name} cannot be found.")),
    }
}

fn check_boundary(snapshot: &Snapshot, account: &AccountId, boundary: Option<&PolicyArn>) -> Result<(), OpError> {
    boundary.map_or(Ok(()), |arn| policies::attachable(snapshot, account, arn))
}
