//! How a snapshot follows the writes: each costs O(log n), and the old snapshot stays as it was.

use std::ops::Bound;
use std::sync::Arc;

use rpds::RedBlackTreeMapSync;

use super::{
    AccountId, AliasName, AliasRecord, GrantId, GrantRecord, KeyId, RoleName, RoleRecord, Snapshot, UserName,
    UserRecord, Write,
};

impl Snapshot {
    pub fn alias(&self, account: &AccountId, name: &AliasName) -> Option<&Arc<AliasRecord>> {
        self.aliases.get(&(account.clone(), name.clone()))
    }

    pub fn user(&self, account: &AccountId, name: &UserName) -> Option<&Arc<UserRecord>> {
        self.users.get(&(account.clone(), name.clone()))
    }

    pub fn role(&self, account: &AccountId, name: &RoleName) -> Option<&Arc<RoleRecord>> {
        self.roles.get(&(account.clone(), name.clone()))
    }

    /// Whether this bridge serves an account: the deployment's own, and those that were added.
    pub fn has_account(&self, account: &AccountId) -> bool {
        self.accounts.contains_key(account) || self.deployment.as_ref().is_some_and(|own| own.account == *account)
    }

    /// Grants of one key, in the order of their ids.
    pub fn grants_of(&self, key: KeyId) -> impl Iterator<Item = &Arc<GrantRecord>> {
        let range = self.grants.range((key, GrantId::first())..);
        range.map(|(_, grant)| grant).take_while(move |grant| grant.key == key)
    }

    /// Grants of one key in the order of their ids, after `after`.
    pub fn grants_after(&self, key: KeyId, after: Option<GrantId>) -> impl Iterator<Item = &Arc<GrantRecord>> {
        let from = match after {
            Some(after) => Bound::Excluded((key, after)),
            None => Bound::Included((key, GrantId::first())),
        };
        let range = self.grants.range((from, Bound::Unbounded));
        range.map(|(_, grant)| grant).take_while(move |grant| grant.key == key)
    }

    /// Grants that one principal (ARN or service name) may retire, over all keys, after `after`.
    pub fn grants_retired_by(
        &self,
        retiring: &str,
        after: Option<(KeyId, GrantId)>,
    ) -> impl Iterator<Item = &Arc<GrantRecord>> {
        let retiring: Arc<str> = retiring.into();
        let from = match after {
            Some((key, grant)) => Bound::Excluded((Arc::clone(&retiring), key, grant)),
            None => Bound::Included((Arc::clone(&retiring), KeyId::new([0; 16], false), GrantId::first())),
        };
        let range = self.grants_retired_by.range((from, Bound::Unbounded));
        range.take_while(move |((by, ..), _)| *by == retiring).map(|(_, grant)| grant)
    }

    /// Grants of one key to one grantee (ARN or service name).
    pub fn grants_to<'s>(&'s self, key: KeyId, grantee: &str) -> impl Iterator<Item = &'s Arc<GrantRecord>> + use<'s> {
        let own = self.grants_to.get(&key).map(|grants| {
            let grantee: Arc<str> = grantee.into();
            let range = grants.range((Arc::clone(&grantee), GrantId::first())..);
            range.take_while(move |((to, _), _)| *to == grantee).map(|(_, grant)| grant)
        });
        own.into_iter().flatten()
    }

    /// Aliases of one account in the order of their names, after `after`.
    pub fn aliases_in(&self, account: &AccountId, after: Option<AliasName>) -> impl Iterator<Item = &Arc<AliasRecord>> {
        let from = match after {
            Some(after) => Bound::Excluded((account.clone(), after)),
            None => Bound::Included((account.clone(), AliasName::first())),
        };
        let account = account.clone();
        let range = self.aliases.range((from, Bound::Unbounded));
        range.map(|(_, record)| record).take_while(move |record| record.account == account)
    }

    /// The version is for the caller to set, once for all writes of a transaction.
    pub(crate) fn apply(&mut self, write: Write) {
        match write {
            Write::PutDeployment(record) => self.deployment = Some(Arc::new(record)),
            Write::PutKey(record) => self.keys.insert_mut(record.id, Arc::new(record)),
            Write::DeleteKey(id) => {
                self.keys.remove_mut(&id);
            }
            Write::PutAlias(record) => {
                let at = (record.account.clone(), record.name.clone());
                let before = self.aliases.get(&at).map(|old| old.target);
                if before != Some(record.target) {
                    self.unlink(before, &record.name);
                    self.link(record.target, &record.name);
                }
                self.aliases.insert_mut(at, Arc::new(record));
            }
            Write::DeleteAlias(account, name) => {
                let at = (account, name);
                self.unlink(self.aliases.get(&at).map(|old| old.target), &at.1);
                self.aliases.remove_mut(&at);
            }
            Write::PutUser(record) => {
                self.users.insert_mut((record.account.clone(), record.name.clone()), Arc::new(record));
            }
            Write::DeleteUser(account, name) => {
                self.users.remove_mut(&(account, name));
            }
            Write::PutAccessKey(record) => {
                let owner = (record.account.clone(), record.owner.clone());
                let mut ids = self.access_keys_of.get(&owner).cloned().unwrap_or_default();
                if !ids.contains(&record.id) {
                    ids.push(record.id.clone());
                    ids.sort();
                    self.access_keys_of.insert_mut(owner, ids);
                }
                self.access_keys.insert_mut(record.id.clone(), Arc::new(record));
            }
            Write::DeleteAccessKey(id) => {
                if let Some(record) = self.access_keys.get(&id).cloned() {
                    let owner = (record.account.clone(), record.owner.clone());
                    let mut ids = self.access_keys_of.get(&owner).cloned().unwrap_or_default();
                    ids.retain(|other| *other != id);
                    if ids.is_empty() {
                        self.access_keys_of.remove_mut(&owner);
                    } else {
                        self.access_keys_of.insert_mut(owner, ids);
                    }
                }
                self.access_keys.remove_mut(&id);
            }
            Write::PutUsage(record) => self.usage.insert_mut(record.key, Arc::new(record)),
            Write::DeleteUsage(id) => {
                self.usage.remove_mut(&id);
            }
            Write::PutApplied(record) => self.applied.insert_mut(record.request_id.clone(), Arc::new(record)),
            Write::DeleteApplied(id) => {
                self.applied.remove_mut(&id);
            }
            Write::PutKeyStore(record) => self.key_stores.insert_mut(record.id.clone(), Arc::new(record)),
            Write::DeleteKeyStore(id) => {
                self.key_stores.remove_mut(&id);
            }
            Write::PutToken(record) => self.tokens.insert_mut(record.name.clone(), Arc::new(record)),
            Write::PutRotation(record) => self.rotations.insert_mut(record.client_token.clone(), Arc::new(record)),
            Write::DeleteRotation(token) => {
                self.rotations.remove_mut(&token);
            }
            Write::PutAccount(record) => self.accounts.insert_mut(record.id.clone(), Arc::new(record)),
            Write::DeleteAccount(id) => {
                self.accounts.remove_mut(&id);
            }
            Write::PutUnit(record) => self.units.insert_mut(record.id.clone(), Arc::new(record)),
            Write::DeleteUnit(id) => {
                self.units.remove_mut(&id);
            }
            Write::PutGroup(record) => {
                self.groups.insert_mut((record.account.clone(), record.name.clone()), Arc::new(record));
            }
            Write::DeleteGroup(account, name) => {
                self.groups.remove_mut(&(account, name));
            }
            Write::PutRole(record) => {
                self.roles.insert_mut((record.account.clone(), record.name.clone()), Arc::new(record));
            }
            Write::DeleteRole(account, name) => {
                self.roles.remove_mut(&(account, name));
            }
            Write::PutPolicy(record) => self.policies.insert_mut(record.arn.clone(), Arc::new(record)),
            Write::DeletePolicy(arn) => {
                self.policies.remove_mut(&arn);
            }
            Write::PutOidcProvider(record) => self.oidc_providers.insert_mut(record.arn.clone(), Arc::new(record)),
            Write::DeleteOidcProvider(arn) => {
                self.oidc_providers.remove_mut(&arn);
            }
            Write::PutService(record) => self.services.insert_mut(record.name.clone(), Arc::new(record)),
            Write::DeleteService(name) => {
                self.services.remove_mut(&name);
            }
            Write::PutAuditKey(record) => {
                self.audit_keys.insert_mut((record.key_use.clone(), record.generation), Arc::new(record));
            }
            Write::PutSessionKey(record) => self.session_keys.insert_mut(record.id.clone(), Arc::new(record)),
            Write::DeleteSessionKey(id) => {
                self.session_keys.remove_mut(&id);
            }
            Write::PutRevokedSession(record) => {
                self.revoked_sessions.insert_mut(record.access_key.clone(), Arc::new(record));
            }
            Write::DeleteRevokedSession(id) => {
                self.revoked_sessions.remove_mut(&id);
            }
            Write::PutGrant(record) => {
                let record = Arc::new(record);
                let (key, id) = (record.key, record.id.clone());
                self.delete_grant(key, &id);
                if !self.grants_to.contains_key(&key) {
                    self.grants_to.insert_mut(key, RedBlackTreeMapSync::default());
                }
                if let Some(of_key) = self.grants_to.get_mut(&key) {
                    of_key.insert_mut((record.grantee.name().into(), id.clone()), Arc::clone(&record));
                }
                if let Some(retiring) = &record.retiring {
                    self.grants_retired_by.insert_mut((retiring.name().into(), key, id.clone()), Arc::clone(&record));
                }
                self.grants.insert_mut((key, id), record);
            }
            Write::DeleteGrant(key, id) => self.delete_grant(key, &id),
            // Tombstones are read from the database when somebody asks.
            Write::PutTombstone(_) => {}
        }
    }

    fn delete_grant(&mut self, key: KeyId, id: &GrantId) {
        let Some(record) = self.grants.get(&(key, id.clone())).cloned() else { return };
        self.grants.remove_mut(&(key, id.clone()));
        if let Some(of_key) = self.grants_to.get_mut(&key) {
            of_key.remove_mut(&(record.grantee.name().into(), id.clone()));
            if of_key.is_empty() {
                self.grants_to.remove_mut(&key);
            }
        }
        if let Some(retiring) = &record.retiring {
            self.grants_retired_by.remove_mut(&(retiring.name().into(), key, id.clone()));
        }
    }

    /// Names stay sorted, so that a reopened store shows them in the same order.
    fn link(&mut self, key: KeyId, name: &AliasName) {
        let mut names = self.aliases_of.get(&key).cloned().unwrap_or_default();
        if let Err(place) = names.binary_search(name) {
            names.insert(place, name.clone());
        }
        self.aliases_of.insert_mut(key, names);
    }

    fn unlink(&mut self, key: Option<KeyId>, name: &AliasName) {
        let Some((key, names)) = key.and_then(|key| Some((key, self.aliases_of.get(&key)?))) else { return };
        let names: Vec<AliasName> = names.iter().filter(|n| *n != name).cloned().collect();
        if names.is_empty() {
            self.aliases_of.remove_mut(&key);
        } else {
            self.aliases_of.insert_mut(key, names);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{alias, key_id};

    #[test]
    fn aliases_of_follows_every_move() {
        let (a, b) = (key_id(1), key_id(2));
        let of = |s: &Snapshot, key| {
            s.aliases_of.get(&key).map(|n| n.iter().map(|n| n.to_string()).collect::<Vec<_>>()).unwrap_or_default()
        };
        let mut s = Snapshot::default();
        s.apply(Write::PutAlias(alias("alias/two", a)));
        s.apply(Write::PutAlias(alias("alias/one", a)));
        s.apply(Write::PutAlias(alias("alias/one", a)));
        assert_eq!(of(&s, a), ["alias/one", "alias/two"]);
        let before = s.clone();
        s.apply(Write::PutAlias(alias("alias/one", b)));
        assert_eq!((of(&s, a), of(&s, b)), (vec!["alias/two".to_owned()], vec!["alias/one".to_owned()]));
        let account: crate::ids::AccountId = "111122223333".parse().unwrap();
        s.apply(Write::DeleteAlias(account.clone(), "alias/two".parse().unwrap()));
        assert_eq!(of(&s, a), Vec::<String>::new());
        assert!(s.aliases_of.get(&a).is_none());
        s.apply(Write::DeleteAlias(account, "alias/none".parse().unwrap()));
        assert_eq!(of(&before, a), ["alias/one", "alias/two"]);
    }
}
