//! What tests of other parts need to run on a real store without a token.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use tempfile::TempDir;

use super::*;
use crate::ids::spec::KeySpec;

/// A `WrapKey` in memory. Two of the same `key` byte are the same token key.
pub struct FakeWrap {
    name: String,
    cipher: Aes256Gcm,
}

impl FakeWrap {
    pub fn new(name: &str, key: u8) -> FakeWrap {
        FakeWrap { name: name.to_owned(), cipher: Aes256Gcm::new_from_slice(&[key; 32]).unwrap() }
    }
}

impl Default for FakeWrap {
    fn default() -> Self {
        FakeWrap::new("0123456789abcdef", 1)
    }
}

impl WrapKey for FakeWrap {
    fn wrap<'a>(&'a self, aad: Vec<u8>, key: &'a SecretBytes) -> BoxFuture<'a, Result<Vec<u8>, String>> {
        Box::pin(async move {
            let nonce = super::seal::random::<12>().map_err(|e| e.to_string())?;
            let payload = Payload { msg: key.expose(), aad: &aad };
            let body = self.cipher.encrypt(&Nonce::from(nonce), payload).map_err(|e| e.to_string())?;
            Ok([&nonce[..], &body].concat())
        })
    }

    fn unwrap<'a>(&'a self, aad: Vec<u8>, wrapped: &'a [u8]) -> BoxFuture<'a, Result<SecretBytes, String>> {
        Box::pin(async move {
            let (nonce, body) = wrapped.split_first_chunk::<12>().ok_or("too short")?;
            let payload = Payload { msg: body, aad: &aad };
            let key = self.cipher.decrypt(&Nonce::from(*nonce), payload).map_err(|_| "the tag does not match")?;
            Ok(SecretBytes::new(key))
        })
    }

    fn random32(&self) -> BoxFuture<'_, Result<SecretBytes, String>> {
        Box::pin(async { Ok(SecretBytes::new(vec![0x5a; 32])) })
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

/// An empty store in a directory that goes when the first of the pair does.
pub async fn new_store() -> (TempDir, Store) {
    let state = tempfile::tempdir().unwrap();
    let store = Store::create(Store::lock(state.path()).unwrap(), &FakeWrap::default(), None).await.unwrap();
    (state, store)
}

pub async fn reopen(state: &TempDir) -> Result<Store, StoreError> {
    Store::open(Store::lock(state.path())?, &FakeWrap::default()).await
}

/// Writes without a condition.
pub async fn put(store: &Store, writes: Vec<Write>) -> u64 {
    store.update::<_, (), _>(move |_| Ok((writes, ()))).await.unwrap().1
}

pub fn key_id(n: u16) -> KeyId {
    let mut bytes = [0x11; 16];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    KeyId::new(bytes, false)
}

pub fn account() -> crate::ids::AccountId {
    "111122223333".parse().unwrap()
}

/// The record of `account`: in no organisation, its root user may sign in.
pub fn own_account() -> AccountRecord {
    AccountRecord {
        id: account(),
        name: "own".to_owned(),
        created: 1,
        root_enabled: true,
        unit: None,
        service_control: Vec::new(),
    }
}

/// A user of `account` without anything.
pub fn user(name: &str, id: &str) -> UserRecord {
    UserRecord {
        name: name.parse().unwrap(),
        account: account(),
        user_id: id.to_owned(),
        created: 1,
        path: root_path(),
        tags: Vec::new(),
        groups: Vec::new(),
        policies: Policies::default(),
        boundary: None,
    }
}

/// A role of `account` without anything.
pub fn role(name: &str, id: &str) -> RoleRecord {
    RoleRecord {
        name: name.parse().unwrap(),
        account: account(),
        role_id: id.to_owned(),
        created: 1,
        path: root_path(),
        description: String::new(),
        trust: "{}".into(),
        max_session_seconds: 3600,
        tags: Vec::new(),
        policies: Policies::default(),
        boundary: None,
        sessions_revoked_before: None,
    }
}

pub fn key(n: u16) -> KeyRecord {
    KeyRecord {
        id: key_id(n),
        account: account(),
        created: 1_700_000_000_000,
        description: format!("key {n}"),
        spec: KeySpec::SymmetricDefault,
        usage: KeySpec::SymmetricDefault.default_usage(),
        lifecycle: Lifecycle::Enabled,
        policy: r#"{"Version":"2012-10-17","Statement":[]}"#.into(),
        policy_version: 1,
        tags: vec![("team".into(), "ops".into())],
        materials: vec![Material {
            generation: 1,
            material_id: "ab".repeat(32),
            created: 1_700_000_000_000,
            fingerprint: vec![1, 2, 3],
            spki: None,
            evidence: serde_json::json!({ "CKA_SENSITIVE": true, "CKA_EXTRACTABLE": false }),
            object_id: None,
        }],
        key_store: None,
        provenance: Provenance::Generated,
        managed_by: None,
    }
}

pub fn alias(name: &str, target: KeyId) -> AliasRecord {
    AliasRecord { name: name.parse().unwrap(), account: account(), target, created: 1, updated: 2, history: vec![] }
}
