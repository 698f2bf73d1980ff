//! What one transaction changed, as a JSON merge patch (RFC 7396) on a `State`: in the record of the change, so that a replay
//! of the log gives the state of any moment.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::shown::in_account;
use super::{
    AccessKey, Account, Alias, Grant, Group, Key, KeyStore, ManagedPolicy, OidcProvider, Role, Service, Token, Unit,
    User,
};
use crate::ids::Locality;
use crate::store::{Snapshot, Write};

/// The parts of a state that a request changed, with the store's version after its last transaction.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parts {
    parts: Map<String, Value>,
    version: u64,
}

impl Parts {
    /// Of one transaction: what `writes` make of `before`.
    pub fn of(before: &Snapshot, writes: &[Write], here: &Locality) -> Parts {
        let mut parts = Parts::default();
        // The same thing may be written twice in a transaction: the last one counts, against the state before all.
        for write in writes {
            parts.write(before, write, here);
        }
        parts
    }

    /// What a later transaction of the same request changed beyond.
    pub fn and(&mut self, later: Parts, version: u64) {
        let mut whole = Value::Object(std::mem::take(&mut self.parts));
        // A part that was removed and is made again is whole in the later one; nulls must stay as they are.
        join(&mut whole, Value::Object(later.parts));
        if let Value::Object(members) = whole {
            self.parts = members;
        }
        self.version = version;
    }

    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// As it stands in a record.
    pub fn recorded(self) -> Value {
        let mut members = self.parts;
        members.insert("storeVersion".to_owned(), json!(self.version));
        Value::Object(members)
    }

    fn write(&mut self, before: &Snapshot, write: &Write, here: &Locality) {
        match write {
            Write::PutKey(r) => {
                let was = before.keys.get(&r.id).and_then(|r| Key::of(r, here));
                self.put("keys", r.id.to_string(), was, Key::of(r, here));
            }
            Write::DeleteKey(id) => {
                let was = before.keys.get(id).and_then(|r| Key::of(r, here));
                self.put("keys", id.to_string(), was, None);
            }
            Write::PutAlias(r) => {
                let was = before.alias(&r.account, &r.name).map(|r| Alias::of(r));
                self.put("aliases", in_account(&r.account, r.name.as_str()), was, Some(Alias::of(r)));
            }
            Write::DeleteAlias(account, name) => {
                let was = before.alias(account, name).map(|r| Alias::of(r));
                self.put("aliases", in_account(account, name.as_str()), was, None);
            }
            Write::PutGrant(r) => {
                let was = before.grants.get(&(r.key, r.id.clone())).map(|r| Grant::of(r));
                self.put("grants", format!("{}/{}", r.key, r.id), was, Some(Grant::of(r)));
            }
            Write::DeleteGrant(key, id) => {
                let was = before.grants.get(&(*key, id.clone())).map(|r| Grant::of(r));
                self.put("grants", format!("{key}/{id}"), was, None);
            }
            Write::PutUser(r) => {
                let was = before.user(&r.account, &r.name).map(|r| User::of(r));
                self.put("users", in_account(&r.account, r.name.as_str()), was, Some(User::of(r)));
            }
            Write::DeleteUser(account, name) => {
                let was = before.user(account, name).map(|r| User::of(r));
                self.put("users", in_account(account, name.as_str()), was, None);
            }
            Write::PutGroup(r) => {
                let was = before.groups.get(&(r.account.clone(), r.name.clone())).map(|r| Group::of(r));
                self.put("groups", in_account(&r.account, r.name.as_str()), was, Some(Group::of(r)));
            }
            Write::DeleteGroup(account, name) => {
                let was = before.groups.get(&(account.clone(), name.clone())).map(|r| Group::of(r));
                self.put("groups", in_account(account, name.as_str()), was, None);
            }
            Write::PutRole(r) => {
                let was = before.role(&r.account, &r.name).map(|r| Role::of(r));
                self.put("roles", in_account(&r.account, r.name.as_str()), was, Some(Role::of(r)));
            }
            Write::DeleteRole(account, name) => {
                let was = before.role(account, name).map(|r| Role::of(r));
                self.put("roles", in_account(account, name.as_str()), was, None);
            }
            Write::PutPolicy(r) => {
                let was = before.policies.get(&r.arn).map(|r| ManagedPolicy::of(r));
                self.put("policies", r.arn.to_string(), was, Some(ManagedPolicy::of(r)));
            }
            Write::DeletePolicy(arn) => {
                let was = before.policies.get(arn).map(|r| ManagedPolicy::of(r));
                self.put("policies", arn.to_string(), was, None);
            }
            other => self.write_rest(before, other),
        }
    }

    fn write_rest(&mut self, before: &Snapshot, write: &Write) {
        match write {
            Write::PutAccount(r) => {
                let was = before.accounts.get(&r.id).map(|r| Account::of(r));
                self.put("accounts", r.id.to_string(), was, Some(Account::of(r)));
            }
            Write::DeleteAccount(id) => {
                let was = before.accounts.get(id).map(|r| Account::of(r));
                self.put("accounts", id.to_string(), was, None);
            }
            Write::PutUnit(r) => {
                let was = before.units.get(&r.id).map(|r| Unit::of(r));
                self.put("units", r.id.clone(), was, Some(Unit::of(r)));
            }
            Write::DeleteUnit(id) => {
                let was = before.units.get(id).map(|r| Unit::of(r));
                self.put("units", id.clone(), was, None);
            }
            Write::PutAccessKey(r) => {
                let was = before.access_keys.get(&r.id).map(|r| AccessKey::of(r));
                self.put("accessKeys", r.id.to_string(), was, Some(AccessKey::of(r)));
            }
            Write::DeleteAccessKey(id) => {
                let was = before.access_keys.get(id).map(|r| AccessKey::of(r));
                self.put("accessKeys", id.to_string(), was, None);
            }
            Write::PutService(r) => {
                let was = before.services.get(&r.name).map(|r| Service::of(r));
                self.put("services", r.name.to_string(), was, Some(Service::of(r)));
            }
            Write::DeleteService(name) => {
                let was = before.services.get(name).map(|r| Service::of(r));
                self.put("services", name.to_string(), was, None);
            }
            Write::PutOidcProvider(r) => {
                let was = before.oidc_providers.get(&r.arn).map(|r| OidcProvider::of(r));
                self.put("oidcProviders", r.arn.clone(), was, Some(OidcProvider::of(r)));
            }
            Write::DeleteOidcProvider(arn) => {
                let was = before.oidc_providers.get(arn).map(|r| OidcProvider::of(r));
                self.put("oidcProviders", arn.clone(), was, None);
            }
            Write::PutKeyStore(r) => {
                let was = before.key_stores.get(&r.id).map(|r| KeyStore::of(r));
                self.put("keyStores", r.id.to_string(), was, Some(KeyStore::of(r)));
            }
            Write::DeleteKeyStore(id) => {
                let was = before.key_stores.get(id).map(|r| KeyStore::of(r));
                self.put("keyStores", id.to_string(), was, None);
            }
            Write::PutToken(r) => {
                let was = before.tokens.get(&r.name).map(|r| Token::of(r));
                self.put("tokens", r.name.clone(), was, Some(Token::of(r)));
            }
            // No part of a state: counters, markers, what rotations and sessions need. The others came before.
            _ => {}
        }
    }

    fn put<T: Serialize>(&mut self, kind: &str, name: String, was: Option<T>, is: Option<T>) {
        let value = |part: Option<T>| part.and_then(|part| serde_json::to_value(part).ok());
        let (was, is) = (value(was), value(is));
        let of_kind = self.parts.entry(kind.to_owned()).or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(of_kind) = of_kind else { return };
        match (was, is) {
            (None, None) => drop(of_kind.remove(&name)),
            (Some(_), None) => drop(of_kind.insert(name, Value::Null)),
            (None, Some(is)) => drop(of_kind.insert(name, is)),
            (Some(was), Some(is)) => match difference(&was, &is) {
                Some(patch) => drop(of_kind.insert(name, patch)),
                None => drop(of_kind.remove(&name)),
            },
        }
        if of_kind.is_empty() {
            self.parts.remove(kind);
        }
    }
}

/// The merge patch that makes `is` of `was`; `None`: they are equal. Members are never null: they are absent.
fn difference(was: &Value, is: &Value) -> Option<Value> {
    if was == is {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (was, is) else { return Some(is.clone()) };
    let mut patch = Map::new();
    for (name, value) in new {
        match old.get(name) {
            None => drop(patch.insert(name.clone(), value.clone())),
            Some(before) => {
                if let Some(inner) = difference(before, value) {
                    patch.insert(name.clone(), inner);
                }
            }
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    Some(Value::Object(patch))
}

/// RFC 7396: applies a merge patch.
pub fn apply(to: &mut Value, patch: &Value) {
    let Value::Object(members) = patch else {
        *to = patch.clone();
        return;
    };
    if !to.is_object() {
        *to = Value::Object(Map::new());
    }
    let Value::Object(target) = to else { return };
    for (name, value) in members {
        match value {
            Value::Null => drop(target.remove(name)),
            value => apply(target.entry(name.clone()).or_insert(Value::Null), value),
        }
    }
}

/// Two patches as one: nulls stay.
fn join(to: &mut Value, later: Value) {
    match (to, later) {
        (Value::Object(target), Value::Object(members)) => {
            for (name, value) in members {
                match target.get_mut(&name) {
                    Some(before) if before.is_object() => join(before, value),
                    _ => drop(target.insert(name, value)),
                }
            }
        }
        (to, later) => *to = later,
    }
}
