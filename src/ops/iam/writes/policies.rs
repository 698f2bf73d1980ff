//! Managed policies of accounts, and organisation policies.

use super::{IdKind, Names, documents, known_account, refused, short_text, unique};
use crate::authz::language::PolicyKind;
use crate::ids::{AccountId, Arn, IamPath, PolicyArn, PolicyDocument, PolicyName};
use crate::ops::OpError;
use crate::ops::iam::{PolicySpec, builtin};
use crate::store::{PolicyRecord, Snapshot, Write};

const SERVICE_CONTROL: &str = "policy/service_control_policy/";
const LONGEST_DESCRIPTION: usize = 1_000;

/// What the ARN of a policy says that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyClass {
    /// Of an account, for identities.
    Managed,
    /// SCP, for units and accounts.
    ServiceControl,
}

/// `arn:aws:iam::111122223333:policy/path/name`
pub fn policy_arn(account: &AccountId, path: &IamPath, name: &PolicyName) -> PolicyArn {
    format!("arn:aws:iam::{account}:policy{path}{name}").parse().expect("account, path and name make a policy's ARN")
}

/// `arn:aws:organizations::aws:policy/service_control_policy/name`: organisations are not an account's.
pub fn service_control_arn(name: &PolicyName) -> PolicyArn {
    format!("arn:aws:organizations::aws:{SERVICE_CONTROL}{name}").parse().expect("a name makes a policy's ARN")
}

/// `None`: an ARN that no policy can have.
pub fn kind_of(arn: &PolicyArn) -> Option<PolicyClass> {
    let parts = Arn::parse(arn.as_str()).ok()?;
    match parts.service {
        "iam" => Some(PolicyClass::Managed),
        "organizations" if parts.resource.starts_with(SERVICE_CONTROL) => Some(PolicyClass::ServiceControl),
        _ => None,
    }
}

pub fn put_policy(
    snapshot: &Snapshot,
    spec: &PolicySpec,
    names: Names,
    now: i64,
    ids: &mut impl FnMut(IdKind) -> String,
) -> Result<Vec<Write>, OpError> {
    let arn = spec.arn.as_str();
    let malformed = || OpError::Validation(format!("`{arn}` is not the ARN of a policy that can be made here"));
    let parts = Arn::parse(arn).map_err(|_| malformed())?;
    if builtin::is_builtin(&spec.arn) {
        return refused(format!("{arn} is built in and does not change"));
    }
    let class = kind_of(&spec.arn).ok_or_else(malformed)?;
    let name = match class {
        PolicyClass::Managed => {
            let account: AccountId = parts.account.parse().map_err(|_| malformed())?;
            known_account(snapshot, &account)?;
            let (path, name) = path_and_name(parts.resource).ok_or_else(malformed)?;
            path.parse::<IamPath>().map_err(|_| malformed())?;
            name
        }
        PolicyClass::ServiceControl if parts.account == "aws" => {
            parts.resource.strip_prefix(SERVICE_CONTROL).ok_or_else(malformed)?
        }
        PolicyClass::ServiceControl => return Err(malformed()),
    };
    name.parse::<PolicyName>().map_err(|error| OpError::Validation(error.to_string()))?;
    let known = snapshot.policies.get(&spec.arn);
    if known.is_none() && names == Names::Compared {
        let others = snapshot.policies.keys().filter_map(|other| {
            let other = Arn::parse(other.as_str()).ok()?;
            let same = other.service == parts.service && other.account == parts.account;
            same.then(|| other.resource.rsplit('/').next()).flatten()
        });
        unique(name, others, "A policy with name")?;
    }
    short_text(&spec.description, LONGEST_DESCRIPTION, "the description")?;
    let kind = match class {
        PolicyClass::Managed => PolicyKind::IdentityManaged,
        PolicyClass::ServiceControl => PolicyKind::ServiceControl,
    };
    documents::parse(&spec.document, kind, arn)?;
    let record = PolicyRecord {
        arn: spec.arn.clone(),
        policy_id: known.map_or_else(
            || match class {
                PolicyClass::Managed => ids(IdKind::Policy),
                PolicyClass::ServiceControl => ids(IdKind::OrganizationPolicy),
            },
            |policy| policy.policy_id.clone(),
        ),
        created: known.map_or(now, |policy| policy.created),
        updated: known.map_or(now, |policy| policy.updated),
        description: spec.description.clone(),
        document: PolicyDocument::plain(spec.document.as_str()),
    };
    Ok(match known {
        Some(known) if **known == record => Vec::new(),
        _ => vec![Write::PutPolicy(PolicyRecord { updated: now, ..record })],
    })
}

pub fn delete_policy(snapshot: &Snapshot, arn: &PolicyArn) -> Result<Vec<Write>, OpError> {
    if builtin::is_builtin(arn) {
        return refused(format!("{arn} is built in and cannot be deleted"));
    }
    if !snapshot.policies.contains_key(arn) {
        return refused(format!("Policy {arn} was not found."));
    }
    match users_of(snapshot, arn).into_iter().next() {
        Some(user) => refused(format!("Cannot delete a policy attached to entities. {arn} is attached to {user}")),
        None => Ok(vec![Write::DeletePolicy(arn.clone())]),
    }
}

/// A policy that an identity of the account may have.
pub fn attachable(snapshot: &Snapshot, account: &AccountId, arn: &PolicyArn) -> Result<(), OpError> {
    let parts = Arn::parse(arn.as_str()).map_err(|error| OpError::Validation(error.to_string()))?;
    let own = parts.service == "iam" && parts.account == account.as_str() && snapshot.policies.contains_key(arn);
    match own || builtin::managed(arn) {
        true => Ok(()),
        false => refused(format!("Policy {arn} does not exist or is not attachable.")),
    }
}

/// What has the policy attached or as its boundary, in words.
pub fn users_of(snapshot: &Snapshot, arn: &PolicyArn) -> Vec<String> {
    let users = snapshot
        .users
        .values()
        .filter(|user| user.policies.attached.contains(arn) || user.boundary.as_ref() == Some(arn));
    let groups = snapshot.groups.values().filter(|group| group.policies.attached.contains(arn));
    let roles = snapshot
        .roles
        .values()
        .filter(|role| role.policies.attached.contains(arn) || role.boundary.as_ref() == Some(arn));
    let accounts = snapshot.accounts.values().filter(|account| account.service_control.contains(arn));
    let units = snapshot.units.values().filter(|unit| unit.service_control.contains(arn));
    (users.map(|user| format!("user {}", user.name)))
        .chain(groups.map(|group| format!("group {}", group.name)))
        .chain(roles.map(|role| format!("role {}", role.name)))
        .chain(accounts.map(|account| format!("account {}", account.id)))
        .chain(units.map(|unit| format!("unit {}", unit.id)))
        .collect()
}

/// `policy/a/b/name` is the path `/a/b/` and the name.
fn path_and_name(resource: &str) -> Option<(String, &str)> {
    let (path, name) = resource.rsplit_once('/')?;
    Some((format!("{}/", path.strip_prefix("policy")?), name))
}
