//! Back to records, for the evaluator: what would have been decided at that moment. Secrets are not there and nothing is
//! signed with the result.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Grant, Key, State};
use crate::store::{
    AccountRecord, AliasRecord, DeploymentRecord, GrantConstraints, GrantRecord, GroupRecord, KeyRecord, Lifecycle,
    Policies, PolicyDocument, PolicyRecord, Provenance, RoleRecord, ServiceRecord, Snapshot, UnitRecord, UserRecord,
    Write,
};

/// How conditions are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conditions {
    /// As they stand.
    Kept,
    /// As if the caller could meet every condition: Allow statements and grants without them, Deny statements that have one
    /// left out. What is refused then is refused whatever the request says.
    Met,
}

impl State {
    pub(crate) fn records(&self, conditions: Conditions) -> Snapshot {
        let document = |document: &PolicyDocument| match conditions {
            Conditions::Kept => document.clone(),
            Conditions::Met => met(document),
        };
        let inline = |inline: &BTreeMap<crate::ids::PolicyName, PolicyDocument>| {
            inline.iter().map(|(name, text)| (name.clone(), document(text))).collect()
        };
        let mut snapshot = Snapshot::default();
        let mut put = |write| snapshot.apply(write);
        put(Write::PutDeployment(DeploymentRecord {
            id: String::new(),
            account: self.account.clone(),
            region: self.region.clone(),
            created: 0,
            made_by: "init".to_owned(),
        }));
        for key in self.keys.values() {
            put(Write::PutKey(KeyRecord { policy: document(&key.policy), ..key.record() }));
        }
        for alias in self.aliases.values() {
            put(Write::PutAlias(AliasRecord {
                name: alias.name.clone(),
                account: alias.account.clone(),
                target: alias.target,
                created: alias.created,
                updated: alias.updated,
                history: Vec::new(),
            }));
        }
        for grant in self.grants.values() {
            let constraints = match conditions {
                Conditions::Kept => grant.constraints.clone(),
                Conditions::Met => GrantConstraints::default(),
            };
            put(Write::PutGrant(GrantRecord { constraints, ..grant.record() }));
        }
        for account in self.accounts.values() {
            put(Write::PutAccount(AccountRecord {
                id: account.id.clone(),
                name: account.name.clone(),
                created: account.created,
                root_enabled: account.root_enabled,
                unit: account.unit.clone(),
                service_control: account.service_control.clone(),
            }));
        }
        for unit in self.units.values() {
            put(Write::PutUnit(UnitRecord {
                id: unit.id.clone(),
                name: unit.name.clone(),
                organization: unit.organization.clone(),
                parent: unit.parent.clone(),
                service_control: unit.service_control.clone(),
            }));
        }
        for user in self.users.values() {
            put(Write::PutUser(UserRecord {
                name: user.name.clone(),
                account: user.account.clone(),
                user_id: user.user_id.clone(),
                created: user.created,
                path: user.path.clone(),
                tags: user.tags.clone(),
                groups: user.groups.clone(),
                policies: Policies { attached: user.attached.clone(), inline: inline(&user.inline) },
                boundary: user.boundary.clone(),
            }));
        }
        for group in self.groups.values() {
            put(Write::PutGroup(GroupRecord {
                name: group.name.clone(),
                account: group.account.clone(),
                group_id: group.group_id.clone(),
                created: group.created,
                path: group.path.clone(),
                policies: Policies { attached: group.attached.clone(), inline: inline(&group.inline) },
            }));
        }
        for role in self.roles.values() {
            put(Write::PutRole(RoleRecord {
                name: role.name.clone(),
                account: role.account.clone(),
                role_id: role.role_id.clone(),
                created: role.created,
                path: role.path.clone(),
                description: role.description.clone(),
                trust: document(&role.trust),
                max_session_seconds: role.max_session_seconds,
                tags: role.tags.clone(),
                policies: Policies { attached: role.attached.clone(), inline: inline(&role.inline) },
                boundary: role.boundary.clone(),
                sessions_revoked_before: None,
            }));
        }
        for policy in self.policies.values() {
            put(Write::PutPolicy(PolicyRecord {
                arn: policy.arn.clone(),
                policy_id: policy.policy_id.clone(),
                created: policy.created,
                updated: policy.updated,
                description: policy.description.clone(),
                document: document(&policy.document),
            }));
        }
        for service in self.services.values() {
            put(Write::PutService(ServiceRecord {
                name: service.name.clone(),
                account: service.account.clone(),
                service_id: service.service_id.clone(),
                created: service.created,
                managed_key: service.managed_key.clone(),
                may_act_for: service.may_act_for.clone(),
            }));
        }
        snapshot.version = self.store_version;
        snapshot
    }
}

impl Key {
    /// Without materials and dates: enough for a decision.
    fn record(&self) -> KeyRecord {
        KeyRecord {
            id: self.id,
            account: self.account.clone(),
            created: self.created,
            description: self.description.clone(),
            spec: self.spec,
            usage: self.usage,
            lifecycle: Lifecycle::Enabled,
            policy: self.policy.clone(),
            policy_version: self.policy_version,
            tags: self.tags.clone(),
            materials: Vec::new(),
            key_store: self.key_store.clone(),
            provenance: Provenance::Generated,
            managed_by: self.managed_by.clone(),
        }
    }
}

impl Grant {
    fn record(&self) -> GrantRecord {
        GrantRecord {
            id: self.id.clone(),
            key: self.key,
            issuing_account: self.issuing_account.clone(),
            grantee: self.grantee.clone(),
            retiring: self.retiring.clone(),
            operations: self.operations.clone(),
            constraints: self.constraints.clone(),
            name: self.name.clone(),
            created: self.created,
        }
    }
}

/// A document as if every condition were met by who wants to get through. One that cannot be read stays: it denies.
fn met(document: &PolicyDocument) -> PolicyDocument {
    let Ok(mut policy) = serde_json::from_str::<Value>(document.text()) else { return document.clone() };
    let Some(statement) = policy.get_mut("Statement") else { return document.clone() };
    let statements = match statement.take() {
        Value::Array(statements) => statements,
        one => vec![one],
    };
    let kept = statements.into_iter().filter_map(|mut statement| {
        let members = statement.as_object_mut()?;
        let conditional = members.remove("Condition").is_some_and(|c| c.as_object().is_none_or(|c| !c.is_empty()));
        let denies = members.get("Effect").and_then(Value::as_str) == Some("Deny");
        (!(denies && conditional)).then_some(statement)
    });
    let mut kept: Vec<Value> = kept.collect();
    if kept.is_empty() {
        // A policy has a statement: one about nothing.
        let mut nothing = json!({ "Effect": "Allow", "Action": "kms:Nothing", "Resource": "*" });
        let of_resource = document.text().contains("\"Principal\"") || document.text().contains("\"NotPrincipal\"");
        if let Some(members) = nothing.as_object_mut().filter(|_| of_resource) {
            members.insert("Principal".to_owned(), json!("*"));
        }
        kept.push(nothing);
    }
    *statement = Value::Array(kept);
    PolicyDocument::new(policy.to_string(), document.principals().clone())
}
