//! Identities as JSON in AWS's words: what `iam … show` answers, what a difference is told in, and what the audit log keeps.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value, json};

use super::writes::users_of;
use crate::authz::builtin_policies;
use crate::ids::{AccessKeyId, PolicyArn, PolicyDocument};
use crate::ops::operator::date;
use crate::store::{
    AccessKeyRecord, AccountRecord, GroupRecord, KeySource, OidcProviderRecord, Owner, Policies, PolicyRecord,
    RoleRecord, ServiceRecord, Snapshot, UnitRecord, UserRecord, Write,
};

/// What stands for a policy document or a key set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Documents {
    Whole,
    /// Hash and length: for the audit log, where a document of any size would make a record of any size.
    Digest,
}

impl Documents {
    fn text(self, text: &str) -> Value {
        match self {
            // A document that cannot be parsed is shown as it is.
            Documents::Whole => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
            Documents::Digest => {
                json!({ "sha256": hex::encode(digest(&SHA256, text.as_bytes())), "bytes": text.len() })
            }
        }
    }
}

pub fn user(user: &UserRecord, documents: Documents) -> Value {
    let mut shown = json!({
        "UserName": user.name,
        "UserId": user.user_id,
        "Arn": format!("arn:aws:iam::{}:user{}{}", user.account, user.path, user.name),
        "Path": user.path,
        "CreateDate": date(user.created),
        "Tags": tags(&user.tags),
        "Groups": user.groups,
    });
    policies(&mut shown, &user.policies, documents);
    boundary(&mut shown, user.boundary.as_ref().map(PolicyArn::as_str));
    shown
}

pub fn group(group: &GroupRecord, documents: Documents) -> Value {
    let mut shown = json!({
        "GroupName": group.name,
        "GroupId": group.group_id,
        "Arn": format!("arn:aws:iam::{}:group{}{}", group.account, group.path, group.name),
        "Path": group.path,
        "CreateDate": date(group.created),
    });
    policies(&mut shown, &group.policies, documents);
    shown
}

pub fn role(role: &RoleRecord, documents: Documents) -> Value {
    let mut shown = json!({
        "RoleName": role.name,
        "RoleId": role.role_id,
        "Arn": format!("arn:aws:iam::{}:role{}{}", role.account, role.path, role.name),
        "Path": role.path,
        "CreateDate": date(role.created),
        "Description": role.description,
        "MaxSessionDuration": role.max_session_seconds,
        "AssumeRolePolicyDocument": documents.text(role.trust.text()),
        "PrincipalIds": role.trust.principals(),
        "Tags": tags(&role.tags),
    });
    if let Some(before) = role.sessions_revoked_before {
        set(&mut shown, "SessionsRevokedBefore", date(before).into());
    }
    policies(&mut shown, &role.policies, documents);
    boundary(&mut shown, role.boundary.as_ref().map(PolicyArn::as_str));
    shown
}

pub fn policy(policy: &PolicyRecord, documents: Documents) -> Value {
    json!({
        "PolicyName": policy.arn.as_str().rsplit('/').next(),
        "PolicyId": policy.policy_id,
        "Arn": policy.arn,
        "CreateDate": date(policy.created),
        "UpdateDate": date(policy.updated),
        "Description": policy.description,
        "PolicyDocument": documents.text(policy.document.text()),
    })
}

pub fn account(account: &AccountRecord) -> Value {
    json!({
        "Id": account.id,
        "Name": account.name,
        "CreateDate": date(account.created),
        "RootEnabled": account.root_enabled,
        "Unit": account.unit,
        "ServiceControlPolicies": account.service_control,
    })
}

pub fn unit(unit: &UnitRecord) -> Value {
    json!({
        "Id": unit.id,
        "Name": unit.name,
        "Organization": unit.organization,
        "Parent": unit.parent,
        "ServiceControlPolicies": unit.service_control,
    })
}

pub fn provider(provider: &OidcProviderRecord, documents: Documents) -> Value {
    let mut shown = json!({
        "Arn": provider.arn,
        "Url": provider.url,
        "ClientIDList": provider.client_ids,
        "Algorithms": provider.algorithms,
        "CreateDate": date(provider.created),
    });
    match &provider.keys {
        KeySource::Static { jwks } => set(&mut shown, "Jwks", documents.text(jwks)),
        KeySource::Fetched { url, ca } => {
            set(&mut shown, "JwksUrl", url.as_str().into());
            if let Some(ca) = ca {
                set(&mut shown, "JwksCa", documents.text(ca));
            }
        }
    }
    shown
}

pub fn service(service: &ServiceRecord) -> Value {
    json!({
        "ServiceName": service.name,
        "ServiceId": service.service_id,
        "Account": service.account,
        "CreateDate": date(service.created),
        "ManagedKey": service.managed_key,
        "MayActFor": service.may_act_for,
    })
}

pub fn access_key(key: &AccessKeyRecord) -> Value {
    let mut shown = json!({
        "AccessKeyId": key.id,
        "Account": key.account,
        "Owner": owner(&key.owner),
        "Status": if key.active { "Active" } else { "Inactive" },
        "CreateDate": date(key.created),
    });
    if let Some(used) = &key.last_used {
        let used = json!({ "LastUsedDate": date(used.at), "ServiceName": used.service, "Region": used.region });
        set(&mut shown, "AccessKeyLastUsed", used);
    }
    shown
}

/// `root`, `user/alice`, or the service's name.
pub fn owner(owner: &Owner) -> String {
    match owner {
        Owner::Root => "root".to_owned(),
        Owner::User(name) => format!("user/{name}"),
        Owner::Service(name) => name.to_string(),
    }
}

/// A policy with those that have it.
pub fn policy_in_use(snapshot: &Snapshot, record: &PolicyRecord) -> Value {
    let mut shown = policy(record, Documents::Whole);
    set(&mut shown, "AttachedTo", users_of(snapshot, &record.arn).into());
    shown
}

pub fn built_in() -> impl Iterator<Item = Value> {
    builtin_policies().iter().map(|policy| {
        json!({
            "PolicyName": policy.name,
            "Arn": policy.arn,
            "Description": policy.description,
            "PolicyDocument": Documents::Whole.text(policy.text),
            "BuiltIn": true,
        })
    })
}

/// What writes would do, one entry each; what does not show (usage, markers) has none.
pub fn differences(snapshot: &Snapshot, writes: &[Write], documents: Documents) -> Vec<Value> {
    let mut now = snapshot.clone();
    let mut entries = Vec::new();
    for write in writes {
        if let Some((kind, name, before, after)) = sides(&now, write, documents) {
            entries.push(difference(kind, &name, before, after));
        }
        now.apply(write.clone());
    }
    entries
}

type Sides = (&'static str, String, Option<Value>, Option<Value>);

fn sides(snapshot: &Snapshot, write: &Write, documents: Documents) -> Option<Sides> {
    Some(match write {
        Write::PutUser(record) => {
            let before = snapshot.user(&record.account, &record.name).map(|known| user(known, documents));
            ("user", record.name.to_string(), before, Some(user(record, documents)))
        }
        Write::DeleteUser(account, name) => {
            ("user", name.to_string(), snapshot.user(account, name).map(|known| user(known, documents)), None)
        }
        Write::PutGroup(record) => {
            let known = snapshot.groups.get(&(record.account.clone(), record.name.clone()));
            let before = known.map(|known| group(known, documents));
            ("group", record.name.to_string(), before, Some(group(record, documents)))
        }
        Write::DeleteGroup(account, name) => {
            let known = snapshot.groups.get(&(account.clone(), name.clone()));
            ("group", name.to_string(), known.map(|known| group(known, documents)), None)
        }
        Write::PutRole(record) => {
            let before = snapshot.role(&record.account, &record.name).map(|known| role(known, documents));
            ("role", record.name.to_string(), before, Some(role(record, documents)))
        }
        Write::DeleteRole(account, name) => {
            ("role", name.to_string(), snapshot.role(account, name).map(|known| role(known, documents)), None)
        }
        Write::PutPolicy(record) => {
            let before = snapshot.policies.get(&record.arn).map(|known| policy(known, documents));
            ("policy", record.arn.to_string(), before, Some(policy(record, documents)))
        }
        Write::DeletePolicy(arn) => {
            ("policy", arn.to_string(), snapshot.policies.get(arn).map(|known| policy(known, documents)), None)
        }
        Write::PutAccount(record) => {
            let before = snapshot.accounts.get(&record.id).map(|known| account(known));
            ("account", record.id.to_string(), before, Some(account(record)))
        }
        Write::DeleteAccount(id) => {
            ("account", id.to_string(), snapshot.accounts.get(id).map(|known| account(known)), None)
        }
        Write::PutUnit(record) => {
            ("unit", record.id.clone(), snapshot.units.get(&record.id).map(|known| unit(known)), Some(unit(record)))
        }
        Write::DeleteUnit(id) => ("unit", id.clone(), snapshot.units.get(id).map(|known| unit(known)), None),
        Write::PutOidcProvider(record) => {
            let before = snapshot.oidc_providers.get(&record.arn).map(|known| provider(known, documents));
            ("oidc-provider", record.arn.clone(), before, Some(provider(record, documents)))
        }
        Write::DeleteOidcProvider(arn) => {
            let before = snapshot.oidc_providers.get(arn).map(|known| provider(known, documents));
            ("oidc-provider", arn.clone(), before, None)
        }
        Write::PutService(record) => {
            let before = snapshot.services.get(&record.name).map(|known| service(known));
            ("service", record.name.to_string(), before, Some(service(record)))
        }
        Write::DeleteService(name) => {
            ("service", name.to_string(), snapshot.services.get(name).map(|known| service(known)), None)
        }
        Write::PutAccessKey(record) => {
            let before = snapshot.access_keys.get(&record.id).map(|known| access_key(known));
            ("access-key", record.id.to_string(), before, Some(access_key(record)))
        }
        Write::DeleteAccessKey(id) => {
            ("access-key", id.to_string(), snapshot.access_keys.get(id).map(|known| access_key(known)), None)
        }
        _ => return None,
    })
}

fn difference(kind: &str, name: &str, before: Option<Value>, after: Option<Value>) -> Value {
    let arn = after.as_ref().or(before.as_ref()).and_then(|entity| entity.get("Arn")).cloned();
    let mut entry = json!({ "Kind": kind, "Name": name });
    if let Some(arn) = arn {
        set(&mut entry, "Arn", arn);
    }
    let (action, members) = match (before, after) {
        (None, after) => ("create", after),
        (Some(before), None) => ("delete", Some(before)),
        (Some(before), Some(after)) => ("update", Some(changed_members(&before, &after))),
    };
    set(&mut entry, "Action", action.into());
    if let Some(members) = members {
        set(&mut entry, if action == "update" { "Changed" } else { "Entity" }, members);
    }
    entry
}

fn changed_members(before: &Value, after: &Value) -> Value {
    let none = Map::new();
    let (before, after) = (before.as_object().unwrap_or(&none), after.as_object().unwrap_or(&none));
    let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
    let mut changed = Map::new();
    for name in names {
        if before.get(name) != after.get(name) {
            changed.insert(name.clone(), json!({ "From": before.get(name), "To": after.get(name) }));
        }
    }
    Value::Object(changed)
}

fn policies(shown: &mut Value, policies: &Policies, documents: Documents) {
    let inline = |document: &PolicyDocument| documents.text(document.text());
    let inline: Map<String, Value> =
        policies.inline.iter().map(|(name, document)| (name.to_string(), inline(document))).collect();
    set(shown, "AttachedPolicies", json!(policies.attached));
    set(shown, "InlinePolicies", Value::Object(inline));
}

fn boundary(shown: &mut Value, boundary: Option<&str>) {
    if let Some(arn) = boundary {
        set(shown, "PermissionsBoundary", arn.into());
    }
}

fn tags(tags: &[(String, String)]) -> Vec<Value> {
    tags.iter().map(|(key, value)| json!({ "Key": key, "Value": value })).collect()
}

pub fn set(object: &mut Value, member: &str, value: Value) {
    if let Value::Object(members) = object {
        members.insert(member.to_owned(), value);
    }
}

/// The keys of an owner, oldest id first.
pub fn access_keys_of(snapshot: &Snapshot, account: &crate::ids::AccountId, owner: Owner) -> Vec<Value> {
    let ids = snapshot.access_keys_of.get(&(account.clone(), owner));
    let records = ids.into_iter().flatten().filter_map(|id: &AccessKeyId| snapshot.access_keys.get(id));
    records.map(|record| access_key(record)).collect()
}

/// A request as the audit log keeps it: hash and length of each document, the first of many changes.
pub fn recorded(mut request: Value, most: usize) -> Value {
    if let Some(Value::Array(changes)) = request.get_mut("changes") {
        let count = changes.len();
        changes.truncate(most);
        set(&mut request, "count", count.into());
    }
    digested(&mut request);
    request
}

fn digested(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, value) in members.iter_mut() {
                match (name.as_str(), &*value) {
                    ("document" | "trust" | "jwks" | "ca", Value::String(text)) => {
                        *value = Documents::Digest.text(text)
                    }
                    ("inline", Value::Object(policies)) => {
                        let text = |text: &Value| Documents::Digest.text(text.as_str().unwrap_or_default());
                        *value = policies.iter().map(|(name, document)| (name.clone(), text(document))).collect();
                    }
                    ("desired", desired) => *value = Documents::Digest.text(&desired.to_string()),
                    _ => digested(value),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(digested),
        _ => {}
    }
}
