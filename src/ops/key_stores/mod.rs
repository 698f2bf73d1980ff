//! Custom key stores: created, connected, described, changed, deleted, with AWS's states and refusals. What a store is meant
//! to be stands in its record; what it is, in `keystore::States`.

mod anchor;
mod attempt;
mod backing;
mod connection;
mod create;
mod password;
mod update;

use std::ops::Bound;
use std::sync::Arc;

use crate::ids::{AccountId, ClusterId, KeyStoreId};
use crate::keystore::{ConfiguredToken, ErrorClass, Looked, OpenFailure, Token, TokenError};
use crate::ops::resolve::KeyTarget;
use crate::ops::{Context, CreateKey, KeyStoreEntry, KeyStoreFacts, OpError, Ops, Page, Request, Response, Subject};
use crate::store::{KeyStoreRecord, Lifecycle, Snapshot};

/// The model names no default for DescribeCustomKeyStores: that of ListKeys.
const DESCRIBE_DEFAULT: u32 = 100;

impl Ops {
    pub(super) fn describe_key_stores(
        &self,
        id: Option<&str>,
        name: Option<&str>,
        page: &Page,
        account: &AccountId,
        snapshot: &Snapshot,
    ) -> Result<Response, OpError> {
        let list = format!("DescribeCustomKeyStores {account}");
        let own = |record: &&Arc<KeyStoreRecord>| record.account == *account;
        let one = match (id, name) {
            (Some(id), _) => Some(record(snapshot, account, id)?),
            (None, Some(name)) => {
                let found = snapshot.key_stores.values().filter(own).find(|record| record.name == name);
                Some(found.ok_or_else(|| OpError::KeyStoreNotFound(name.to_owned()))?.as_ref())
            }
            (None, None) => None,
        };
        if let Some(record) = one {
            return Ok(Response::DescribeCustomKeyStores { stores: vec![self.entry(record)], next_marker: None });
        }
        let limit = page.limit.unwrap_or(DESCRIBE_DEFAULT) as usize;
        let from = match &page.marker {
            None => Bound::Unbounded,
            Some(marker) => {
                let after = self.markers.open(&list, marker)?;
                Bound::Excluded(after.parse::<KeyStoreId>().map_err(|_| OpError::InvalidMarker)?)
            }
        };
        let mut rest = snapshot.key_stores.range((from, Bound::Unbounded)).map(|(_, record)| record).filter(own);
        let stores: Vec<KeyStoreEntry> = rest.by_ref().take(limit).map(|record| self.entry(record)).collect();
        let next_marker = match (rest.next(), stores.last()) {
            (Some(_), Some(last)) => Some(self.markers.seal(&list, last.id.as_str())?),
            _ => None,
        };
        Ok(Response::DescribeCustomKeyStores { stores, next_marker })
    }

    fn entry(&self, record: &KeyStoreRecord) -> KeyStoreEntry {
        // A record without a state is one that a restore brings back at this moment.
        let state = self.keystore.states().state(&record.id);
        KeyStoreEntry {
            id: record.id.clone(),
            name: record.name.clone(),
            cluster: record.cluster.clone(),
            trust_anchor: record.trust_anchor.clone(),
            connection_state: state.as_ref().map_or("DISCONNECTED", |state| state.name()),
            connection_error_code: state.as_ref().and_then(|state| state.error_code()).map(str::to_owned),
            creation_date: record.created,
        }
    }

    /// The token of a connected custom key store of an account, for operations that name the store and no key.
    pub(super) fn connected_store(&self, account: &AccountId, id: &str) -> Result<Token, OpError> {
        let snapshot = self.store.snapshot();
        let record = record(&snapshot, account, id)?;
        self.keystore.token_of(Some(&record.id)).ok_or_else(|| self.not_connected(&record.id))
    }

    /// CustomKeyStoreInvalidStateException for what needs a connected store.
    fn not_connected(&self, id: &KeyStoreId) -> OpError {
        OpError::KeyStoreInvalidState(format!(
            "Custom key store {id} is {}. This operation is valid only when it is CONNECTED.",
            self.state_name(id)
        ))
    }

    fn state_name(&self, id: &KeyStoreId) -> &'static str {
        self.keystore.states().state(id).map_or("DISCONNECTED", |state| state.name())
    }

    /// AWS's refusal where a request uses a key whose key store is not connected. Comes before the key's own state except its
    /// deletion, and after the question whether it is the right key.
    pub(super) fn reachable(&self, request: &Request, subject: &Subject) -> Result<(), OpError> {
        let uses_key = matches!(
            request,
            Request::Encrypt { .. }
                | Request::Decrypt { .. }
                | Request::ReEncrypt(_)
                | Request::GenerateDataKey { .. }
                | Request::Sign { .. }
                | Request::Verify { .. }
                | Request::GetPublicKey { .. }
                | Request::GenerateMac { .. }
                | Request::VerifyMac { .. }
        );
        if !uses_key {
            return Ok(());
        }
        match subject {
            Subject::Key(key) => self.store_connected(key),
            // What was named is not the ciphertext's key: the operation says so.
            Subject::Blob { key, named: Some(named), .. } if !named.means(&key.record.id) => Ok(()),
            Subject::Blob { key, .. } => self.store_connected(key),
            Subject::ReEncrypt { source, named: Some(named), .. } if !named.means(&source.record.id) => Ok(()),
            Subject::ReEncrypt { source, destination, .. } => {
                self.store_connected(source)?;
                self.store_connected(destination)
            }
            _ => Ok(()),
        }
    }

    fn store_connected(&self, key: &KeyTarget) -> Result<(), OpError> {
        let pending = matches!(key.record.lifecycle, Lifecycle::PendingDeletion { .. });
        if pending || self.keystore.is_connected(key.record.key_store.as_ref()) {
            return Ok(());
        }
        Err(OpError::KeyStoreDisconnected { arn: key.arn.clone() })
    }

    /// A call that was under way when its key store was disconnected finds its token closed: that is the store's state and no
    /// failure of ours.
    pub(super) fn told_of_disconnect(
        &self,
        error: OpError,
        account: &AccountId,
        request: &Request,
        subject: &Subject,
    ) -> OpError {
        if !matches!(error, OpError::Token(_)) {
            return error;
        }
        if let Request::CreateKey(CreateKey { key_store: Some(id), .. })
        | Request::GenerateRandom { key_store: Some(id), .. } = request
        {
            return self.connected_store(account, id).err().unwrap_or(error);
        }
        let keys: [Option<&KeyTarget>; 2] = match subject {
            Subject::Key(key) | Subject::Blob { key, .. } => [Some(key), None],
            Subject::ReEncrypt { source, destination, .. } => [Some(source), Some(destination)],
            _ => [None, None],
        };
        let away = keys.into_iter().flatten().find(|key| !self.keystore.is_connected(key.record.key_store.as_ref()));
        match away {
            Some(key) => OpError::KeyStoreDisconnected { arn: key.arn.clone() },
            None => error,
        }
    }

    /// The custom key store that a request uses, for its audit record.
    pub(super) fn store_used(&self, request: &Request, subject: &Subject) -> Option<KeyStoreFacts> {
        let key = match (request, subject) {
            (Request::GenerateRandom { key_store, .. }, _) => {
                let id = key_store.as_deref()?.parse().ok()?;
                return Some(KeyStoreFacts { id: Some(id), ..KeyStoreFacts::default() });
            }
            (
                Request::Encrypt { .. }
                | Request::GenerateDataKey { .. }
                | Request::Sign { .. }
                | Request::Verify { .. }
                | Request::GenerateMac { .. }
                | Request::VerifyMac { .. },
                Subject::Key(key),
            )
            | (_, Subject::Blob { key, .. }) => key,
            (_, Subject::ReEncrypt { source, destination, .. }) => match destination.record.key_store {
                Some(_) => destination,
                None => source,
            },
            _ => return None,
        };
        let id = key.record.key_store.clone()?;
        Some(KeyStoreFacts { id: Some(id), ..KeyStoreFacts::default() })
    }

    /// What the configuration allows a call to a key's token: custom tokens have deadlines of their own.
    pub(super) fn within_deadline(&self, subject: &Subject, ctx: &Context) -> Option<Context> {
        let key = match subject {
            Subject::Key(key) | Subject::Blob { key, .. } => key,
            Subject::ReEncrypt { destination, .. } => destination,
            _ => return None,
        };
        let id = key.record.key_store.as_ref()?;
        let snapshot = self.store.snapshot();
        let configured = self.keystore.of_cluster(&snapshot.key_stores.get(id)?.cluster, &snapshot)?;
        Some(Context { deadline: std::time::Instant::now() + configured.deadline, ..ctx.clone() })
    }

    /// What a token says of itself to anybody, no longer than the request has time.
    async fn look_at(&self, token: &ConfiguredToken, ctx: &Context) -> Result<Looked, OpError> {
        match tokio::time::timeout_at(ctx.deadline.into(), token.look()).await {
            Ok(Ok(looked)) => Ok(looked),
            Ok(Err(error)) => Err(no_look(&token.name, &error)),
            Err(_) => Err(OpError::DependencyTimeout(format!("token `{}` did not answer", token.name))),
        }
    }
}

/// Why CreateCustomKeyStore and UpdateCustomKeyStore do not take a token. The error itself is for the log.
fn no_look(name: &str, error: &TokenError) -> OpError {
    tracing::warn!(token = name, %error, "a configured token cannot be looked at");
    match (error.open_failure(), error.class) {
        (OpenFailure::NotPresent, _) => OpError::ClusterNotActive(format!("The token `{name}` is not present.")),
        (_, ErrorClass::Context | ErrorClass::Session | ErrorClass::Capacity | ErrorClass::Deadline) => {
            OpError::ClusterNotActive(format!("The token `{name}` does not answer."))
        }
        _ => OpError::ClusterInvalidConfiguration(format!(
            "The configuration of token `{name}` does not lead to one token."
        )),
    }
}

/// The record of an account's key store. Text that is no key store id names none, and what another account has is not told.
fn record<'a>(snapshot: &'a Snapshot, account: &AccountId, id: &str) -> Result<&'a KeyStoreRecord, OpError> {
    let not_found = || OpError::KeyStoreNotFound(id.to_owned());
    let id: KeyStoreId = id.parse().map_err(|_| not_found())?;
    Ok(snapshot.key_stores.get(&id).filter(|record| record.account == *account).ok_or_else(not_found)?)
}

/// Another store of the account with this name.
fn name_in_use(
    snapshot: &Snapshot,
    account: &AccountId,
    name: &str,
    except: Option<&KeyStoreId>,
) -> Result<(), OpError> {
    let mut own = snapshot.key_stores.values().filter(|record| record.account == *account);
    if own.any(|record| record.name == name && Some(&record.id) != except) {
        return Err(OpError::KeyStoreNameInUse(name.to_owned()));
    }
    Ok(())
}

/// Another store on this token, or the default key store's token.
fn cluster_in_use(snapshot: &Snapshot, cluster: &ClusterId, except: Option<&KeyStoreId>) -> bool {
    let default = snapshot.tokens.get(crate::keystore::DEFAULT_TOKEN).is_some_and(|token| token.cluster == *cluster);
    default || snapshot.key_stores.values().any(|record| record.cluster == *cluster && Some(&record.id) != except)
}

fn facts(record: &KeyStoreRecord) -> KeyStoreFacts {
    KeyStoreFacts {
        id: Some(record.id.clone()),
        name: Some(record.name.clone()),
        cluster: Some(record.cluster.clone()),
        ..KeyStoreFacts::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Connection;
    use crate::store::testing::account;

    fn other() -> AccountId {
        "444455556666".parse().unwrap()
    }

    /// Store 1 of the own account and store 2 of another, with one name.
    fn two_stores() -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (n, account) in [(1, account()), (2, other())] {
            let record = KeyStoreRecord {
                id: id(n).parse().unwrap(),
                account,
                name: "payments".to_owned(),
                cluster: format!("cluster-{}", "abcdefghij".to_owned() + &n.to_string().replace('1', "a"))
                    .parse()
                    .unwrap(),
                created: 1,
                trust_anchor: None,
                wrapped_password: Vec::new(),
                password_refused: false,
                connection: Connection::Disconnected,
            };
            snapshot.key_stores.insert_mut(record.id.clone(), Arc::new(record));
        }
        snapshot
    }

    fn id(n: u8) -> String {
        format!("cks-{n:017x}")
    }

    #[test]
    fn stores_of_another_account_do_not_exist() {
        let snapshot = two_stores();
        assert_eq!(record(&snapshot, &account(), &id(1)).unwrap().account, account());
        assert_eq!(record(&snapshot, &account(), &id(2)), Err(OpError::KeyStoreNotFound(id(2))));
        assert_eq!(record(&snapshot, &other(), &id(2)).unwrap().account, other());
        assert_eq!(record(&snapshot, &account(), "payments"), Err(OpError::KeyStoreNotFound("payments".to_owned())));
    }

    #[test]
    fn names_are_the_accounts_own() {
        let snapshot = two_stores();
        let third: AccountId = "777788889999".parse().unwrap();
        let own: KeyStoreId = id(1).parse().unwrap();
        assert!(name_in_use(&snapshot, &account(), "payments", None).is_err());
        assert!(name_in_use(&snapshot, &account(), "payments", Some(&own)).is_ok());
        assert!(name_in_use(&snapshot, &third, "payments", None).is_ok());
        // A token is one key store, whosesoever.
        let cluster = snapshot.key_stores.values().last().unwrap().cluster.clone();
        assert!(cluster_in_use(&snapshot, &cluster, Some(&own)));
    }
}
