//! From an edit to what the entity shall be, whole. Runs inside the transaction, on the entity as it is there.

use super::writes::{IdKind, PolicyClass, Trust, kind_of, policy_arn, provider_arn, service_control_arn};
use super::{
    AccountSpec, GroupSpec, IamChange, IamEdit, IamIdentity, IamTarget, OidcProviderSpec, PolicySpec, RoleSpec,
    ServiceSpec, UnitSpec, UserSpec, builtin,
};
use crate::ids::{AccountId, GroupName, PolicyArn, PolicyDocument, PolicyName, RoleName, UserName};
use crate::ops::OpError;
use crate::store::{AccountRecord, PolicyRecord, Snapshot, UnitRecord};

const LAST_POLICY: &str = "You cannot remove the last policy attached to the specified target. You must have at least one \
                           attached at all times.";

/// `account`: in which names are looked up.
pub fn change_of(
    snapshot: &Snapshot,
    account: &AccountId,
    edit: &IamEdit,
    ids: &mut impl FnMut(IdKind) -> String,
) -> Result<(IamChange, Trust), OpError> {
    let at = Place { snapshot, account };
    let change = match edit {
        IamEdit::CreateAccount { id, name, unit } => {
            new(snapshot.accounts.contains_key(id), || format!("account {id} is there already"))?;
            let (id, name, unit) = (id.clone(), name.clone(), unit.clone());
            IamChange::PutAccount(AccountSpec { id, name, unit, service_control: Vec::new() })
        }
        IamEdit::DeleteAccount { id } => IamChange::DeleteAccount { account: id.clone() },
        IamEdit::MoveAccount { id, unit } => {
            let spec = at.account_spec(id)?;
            let service_control = if unit.is_some() { spec.service_control } else { Vec::new() };
            IamChange::PutAccount(AccountSpec { unit: unit.clone(), service_control, ..spec })
        }
        IamEdit::CreateUnit { id, name, parent, organization } => {
            let id = id.clone().unwrap_or_else(|| ids(if parent.is_some() { IdKind::Unit } else { IdKind::Root }));
            new(snapshot.units.contains_key(&id), || format!("unit `{id}` is there already"))?;
            let organization = match (parent.as_ref().map(|parent| at.unit(parent)).transpose()?, organization) {
                (Some(above), _) => above.organization.clone(),
                (None, Some(given)) => given.clone(),
                (None, None) => ids(IdKind::Organization),
            };
            let (name, parent) = (name.clone(), parent.clone());
            IamChange::PutUnit(UnitSpec { id, name, organization, parent, service_control: Vec::new() })
        }
        IamEdit::DeleteUnit { id } => IamChange::DeleteUnit { id: id.clone() },
        IamEdit::CreateUser { name, path, tags, boundary } => {
            new(snapshot.user(account, name).is_some(), || format!("User with name {name} already exists."))?;
            IamChange::PutUser(UserSpec {
                account: account.clone(),
                name: name.clone(),
                path: path.clone(),
                tags: tags.clone(),
                groups: Vec::new(),
                attached: Vec::new(),
                inline: Default::default(),
                boundary: at.maybe_policy(boundary.as_deref())?,
            })
        }
        IamEdit::DeleteUser { name } => IamChange::DeleteUser { account: account.clone(), name: name.clone() },
        IamEdit::CreateGroup { name, path } => {
            let known = snapshot.groups.contains_key(&(account.clone(), name.clone()));
            new(known, || format!("Group with name {name} already exists."))?;
            IamChange::PutGroup(GroupSpec {
                account: account.clone(),
                name: name.clone(),
                path: path.clone(),
                attached: Vec::new(),
                inline: Default::default(),
            })
        }
        IamEdit::DeleteGroup { name } => IamChange::DeleteGroup { account: account.clone(), name: name.clone() },
        IamEdit::CreateRole { name, path, description, trust, max_session_seconds, tags, boundary } => {
            new(snapshot.role(account, name).is_some(), || format!("Role with name {name} already exists."))?;
            IamChange::PutRole(RoleSpec {
                account: account.clone(),
                name: name.clone(),
                path: path.clone(),
                description: description.clone(),
                trust: trust.clone(),
                max_session_seconds: *max_session_seconds,
                tags: tags.clone(),
                attached: Vec::new(),
                inline: Default::default(),
                boundary: at.maybe_policy(boundary.as_deref())?,
            })
        }
        IamEdit::UpdateRole { name, trust, description, max_session_seconds } => {
            let mut spec = at.role(name)?;
            let given = if trust.is_some() { Trust::Given } else { Trust::AsStored };
            replace(&mut spec.trust, trust);
            replace(&mut spec.description, description);
            replace(&mut spec.max_session_seconds, max_session_seconds);
            return Ok((IamChange::PutRole(spec), given));
        }
        IamEdit::DeleteRole { name } => IamChange::DeleteRole { account: account.clone(), name: name.clone() },
        IamEdit::CreatePolicy { name, path, description, document, service_control } => {
            let arn = if *service_control { service_control_arn(name) } else { policy_arn(account, path, name) };
            new(snapshot.policies.contains_key(&arn), || format!("A policy with name {name} already exists."))?;
            IamChange::PutPolicy(PolicySpec { arn, description: description.clone(), document: document.clone() })
        }
        IamEdit::UpdatePolicy { policy, document, description, service_control } => {
            let mut spec = at.policy_spec(&at.policy(policy, class(*service_control))?)?;
            replace(&mut spec.document, document);
            replace(&mut spec.description, description);
            IamChange::PutPolicy(spec)
        }
        IamEdit::DeletePolicy { policy, service_control } => {
            IamChange::DeletePolicy { arn: at.policy(policy, class(*service_control))? }
        }
        IamEdit::CreateOidcProvider { url, client_ids, algorithms, keys } => {
            let known = snapshot.oidc_providers.contains_key(&provider_arn(account, url));
            new(known, || format!("Provider with url {url} already exists."))?;
            IamChange::PutOidcProvider(OidcProviderSpec {
                account: account.clone(),
                url: url.clone(),
                client_ids: client_ids.clone(),
                algorithms: algorithms.clone(),
                keys: keys.clone(),
            })
        }
        IamEdit::UpdateOidcProvider { provider, client_ids, algorithms, keys } => {
            let arn = at.provider(provider);
            let record = snapshot.oidc_providers.get(&arn).ok_or_else(|| no_provider(&arn))?;
            IamChange::PutOidcProvider(OidcProviderSpec {
                account: record.account.clone(),
                url: record.url.clone(),
                client_ids: client_ids.as_ref().unwrap_or(&record.client_ids).clone(),
                algorithms: algorithms.as_ref().unwrap_or(&record.algorithms).clone(),
                keys: keys.as_ref().unwrap_or(&record.keys).clone(),
            })
        }
        IamEdit::DeleteOidcProvider { provider } => IamChange::DeleteOidcProvider { arn: at.provider(provider) },
        IamEdit::RegisterService { name, managed_key, may_act_for } => IamChange::PutService(ServiceSpec {
            name: name.clone(),
            account: account.clone(),
            managed_key: managed_key.clone(),
            may_act_for: may_act_for.clone(),
        }),
        IamEdit::DeregisterService { name } => IamChange::DeleteService { name: name.clone() },
        IamEdit::AddToGroup { user, group } => {
            let mut spec = at.user(user)?;
            if !spec.groups.contains(group) {
                spec.groups.push(group.clone());
            }
            IamChange::PutUser(spec)
        }
        IamEdit::RemoveFromGroup { user, group } => {
            let mut spec = at.user(user)?;
            take(&mut spec.groups, group, || format!("user {user} is not in group {group}"))?;
            IamChange::PutUser(spec)
        }
        IamEdit::AttachPolicy { to: IamTarget::Identity(of), policy } => {
            let arn = at.policy(policy, PolicyClass::Managed)?;
            return at.changed(of, |parts| {
                if !parts.attached.contains(&arn) {
                    parts.attached.push(arn);
                }
                Ok(())
            });
        }
        IamEdit::DetachPolicy { from: IamTarget::Identity(of), policy } => {
            let arn = at.policy(policy, PolicyClass::Managed)?;
            return at.changed(of, |parts| {
                take(parts.attached, &arn, || format!("Policy {arn} was not found: it is not attached"))
            });
        }
        IamEdit::AttachPolicy { to: IamTarget::Account(id), policy } => {
            let mut spec = at.account_spec(id)?;
            at.attach_service_control(&mut spec.service_control, policy)?;
            IamChange::PutAccount(spec)
        }
        IamEdit::DetachPolicy { from: IamTarget::Account(id), policy } => {
            let mut spec = at.account_spec(id)?;
            at.detach_service_control(&mut spec.service_control, policy)?;
            IamChange::PutAccount(spec)
        }
        IamEdit::AttachPolicy { to: IamTarget::Unit(id), policy } => {
            let mut spec = unit_spec(at.unit(id)?);
            at.attach_service_control(&mut spec.service_control, policy)?;
            IamChange::PutUnit(spec)
        }
        IamEdit::DetachPolicy { from: IamTarget::Unit(id), policy } => {
            let mut spec = unit_spec(at.unit(id)?);
            at.detach_service_control(&mut spec.service_control, policy)?;
            IamChange::PutUnit(spec)
        }
        IamEdit::Tag { of, tags } => {
            return at.changed(of, |parts| {
                let own = parts.tags.ok_or_else(|| OpError::Validation("groups have no tags".to_owned()))?;
                for (key, value) in tags {
                    // RULE IAM API, TagUser: keys are compared ignoring case.
                    match own.iter_mut().find(|(known, _)| known.to_lowercase() == key.to_lowercase()) {
                        Some(tag) => *tag = (key.clone(), value.clone()),
                        None => own.push((key.clone(), value.clone())),
                    }
                }
                Ok(())
            });
        }
        IamEdit::Untag { of, keys } => {
            return at.changed(of, |parts| {
                let own = parts.tags.ok_or_else(|| OpError::Validation("groups have no tags".to_owned()))?;
                own.retain(|(known, _)| !keys.iter().any(|key| key.to_lowercase() == known.to_lowercase()));
                Ok(())
            });
        }
        IamEdit::PutInlinePolicy { of, name, document } => {
            return at.changed(of, |parts| {
                parts.inline.insert(name.clone(), document.clone());
                Ok(())
            });
        }
        IamEdit::DeleteInlinePolicy { of, name } => {
            return at.changed(of, |parts| match parts.inline.remove(name) {
                Some(_) => Ok(()),
                None => Err(OpError::Validation(format!("The policy with name {name} cannot be found."))),
            });
        }
        IamEdit::PutBoundary { of, policy } => {
            let arn = at.policy(policy, PolicyClass::Managed)?;
            return at.changed(of, |parts| parts.set_boundary(Some(arn)));
        }
        IamEdit::DeleteBoundary { of } => return at.changed(of, |parts| parts.set_boundary(None)),
    };
    Ok((change, Trust::Given))
}

/// The members that users, groups and roles have in common; a group has no tags and no boundary.
struct Parts<'a> {
    tags: Option<&'a mut Vec<(String, String)>>,
    attached: &'a mut Vec<PolicyArn>,
    inline: &'a mut std::collections::BTreeMap<PolicyName, String>,
    boundary: Option<&'a mut Option<PolicyArn>>,
}

impl Parts<'_> {
    fn set_boundary(self, policy: Option<PolicyArn>) -> Result<(), OpError> {
        let own = self.boundary.ok_or_else(|| OpError::Validation("groups have no permissions boundary".to_owned()))?;
        *own = policy;
        Ok(())
    }
}

struct Place<'a> {
    snapshot: &'a Snapshot,
    account: &'a AccountId,
}

impl Place<'_> {
    fn changed(
        &self,
        of: &IamIdentity,
        edit: impl FnOnce(Parts<'_>) -> Result<(), OpError>,
    ) -> Result<(IamChange, Trust), OpError> {
        let change = match of {
            IamIdentity::User(name) => {
                let mut spec = self.user(name)?;
                edit(Parts {
                    tags: Some(&mut spec.tags),
                    attached: &mut spec.attached,
                    inline: &mut spec.inline,
                    boundary: Some(&mut spec.boundary),
                })?;
                IamChange::PutUser(spec)
            }
            IamIdentity::Group(name) => {
                let mut spec = self.group(name)?;
                edit(Parts { tags: None, attached: &mut spec.attached, inline: &mut spec.inline, boundary: None })?;
                IamChange::PutGroup(spec)
            }
            IamIdentity::Role(name) => {
                let mut spec = self.role(name)?;
                edit(Parts {
                    tags: Some(&mut spec.tags),
                    attached: &mut spec.attached,
                    inline: &mut spec.inline,
                    boundary: Some(&mut spec.boundary),
                })?;
                IamChange::PutRole(spec)
            }
        };
        Ok((change, Trust::AsStored))
    }

    fn user(&self, name: &UserName) -> Result<UserSpec, OpError> {
        let user = self.snapshot.user(self.account, name);
        let user = user.ok_or_else(|| not_found("user", name.as_str()))?;
        Ok(UserSpec {
            account: user.account.clone(),
            name: user.name.clone(),
            path: user.path.clone(),
            tags: user.tags.clone(),
            groups: user.groups.clone(),
            attached: user.policies.attached.clone(),
            inline: texts(&user.policies.inline),
            boundary: user.boundary.clone(),
        })
    }

    fn group(&self, name: &GroupName) -> Result<GroupSpec, OpError> {
        let group = self.snapshot.groups.get(&(self.account.clone(), name.clone()));
        let group = group.ok_or_else(|| not_found("group", name.as_str()))?;
        Ok(GroupSpec {
            account: group.account.clone(),
            name: group.name.clone(),
            path: group.path.clone(),
            attached: group.policies.attached.clone(),
            inline: texts(&group.policies.inline),
        })
    }

    fn role(&self, name: &RoleName) -> Result<RoleSpec, OpError> {
        let role = self.snapshot.role(self.account, name);
        let role = role.ok_or_else(|| not_found("role", name.as_str()))?;
        Ok(RoleSpec {
            account: role.account.clone(),
            name: role.name.clone(),
            path: role.path.clone(),
            description: role.description.clone(),
            trust: role.trust.text().to_string(),
            max_session_seconds: role.max_session_seconds,
            tags: role.tags.clone(),
            attached: role.policies.attached.clone(),
            inline: texts(&role.policies.inline),
            boundary: role.boundary.clone(),
        })
    }

    /// The deployment's own has no record until something about it is changed.
    fn account_spec(&self, id: &AccountId) -> Result<AccountSpec, OpError> {
        match self.snapshot.accounts.get(id).map(AsRef::as_ref) {
            Some(AccountRecord { id, name, unit, service_control, .. }) => Ok(AccountSpec {
                id: id.clone(),
                name: name.clone(),
                unit: unit.clone(),
                service_control: service_control.clone(),
            }),
            None if self.snapshot.has_account(id) => Ok(AccountSpec {
                id: id.clone(),
                name: super::OWN_ACCOUNT_NAME.to_owned(),
                unit: None,
                service_control: Vec::new(),
            }),
            None => Err(OpError::Validation(format!("there is no account {id}: make it with `iam account create`"))),
        }
    }

    fn unit(&self, id: &str) -> Result<&UnitRecord, OpError> {
        let unit = self.snapshot.units.get(id).map(AsRef::as_ref);
        unit.ok_or_else(|| OpError::Validation(format!("there is no unit `{id}`")))
    }

    fn policy_spec(&self, arn: &PolicyArn) -> Result<PolicySpec, OpError> {
        match self.snapshot.policies.get(arn).map(AsRef::as_ref) {
            Some(PolicyRecord { arn, description, document, .. }) => Ok(PolicySpec {
                arn: arn.clone(),
                description: description.clone(),
                document: document.text().to_string(),
            }),
            None if builtin::is_builtin(arn) => {
                Err(OpError::Validation(format!("{arn} is built in and does not change")))
            }
            None => Err(OpError::Validation(format!("Policy {arn} was not found."))),
        }
    }

    fn maybe_policy(&self, text: Option<&str>) -> Result<Option<PolicyArn>, OpError> {
        text.map(|text| self.policy(text, PolicyClass::Managed)).transpose()
    }

    /// By ARN, or by name: of the account's own before the built-in ones.
    fn policy(&self, text: &str, class: PolicyClass) -> Result<PolicyArn, OpError> {
        policy_named(self.snapshot, self.account, text, class)
    }

    fn attach_service_control(&self, attached: &mut Vec<PolicyArn>, policy: &str) -> Result<(), OpError> {
        let arn = self.policy(policy, PolicyClass::ServiceControl)?;
        if !attached.contains(&arn) {
            attached.push(arn);
        }
        Ok(())
    }

    fn detach_service_control(&self, attached: &mut Vec<PolicyArn>, policy: &str) -> Result<(), OpError> {
        let arn = self.policy(policy, PolicyClass::ServiceControl)?;
        take(attached, &arn, || format!("Policy {arn} is not attached."))?;
        // An empty list would mean the default: taking the last one away must not give more.
        if attached.is_empty() { Err(OpError::Validation(LAST_POLICY.to_owned())) } else { Ok(()) }
    }

    fn provider(&self, text: &str) -> String {
        if text.starts_with("arn:") { text.to_owned() } else { provider_arn(self.account, text) }
    }
}

/// By ARN, or by name: of the account's own before the built-in ones.
pub fn policy_named(
    snapshot: &Snapshot,
    account: &AccountId,
    text: &str,
    class: PolicyClass,
) -> Result<PolicyArn, OpError> {
    let wrong = |error: crate::ids::IdError| OpError::Validation(error.to_string());
    if text.starts_with("arn:") {
        let arn: PolicyArn = text.parse().map_err(wrong)?;
        return match kind_of(&arn) {
            Some(found) if found == class => Ok(arn),
            _ if class == PolicyClass::ServiceControl => {
                Err(OpError::Validation(format!("Policy {arn} does not exist or is no organisation policy.")))
            }
            _ => Err(OpError::Validation(format!("Policy {arn} does not exist or is not attachable."))),
        };
    }
    let name: PolicyName = text.parse().map_err(wrong)?;
    match class {
        PolicyClass::ServiceControl => Ok(service_control_arn(&name)),
        PolicyClass::Managed => {
            let (prefix, suffix) = (format!("arn:aws:iam::{account}:policy/"), format!("/{name}"));
            let own = snapshot
                .policies
                .keys()
                .find(|arn| arn.as_str().starts_with(&prefix) && arn.as_str().ends_with(&suffix));
            let built_in = || format!("arn:aws:iam::aws:policy/{name}").parse().ok().filter(builtin::managed);
            own.cloned()
                .or_else(built_in)
                .ok_or_else(|| OpError::Validation(format!("Policy {name} was not found in account {account}.")))
        }
    }
}

fn class(service_control: bool) -> PolicyClass {
    if service_control { PolicyClass::ServiceControl } else { PolicyClass::Managed }
}

fn unit_spec(unit: &UnitRecord) -> UnitSpec {
    UnitSpec {
        id: unit.id.clone(),
        name: unit.name.clone(),
        organization: unit.organization.clone(),
        parent: unit.parent.clone(),
        service_control: unit.service_control.clone(),
    }
}

fn texts(
    inline: &std::collections::BTreeMap<PolicyName, PolicyDocument>,
) -> std::collections::BTreeMap<PolicyName, String> {
    inline.iter().map(|(name, document)| (name.clone(), document.text().to_string())).collect()
}

/// Making something that is there would change it.
fn new(known: bool, text: impl FnOnce() -> String) -> Result<(), OpError> {
    if known { Err(OpError::Validation(text())) } else { Ok(()) }
}

fn replace<T: Clone>(slot: &mut T, given: &Option<T>) {
    if let Some(value) = given {
        *slot = value.clone();
    }
}

fn take<T: PartialEq>(list: &mut Vec<T>, item: &T, missing: impl FnOnce() -> String) -> Result<(), OpError> {
    let before = list.len();
    list.retain(|other| other != item);
    if list.len() == before { Err(OpError::Validation(missing())) } else { Ok(()) }
}

fn not_found(kind: &str, name: &str) -> OpError {
    OpError::Validation(format!("The {kind} with name {name} cannot be found."))
}

fn no_provider(arn: &str) -> OpError {
    OpError::Validation(format!("OpenIDConnect Provider not found for arn {arn}"))
}
