//! How a snapshot follows the writes: each costs O(log n), and the old snapshot stays as it was.

use std::sync::Arc;

use super::{AliasName, KeyId, Snapshot, Write};

impl Snapshot {
    /// The version is for the caller to set, once for all writes of a transaction.
    pub(super) fn apply(&mut self, write: Write) {
        match write {
            Write::PutDeployment(record) => self.deployment = Some(Arc::new(record)),
            Write::PutKey(record) => self.keys.insert_mut(record.id, Arc::new(record)),
            Write::DeleteKey(id) => {
                self.keys.remove_mut(&id);
            }
            Write::PutAlias(record) => {
                let before = self.aliases.get(&record.name).map(|old| old.target);
                if before != Some(record.target) {
                    self.unlink(before, &record.name);
                    self.link(record.target, &record.name);
                }
                self.aliases.insert_mut(record.name.clone(), Arc::new(record));
            }
            Write::DeleteAlias(name) => {
                self.unlink(self.aliases.get(&name).map(|old| old.target), &name);
                self.aliases.remove_mut(&name);
            }
            Write::PutUser(record) => self.users.insert_mut(record.name.clone(), Arc::new(record)),
            Write::PutAccessKey(record) => self.access_keys.insert_mut(record.id.clone(), Arc::new(record)),
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
            // Tombstones are read from the database when somebody asks.
            Write::PutTombstone(_) => {}
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
        s.apply(Write::DeleteAlias("alias/two".parse().unwrap()));
        assert_eq!(of(&s, a), Vec::<String>::new());
        assert!(s.aliases_of.get(&a).is_none());
        s.apply(Write::DeleteAlias("alias/none".parse().unwrap()));
        assert_eq!(of(&before, a), ["alias/one", "alias/two"]);
    }
}
