//! What a change of identities writes, or why it is refused: a pure function of a snapshot. Limits and texts are AWS's where
//! AWS has the rule (authorization.md §1.2, §2.1; IAM and Organizations API references).

mod documents;
mod identities;
mod organization;
mod policies;
mod providers;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use crate::ids::{AccountId, PolicyArn};
use crate::ops::OpError;
use crate::ops::iam::IamChange;
use crate::store::{Snapshot, Write};

pub use policies::{PolicyClass, kind_of, policy_arn, service_control_arn, users_of};
pub use providers::provider_arn;

/// What an id is made for: each has its own form, and none is ever used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdKind {
    /// `AIDA…`
    User,
    /// `AGPA…`
    Group,
    /// `AROA…`
    Role,
    /// `ANPA…`
    Policy,
    /// `p-…`
    OrganizationPolicy,
    /// `ASVC…`
    Service,
    /// `r-…`
    Root,
    /// `ou-…`
    Unit,
    /// `o-…`
    Organization,
}

/// Whether a role's trust policy was written by this change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Its principals are looked up and bound to their ids.
    Given,
    /// It came from the record: whom it meant, it means on. A user of the same name as one who is gone does not inherit.
    AsStored,
}

/// Whether a new name is compared with all others of its kind: whoever brings thousands keeps a list of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    Compared,
    /// Known to be free.
    Free,
}

/// Nothing at all where what shall be is so already. `now` in milliseconds since the epoch.
pub fn writes(
    snapshot: &Snapshot,
    change: &IamChange,
    now: i64,
    ids: &mut impl FnMut(IdKind) -> String,
) -> Result<Vec<Write>, OpError> {
    writes_with(snapshot, change, Trust::Given, now, ids)
}

pub(super) fn writes_with(
    snapshot: &Snapshot,
    change: &IamChange,
    trust: Trust,
    now: i64,
    ids: &mut impl FnMut(IdKind) -> String,
) -> Result<Vec<Write>, OpError> {
    writes_named(snapshot, change, trust, Names::Compared, now, ids)
}

pub(super) fn writes_named(
    snapshot: &Snapshot,
    change: &IamChange,
    trust: Trust,
    names: Names,
    now: i64,
    ids: &mut impl FnMut(IdKind) -> String,
) -> Result<Vec<Write>, OpError> {
    match change {
        IamChange::PutAccount(spec) => organization::put_account(snapshot, spec, now),
        IamChange::DeleteAccount { account } => organization::delete_account(snapshot, account),
        IamChange::PutUnit(spec) => organization::put_unit(snapshot, spec),
        IamChange::DeleteUnit { id } => organization::delete_unit(snapshot, id),
        IamChange::PutUser(spec) => identities::put_user(snapshot, spec, names, now, ids),
        IamChange::DeleteUser { account, name } => identities::delete_user(snapshot, account, name),
        IamChange::PutGroup(spec) => identities::put_group(snapshot, spec, names, now, ids),
        IamChange::DeleteGroup { account, name } => identities::delete_group(snapshot, account, name),
        IamChange::PutRole(spec) => identities::put_role(snapshot, spec, trust, names, now, ids),
        IamChange::DeleteRole { account, name } => identities::delete_role(snapshot, account, name),
        IamChange::PutPolicy(spec) => policies::put_policy(snapshot, spec, names, now, ids),
        IamChange::DeletePolicy { arn } => policies::delete_policy(snapshot, arn),
        IamChange::PutOidcProvider(spec) => providers::put_provider(snapshot, spec, now),
        IamChange::DeleteOidcProvider { arn } => providers::delete_provider(snapshot, arn),
        IamChange::PutService(spec) => providers::put_service(snapshot, spec, now, ids),
        IamChange::DeleteService { name } => providers::delete_service(snapshot, name),
    }
}

/// One after another, each on what the ones before it left; the last value is the snapshot after all of them.
pub fn all_writes(
    snapshot: &Snapshot,
    changes: &[IamChange],
    now: i64,
    ids: &mut impl FnMut(IdKind) -> String,
) -> Result<(Vec<Write>, Snapshot), OpError> {
    let mut after = snapshot.clone();
    let mut all = Vec::new();
    for change in changes {
        for write in writes(&after, change, now, ids)? {
            after.apply(write.clone());
            all.push(write);
        }
    }
    Ok((all, after))
}

fn refused<T>(text: impl Into<String>) -> Result<T, OpError> {
    Err(OpError::Validation(text.into()))
}

fn over<T>(text: impl Into<String>) -> Result<T, OpError> {
    Err(OpError::LimitExceeded(text.into()))
}

fn known_account(snapshot: &Snapshot, account: &AccountId) -> Result<(), OpError> {
    match snapshot.has_account(account) {
        true => Ok(()),
        false => refused(format!("there is no account {account}: make it with `iam account create`")),
    }
}

/// RULE IAM API: names are unique in their account, and a difference in case is none.
fn unique<'a>(name: &str, others: impl Iterator<Item = &'a str>, exists: &str) -> Result<(), OpError> {
    for other in others {
        if other.eq_ignore_ascii_case(name) {
            return refused(format!("{exists} {other} already exists."));
        }
    }
    Ok(())
}

/// RULE IAM API, tags: 50 at most, keys of 1 to 128 and values of up to 256 characters, keys unique ignoring case, `aws:` is
/// reserved.
fn check_tags(tags: &[(String, String)]) -> Result<(), OpError> {
    const MOST: usize = 50;
    if tags.len() > MOST {
        return over(format!("The number of tags has reached the maximum limit of {MOST}."));
    }
    let legal = |c: char| c.is_alphanumeric() || c.is_whitespace() || "_.:/=+-@".contains(c);
    let mut seen = BTreeSet::new();
    for (key, value) in tags {
        let length = key.chars().count();
        if !(1..=128).contains(&length) || value.chars().count() > 256 {
            return refused(format!("tag `{key}`: a key has 1 to 128 characters, a value 256 at most"));
        }
        if !key.chars().chain(value.chars()).all(legal) {
            return refused(format!("tag `{key}`: only letters, digits, white space and _.:/=+-@ are allowed"));
        }
        if key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:")) {
            return refused(format!("tag `{key}`: keys that begin with `aws:` are reserved"));
        }
        if !seen.insert(key.to_lowercase()) {
            return refused("Duplicate tag keys found. Please note that Tag keys are case insensitive.");
        }
    }
    Ok(())
}

fn short_text(text: &str, longest: usize, what: &str) -> Result<(), OpError> {
    match text.chars().count() <= longest {
        true => Ok(()),
        false => refused(format!("{what} has more than {longest} characters")),
    }
}

fn no_repetition<'a, T: Ord + std::fmt::Display + 'a>(list: impl IntoIterator<Item = &'a T>) -> Result<(), OpError> {
    let mut seen = BTreeSet::new();
    for item in list {
        if !seen.insert(item) {
            return refused(format!("`{item}` is there twice"));
        }
    }
    Ok(())
}

/// Managed policies of an identity: the account's own, or built in.
fn check_attached(
    snapshot: &Snapshot,
    account: &AccountId,
    attached: &[PolicyArn],
    quota: &str,
) -> Result<(), OpError> {
    const MOST: usize = 10;
    if attached.len() > MOST {
        return over(format!("Cannot exceed quota for {quota}: {MOST}"));
    }
    no_repetition(attached)?;
    attached.iter().try_for_each(|arn| policies::attachable(snapshot, account, arn))
}
