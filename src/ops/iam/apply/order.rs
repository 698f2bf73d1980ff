//! From a folder to the writes of one transaction, in an order in which every reference holds where it is checked.

use std::collections::{BTreeMap, BTreeSet};

use super::settled::{same_json, settled};
use super::{IamDesired, IamEntity, IamManaged};
use crate::ids::{AccountId, Arn, GroupName, PolicyArn, RoleName, ServiceName, UserName};
use crate::ops::OpError;
use crate::ops::iam::writes::{IdKind, Names, PolicyClass, Trust, kind_of, provider_arn, writes_named, writes_with};
use crate::ops::iam::{IamChange, IamKind, RoleSpec};
use crate::store::{Snapshot, Write};

/// Nothing at all where everything is so already.
pub fn writes_of(
    snapshot: &Snapshot,
    desired: &IamDesired,
    prune: bool,
    now: i64,
    ids: &mut impl FnMut(IdKind) -> String,
) -> Result<Vec<Write>, OpError> {
    if let Some(entity) = desired.entities.iter().find(|entity| rank(&entity.put).is_none()) {
        return Err(OpError::Validation(format!(
            "{}: a folder says what there shall be, not what shall go",
            entity.file
        )));
    }
    let mut work = Work { before: snapshot, after: snapshot.clone(), names: BTreeSet::new(), writes: Vec::new(), now };
    let gone = if prune { Surplus::of(snapshot, desired) } else { Surplus::default() };
    // Nothing has to be empty or detached for these to go, and nobody new may still trust them.
    work.delete(gone.roles.into_iter().map(|(account, name)| IamChange::DeleteRole { account, name }), ids)?;
    work.delete(gone.users.into_iter().map(|(account, name)| IamChange::DeleteUser { account, name }), ids)?;
    work.delete(gone.services.into_iter().map(|name| IamChange::DeleteService { name }), ids)?;
    work.delete(gone.providers.into_iter().map(|arn| IamChange::DeleteOidcProvider { arn }), ids)?;

    work.names = names_in(&work.after);
    let mut entities: Vec<&IamEntity> = desired.entities.iter().collect();
    entities.sort_by_key(|entity| rank(&entity.put));
    let (roles, others): (Vec<_>, Vec<_>) =
        entities.into_iter().partition(|entity| matches!(entity.put, IamChange::PutRole(_)));
    for entity in others {
        work.put(entity, ids)?;
    }
    work.put_roles(&roles, ids)?;

    // Members before their groups, those that have a policy before the policy, units before those that they stand in.
    work.delete(gone.groups.into_iter().map(|(account, name)| IamChange::DeleteGroup { account, name }), ids)?;
    work.delete(gone.policies.into_iter().map(|arn| IamChange::DeletePolicy { arn }), ids)?;
    work.delete(gone.units.into_iter().map(|id| IamChange::DeleteUnit { id }), ids)?;
    work.delete(gone.service_control.into_iter().map(|arn| IamChange::DeletePolicy { arn }), ids)?;
    Ok(work.writes)
}

/// What refers to others comes after them. `None`: a deletion.
fn rank(put: &IamChange) -> Option<u8> {
    match put {
        IamChange::PutPolicy(spec) if kind_of(&spec.arn) == Some(PolicyClass::ServiceControl) => Some(0),
        // Those above before those below: the folder has them in that order.
        IamChange::PutUnit(_) => Some(1),
        IamChange::PutAccount(_) => Some(2),
        IamChange::PutPolicy(_) => Some(3),
        IamChange::PutOidcProvider(_) => Some(4),
        IamChange::PutService(_) => Some(5),
        IamChange::PutGroup(_) => Some(6),
        IamChange::PutUser(_) => Some(7),
        IamChange::PutRole(_) => Some(8),
        IamChange::DeleteAccount { .. }
        | IamChange::DeleteUnit { .. }
        | IamChange::DeleteUser { .. }
        | IamChange::DeleteGroup { .. }
        | IamChange::DeleteRole { .. }
        | IamChange::DeletePolicy { .. }
        | IamChange::DeleteOidcProvider { .. }
        | IamChange::DeleteService { .. } => None,
    }
}

struct Work<'a> {
    before: &'a Snapshot,
    after: Snapshot,
    /// Of users, groups, roles and policies: so that a new one is not compared with each that is there.
    names: BTreeSet<Name>,
    writes: Vec<Write>,
    now: i64,
}

/// Kind, account, and the name without its case.
type Name = (&'static str, String, String);

impl Work<'_> {
    fn put(&mut self, entity: &IamEntity, ids: &mut impl FnMut(IdKind) -> String) -> Result<(), OpError> {
        let names = self.names_for(&entity.put);
        let writes = writes_named(&self.after, &entity.put, Trust::Given, names, self.now, ids);
        let writes = writes.map_err(|error| in_file(entity, error))?;
        self.take(writes);
        Ok(())
    }

    /// The name is taken from here on. One that was there already is compared, and the refusal says with which.
    fn names_for(&mut self, put: &IamChange) -> Names {
        match name_without_case(put).is_none_or(|name| self.names.insert(name)) {
            true => Names::Free,
            false => Names::Compared,
        }
    }

    /// Roles may trust each other, and themselves. So all that are new, or that get another ARN, are there before any trust
    /// policy is looked at.
    fn put_roles(&mut self, roles: &[&IamEntity], ids: &mut impl FnMut(IdKind) -> String) -> Result<(), OpError> {
        let mut first: BTreeMap<(AccountId, RoleName), Write> = BTreeMap::new();
        for (entity, spec) in specs(roles) {
            let known = self.after.role(&spec.account, &spec.name);
            if known.is_some_and(|known| known.path == spec.path) {
                continue;
            }
            let (trust, text) = match known {
                Some(known) => (Trust::AsStored, known.trust.text().to_string()),
                None => (Trust::Given, trusts_account(&spec.account)),
            };
            let stub = IamChange::PutRole(RoleSpec { trust: text, ..spec.clone() });
            let names = self.names_for(&stub);
            let writes = writes_named(&self.after, &stub, trust, names, self.now, ids);
            for write in writes.map_err(|error| in_file(entity, error))? {
                self.after.apply(write.clone());
                first.insert((spec.account.clone(), spec.name.clone()), write);
            }
        }
        for (entity, spec) in specs(roles) {
            let mut writes = writes_with(&self.after, &entity.put, Trust::Given, self.now, ids);
            // A trust policy that nobody touched may name somebody who is gone.
            if let (Err(OpError::MalformedPolicy(_)), Some(known)) =
                (&writes, self.before.role(&spec.account, &spec.name))
                && same_json(known.trust.text(), &spec.trust)
            {
                let stored = IamChange::PutRole(RoleSpec { trust: known.trust.text().to_string(), ..spec.clone() });
                writes = writes_with(&self.after, &stored, Trust::AsStored, self.now, ids);
            }
            let mut writes = writes.map_err(|error| in_file(entity, error))?;
            let stub = first.remove(&(spec.account.clone(), spec.name.clone()));
            if writes.is_empty() {
                writes.extend(stub);
            }
            self.take(writes);
        }
        Ok(())
    }

    fn delete(
        &mut self,
        changes: impl Iterator<Item = IamChange>,
        ids: &mut impl FnMut(IdKind) -> String,
    ) -> Result<(), OpError> {
        for change in changes {
            let writes = writes_with(&self.after, &change, Trust::Given, self.now, ids)?;
            self.take(writes);
        }
        Ok(())
    }

    fn take(&mut self, writes: Vec<Write>) {
        for write in writes.into_iter().filter_map(|write| settled(self.before, write)) {
            self.after.apply(write.clone());
            self.writes.push(write);
        }
    }
}

fn name_without_case(put: &IamChange) -> Option<Name> {
    let lower = |kind, account: &str, name: &str| Some((kind, account.to_owned(), name.to_ascii_lowercase()));
    match put {
        IamChange::PutUser(spec) => lower("user", spec.account.as_str(), spec.name.as_str()),
        IamChange::PutGroup(spec) => lower("group", spec.account.as_str(), spec.name.as_str()),
        IamChange::PutRole(spec) => lower("role", spec.account.as_str(), spec.name.as_str()),
        IamChange::PutPolicy(spec) => Some(policy_name(&spec.arn)),
        _ => None,
    }
}

fn policy_name(arn: &PolicyArn) -> Name {
    let name = arn.as_str().rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let of = arn.as_str().split(":policy/").next().unwrap_or_default();
    ("policy", of.to_owned(), name)
}

fn names_in(snapshot: &Snapshot) -> BTreeSet<Name> {
    let lower = |kind, account: &AccountId, name: &str| (kind, account.to_string(), name.to_ascii_lowercase());
    let users = snapshot.users.keys().map(|(account, name)| lower("user", account, name.as_str()));
    let groups = snapshot.groups.keys().map(|(account, name)| lower("group", account, name.as_str()));
    let roles = snapshot.roles.keys().map(|(account, name)| lower("role", account, name.as_str()));
    users.chain(groups).chain(roles).chain(snapshot.policies.keys().map(policy_name)).collect()
}

fn specs<'a>(roles: &'a [&'a IamEntity]) -> impl Iterator<Item = (&'a IamEntity, &'a RoleSpec)> {
    roles.iter().filter_map(|entity| match &entity.put {
        IamChange::PutRole(spec) => Some((*entity, spec)),
        _ => None,
    })
}

/// Never stored: it stands for a trust policy that is not looked at yet.
pub(super) fn trusts_account(account: &AccountId) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::{account}:root"}},"Action":"sts:AssumeRole"}}]}}"#
    )
}

fn in_file(entity: &IamEntity, error: OpError) -> OpError {
    let name = name_of(&entity.put);
    let told = |text: String| match text.contains(&name) {
        true => format!("{}: {text}", entity.file),
        false => format!("{}: {name}: {text}", entity.file),
    };
    match error {
        OpError::Validation(text) => OpError::Validation(told(text)),
        OpError::LimitExceeded(text) => OpError::LimitExceeded(told(text)),
        OpError::MalformedPolicy(text) => OpError::MalformedPolicy(told(text)),
        other => other,
    }
}

fn name_of(put: &IamChange) -> String {
    match put {
        IamChange::PutAccount(spec) => format!("account {}", spec.id),
        IamChange::PutUnit(spec) => format!("unit {}", spec.id),
        IamChange::PutUser(spec) => format!("user {}", spec.name),
        IamChange::PutGroup(spec) => format!("group {}", spec.name),
        IamChange::PutRole(spec) => format!("role {}", spec.name),
        IamChange::PutPolicy(spec) => format!("policy {}", spec.arn),
        IamChange::PutOidcProvider(spec) => format!("OIDC provider {}", spec.url),
        IamChange::PutService(spec) => format!("service {}", spec.name),
        other => format!("{other:?}"),
    }
}

/// What is of a managed kind and not in the folder. Accounts never are: one that has keys cannot go, and one without any
/// harms nobody.
#[derive(Default)]
struct Surplus {
    users: Vec<(AccountId, UserName)>,
    groups: Vec<(AccountId, GroupName)>,
    roles: Vec<(AccountId, RoleName)>,
    policies: Vec<PolicyArn>,
    service_control: Vec<PolicyArn>,
    providers: Vec<String>,
    services: Vec<ServiceName>,
    units: Vec<String>,
}

impl Surplus {
    fn of(snapshot: &Snapshot, desired: &IamDesired) -> Surplus {
        let managed = |kind: IamKind, account: Option<&AccountId>| {
            desired.managed.contains(&IamManaged { kind, account: account.cloned() })
        };
        let mut kept = BTreeSet::new();
        let mut organizations = BTreeSet::new();
        for entity in &desired.entities {
            kept.insert(match &entity.put {
                IamChange::PutUser(spec) => ("user", spec.account.to_string(), spec.name.to_string()),
                IamChange::PutGroup(spec) => ("group", spec.account.to_string(), spec.name.to_string()),
                IamChange::PutRole(spec) => ("role", spec.account.to_string(), spec.name.to_string()),
                IamChange::PutPolicy(spec) => ("policy", String::new(), spec.arn.to_string()),
                IamChange::PutOidcProvider(spec) => ("provider", String::new(), provider_arn(&spec.account, &spec.url)),
                IamChange::PutService(spec) => ("service", String::new(), spec.name.to_string()),
                IamChange::PutUnit(spec) => {
                    organizations.insert(spec.organization.as_str());
                    ("unit", String::new(), spec.id.clone())
                }
                _ => continue,
            });
        }
        let goes = |kind: &'static str, account: &str, name: &str| {
            !kept.contains(&(kind, account.to_owned(), name.to_owned()))
        };
        let mut surplus = Surplus::default();
        for (account, name) in snapshot.users.keys() {
            if managed(IamKind::User, Some(account)) && goes("user", account.as_str(), name.as_str()) {
                surplus.users.push((account.clone(), name.clone()));
            }
        }
        for (account, name) in snapshot.groups.keys() {
            if managed(IamKind::Group, Some(account)) && goes("group", account.as_str(), name.as_str()) {
                surplus.groups.push((account.clone(), name.clone()));
            }
        }
        for (account, name) in snapshot.roles.keys() {
            if managed(IamKind::Role, Some(account)) && goes("role", account.as_str(), name.as_str()) {
                surplus.roles.push((account.clone(), name.clone()));
            }
        }
        for arn in snapshot.policies.keys() {
            let account = Arn::parse(arn.as_str()).ok().and_then(|arn| arn.account.parse::<AccountId>().ok());
            match kind_of(arn) {
                Some(PolicyClass::ServiceControl)
                    if managed(IamKind::Policy, None) && goes("policy", "", arn.as_str()) =>
                {
                    surplus.service_control.push(arn.clone());
                }
                Some(PolicyClass::Managed)
                    if account.is_some()
                        && managed(IamKind::Policy, account.as_ref())
                        && goes("policy", "", arn.as_str()) =>
                {
                    surplus.policies.push(arn.clone());
                }
                _ => {}
            }
        }
        for provider in snapshot.oidc_providers.values() {
            if managed(IamKind::OidcProvider, Some(&provider.account)) && goes("provider", "", &provider.arn) {
                surplus.providers.push(provider.arn.clone());
            }
        }
        for service in snapshot.services.values() {
            if managed(IamKind::Service, Some(&service.account)) && goes("service", "", service.name.as_str()) {
                surplus.services.push(service.name.clone());
            }
        }
        // Other organisations' units are none of this folder's.
        let mut units: Vec<(usize, String)> = Vec::new();
        for unit in snapshot.units.values() {
            let managed = managed(IamKind::Unit, None) && organizations.contains(unit.organization.as_str());
            if managed && goes("unit", "", &unit.id) {
                units.push((level(snapshot, &unit.id), unit.id.clone()));
            }
        }
        units.sort_by(|a, b| b.cmp(a));
        surplus.units.extend(units.into_iter().map(|(_, id)| id));
        surplus
    }
}

fn level(snapshot: &Snapshot, id: &str) -> usize {
    let parents = std::iter::successors(snapshot.units.get(id), |unit| snapshot.units.get(unit.parent.as_ref()?));
    parents.take(snapshot.units.size()).count()
}
