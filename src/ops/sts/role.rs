//! The role that AssumeRole and AssumeRoleWithWebIdentity name. One that does not exist is resolved too, to a role that nobody may
//! assume: the answer does not tell the two apart.

use std::borrow::Cow;
use std::sync::Arc;

use crate::authn::Holder;
use crate::authz::language::{Listed, OwnedValues, Values};
use crate::authz::{Check, Conditions, Resource};
use crate::ids::{AccountId, Arn, RoleName};
use crate::ops::OpError;
use crate::ops::sts::session::{CheckedPolicies, NewSession};
use crate::ops::sts::{AssumeRole, AssumeRoleWithWebIdentity, ROLE_SECONDS, SessionPolicyInput, invalid};
use crate::store::{RoleRecord, Snapshot};

#[derive(Debug, Clone)]
pub struct RoleSubject {
    /// As the caller wrote it.
    pub arn: String,
    /// As the ARN says.
    pub account: AccountId,
    pub record: Option<Arc<RoleRecord>>,
    /// Condition keys of the request.
    pub keys: Listed,
}

impl RoleSubject {
    pub(in crate::ops) fn of_assume_role(request: &AssumeRole, snapshot: &Snapshot) -> Result<Self, OpError> {
        let mut role = Self::find(&request.role_arn, snapshot)?;
        role.common(&request.session_name, request.duration_seconds);
        let keys = &mut role.keys;
        if let Some(id) = &request.external_id {
            keys.set("sts:ExternalId", id);
        }
        if let Some(identity) = request.effective_source_identity() {
            keys.set("sts:SourceIdentity", identity);
        }
        set_tags(keys, request.effective_tags());
        if !request.transitive_tag_keys.is_empty() {
            keys.set_many("sts:TransitiveTagKeys", &request.transitive_tag_keys);
        }
        Ok(role)
    }

    pub(in crate::ops) fn of_web_identity(
        request: &AssumeRoleWithWebIdentity,
        snapshot: &Snapshot,
    ) -> Result<Self, OpError> {
        let mut role = Self::find(&request.role_arn, snapshot)?;
        role.common(&request.session_name, request.duration_seconds);
        Ok(role)
    }

    fn find(text: &str, snapshot: &Snapshot) -> Result<Self, OpError> {
        let (account, path) = parts(text).ok_or_else(|| invalid("Request ARN is invalid"))?;
        let name = path.rsplit('/').next().unwrap_or_default();
        let name: RoleName = name.parse().map_err(|_| invalid("Request ARN is invalid"))?;
        // The path is part of the ARN.
        let found = snapshot.role(&account, &name).filter(|role| format!("{}{}", role.path, role.name) == path);
        Ok(Self { arn: text.to_owned(), account, record: found.cloned(), keys: Listed::new() })
    }

    fn common(&mut self, session_name: &str, seconds: Option<u32>) {
        self.keys.set("sts:RoleSessionName", session_name);
        self.keys.set("sts:DurationSeconds", seconds.unwrap_or(ROLE_SECONDS).to_string());
    }

    /// What the trust policy has to allow. RULE AWS: tags and a source identity each need an action of their own.
    pub(super) fn checks(&self, action: &'static str, tagged: bool, source_identity: bool) -> Vec<Check<'_>> {
        let also = [tagged.then_some("sts:TagSession"), source_identity.then_some("sts:SetSourceIdentity")];
        let actions = std::iter::once(action).chain(also.into_iter().flatten());
        actions.map(|action| self.check(action)).collect()
    }

    fn check(&self, action: &'static str) -> Check<'_> {
        let resource = match &self.record {
            Some(record) => Resource::Role { arn: &self.arn, record },
            None => Resource::Foreign,
        };
        Check { conditions: conditions(&self.keys), ..Check::new(action, resource) }
    }

    /// A permit is given for roles that exist only.
    pub(super) fn record(&self) -> Result<&Arc<RoleRecord>, OpError> {
        self.record.as_ref().ok_or_else(|| OpError::Internal("a role that does not exist was permitted".to_owned()))
    }

    /// A session of the role, bare.
    pub(super) fn session(
        &self,
        name: &str,
        seconds: u32,
        policies: &SessionPolicyInput,
        snapshot: &Snapshot,
    ) -> Result<NewSession, OpError> {
        let role = self.record()?;
        if seconds > role.max_session_seconds {
            return Err(invalid("The requested DurationSeconds exceeds the MaxSessionDuration set for this role."));
        }
        let holder = Holder::Role { id: role.role_id.clone(), name: role.name.clone(), session: name.to_owned() };
        let policies = CheckedPolicies::check(policies, &role.account, snapshot)?;
        Ok(NewSession { policies, ..NewSession::of(role.account.clone(), holder, seconds) })
    }
}

/// `aws:RequestTag/…` and `aws:TagKeys`.
pub(in crate::ops) fn set_tags<'a>(keys: &mut Listed, tags: impl Iterator<Item = &'a (String, String)>) {
    let mut names = Vec::new();
    for (key, value) in tags {
        keys.set(format!("aws:RequestTag/{key}"), value);
        names.push(key);
    }
    if !names.is_empty() {
        keys.set_many("aws:TagKeys", names);
    }
}

pub(super) fn conditions(keys: &Listed) -> Conditions<'_> {
    let value = |values: &'_ OwnedValues| match values {
        OwnedValues::One(value) => Values::One(Cow::Owned(value.clone())),
        OwnedValues::Many(values) => Values::Many(values.iter().cloned().map(Cow::Owned).collect()),
    };
    let request = keys.iter().map(|(name, values)| (Cow::Borrowed(name), value(values))).collect();
    Conditions { request, ..Conditions::default() }
}

/// The account whose role a text names, whether or not there is such a role.
pub fn account_of_role(text: &str) -> Option<AccountId> {
    parts(text).map(|(account, _)| account)
}

/// Account, and path with name: `/ops/deploy`.
fn parts(text: &str) -> Option<(AccountId, &str)> {
    let arn = Arn::parse(text).ok()?;
    let path = arn.resource.strip_prefix("role").filter(|path| path.starts_with('/'))?;
    let ours = arn.partition == "aws" && arn.service == "iam" && arn.region.is_empty();
    Some((arn.account.parse().ok().filter(|_| ours)?, path))
}
