//! The store as its users see it, and as somebody with a hand in its files does.

mod backups;
mod identities;
mod tampering;

use std::os::unix::fs::PermissionsExt;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio_rusqlite::rusqlite::{self, Connection};

use super::testing::*;
use super::*;
use crate::ids::spec::KeySpec;

fn raw(state: &TempDir) -> Connection {
    Connection::open(database_path(state.path())).unwrap()
}

fn deployment(store: &Store) -> DeploymentRecord {
    DeploymentRecord {
        id: store.deployment_id().to_owned(),
        account: account(),
        region: "eu-central-1".parse().unwrap(),
        created: 5,
        made_by: "init".into(),
    }
}

fn user(name: &str) -> UserRecord {
    testing::user(name, "AIDA0")
}

fn access_key(n: u16) -> AccessKeyRecord {
    AccessKeyRecord {
        id: format!("AKIA{n:016}").parse().unwrap(),
        account: account(),
        owner: if n == 0 { Owner::Root } else { Owner::User("ops".parse().unwrap()) },
        active: true,
        created: 7,
        wrapped_secret: vec![9; 68],
        last_used: None,
    }
}

fn usage(n: u16, reserved: u64) -> UsageRecord {
    UsageRecord { key: key_id(n), generation: 1, reserved }
}

fn tombstone(n: u16) -> TombstoneRecord {
    TombstoneRecord {
        id: key_id(n),
        account: account(),
        spec: KeySpec::Rsa2048,
        created: 1,
        deleted: 2,
        objects_destroyed: 2,
    }
}

fn one_of_each(store: &Store) -> Vec<Write> {
    vec![
        Write::PutDeployment(deployment(store)),
        Write::PutKey(key(1)),
        Write::PutAlias(alias("alias/app", key_id(1))),
        Write::PutUser(user("operations")),
        Write::PutAccessKey(access_key(0)),
        Write::PutUsage(usage(1, 1000)),
        Write::PutTombstone(tombstone(9)),
    ]
    .into_iter()
    .chain(identities::one_of_each())
    .collect()
}

#[track_caller]
fn assert_same(a: &Snapshot, b: &Snapshot) {
    assert_eq!(a.version, b.version);
    assert_eq!(a.deployment, b.deployment);
    assert!(a.keys == b.keys, "keys differ");
    assert!(a.aliases == b.aliases, "aliases differ");
    assert!(a.aliases_of == b.aliases_of, "aliases_of differ");
    assert!(a.users == b.users, "users differ");
    assert!(a.access_keys == b.access_keys, "access keys differ");
    assert!(a.usage == b.usage, "usage differs");
    assert!(a.access_keys_of == b.access_keys_of, "access_keys_of differ");
    assert!(a.accounts == b.accounts, "accounts differ");
    assert!(a.units == b.units, "units differ");
    assert!(a.groups == b.groups, "groups differ");
    assert!(a.roles == b.roles, "roles differ");
    assert!(a.policies == b.policies, "policies differ");
    assert!(a.oidc_providers == b.oidc_providers, "providers differ");
    assert!(a.services == b.services, "services differ");
    assert!(a.session_keys == b.session_keys, "session keys differ");
    assert!(a.revoked_sessions == b.revoked_sessions, "revoked sessions differ");
    assert!(a.grants == b.grants, "grants differ");
    assert!(a.audit_keys == b.audit_keys, "audit keys differ");
    assert!(a.grants_to == b.grants_to, "grants_to differ");
    assert!(a.grants_retired_by == b.grants_retired_by, "grants_retired_by differ");
}

#[tokio::test]
async fn every_record_comes_back_after_a_restart() {
    let (state, store) = new_store().await;
    assert_eq!(store.snapshot().version, 0);
    assert_eq!(put(&store, one_of_each(&store)).await, 1);
    let before = store.snapshot();
    assert_eq!(before.keys.get(&key_id(1)).unwrap().as_ref(), &key(1));
    assert_eq!(before.usage.get(&key_id(1)).unwrap().as_ref(), &usage(1, 1000));
    let derived = store.derive("pages");
    store.close().await.unwrap();

    let store = reopen(&state).await.unwrap();
    assert_same(&store.snapshot(), &before);
    assert_eq!(store.tombstone(key_id(9)).await.unwrap(), Some(tombstone(9)));
    assert_eq!(store.tombstone(key_id(8)).await.unwrap(), None);
    assert_eq!(store.derive("pages"), derived);
    assert_ne!(store.derive("other"), derived);
}

#[tokio::test]
async fn the_file_says_ids_and_sizes_only() {
    let (state, store) = new_store().await;
    put(&store, one_of_each(&store)).await;
    let path = database_path(state.path());
    for file in [&path, &path.with_extension("sqlite-wal"), &path.with_extension("sqlite-shm")] {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
    store.close().await.unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let holds = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(holds(&key_id(1).to_string()), "the search works");
    for secret in ["alias/app", "operations", "2012-10-17", "key 1", "eu-central-1"] {
        assert!(!holds(secret), "{secret}");
    }
}

#[tokio::test]
async fn a_refusal_writes_nothing_and_a_success_says_its_version() {
    let (_state, store) = new_store().await;
    let refused = store.update::<(), _, _>(|_| Err("no")).await;
    assert!(matches!(refused, Err(UpdateError::Refused("no"))));
    assert_eq!(store.snapshot().version, 0);

    let (seen, version) = store.update::<_, (), _>(|s| Ok((vec![], s.version))).await.unwrap();
    assert_eq!((seen, version), (0, 0));
    let (value, version) = store.update::<_, (), _>(|_| Ok((vec![Write::PutKey(key(1))], "v"))).await.unwrap();
    assert_eq!((value, version), ("v", 1));
    assert_eq!(put(&store, vec![Write::DeleteKey(key_id(1)), Write::DeleteKey(key_id(2))]).await, 2);
    assert!(store.snapshot().keys.is_empty());
}

#[tokio::test]
async fn half_a_transaction_is_none() {
    let (state, store) = new_store().await;
    let mut foreign = deployment(&store);
    foreign.id = "00".repeat(16);
    let failed = store
        .update::<_, (), _>(|_| Ok((vec![Write::PutKey(key(1)), Write::PutDeployment(foreign)], ())))
        .await
        .unwrap_err();
    assert!(matches!(failed, UpdateError::Failed(StoreError::OtherDeployment { .. })), "{failed:?}");
    assert_eq!(store.snapshot().version, 0);
    assert!(store.snapshot().keys.is_empty());
    put(&store, vec![Write::PutKey(key(2))]).await;
    store.close().await.unwrap();
    assert_eq!(reopen(&state).await.unwrap().snapshot().keys.size(), 1);
}

#[tokio::test]
async fn a_failed_write_leaves_snapshot_and_store_usable() {
    let (state, store) = new_store().await;
    put(&store, vec![Write::PutKey(key(1))]).await;
    // Another writer holds the file: the transaction cannot begin.
    on_connection(&store, |db| db.busy_timeout(std::time::Duration::ZERO).unwrap()).await;
    let other = raw(&state);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let failed = store.update::<_, (), _>(|_| Ok((vec![Write::PutKey(key(2))], ()))).await.unwrap_err();
    assert!(matches!(failed, UpdateError::Failed(StoreError::Sql(_))), "{failed:?}");
    assert_eq!((store.snapshot().version, store.snapshot().keys.size()), (1, 1));
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(put(&store, vec![Write::PutKey(key(2))]).await, 2);
}

/// A constraint that only COMMIT checks stands in for a disk that fails there.
#[tokio::test]
async fn after_a_failed_commit_the_snapshot_stays_and_nothing_more_is_written() {
    let (state, store) = new_store().await;
    put(&store, vec![Write::PutKey(key(1))]).await;
    on_connection(&store, |db| {
        db.execute_batch(
            "PRAGMA foreign_keys = ON;
             CREATE TEMP TABLE parent (id INTEGER PRIMARY KEY);
             CREATE TEMP TABLE child (id REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED);
             CREATE TEMP TRIGGER fail AFTER UPDATE ON main.head BEGIN INSERT INTO child VALUES (1); END;",
        )
        .unwrap();
    })
    .await;
    let write = |n| store.update::<_, (), _>(move |_| Ok((vec![Write::PutKey(key(n))], ())));
    for expected in ["FOREIGN KEY", "restart the service"] {
        let failed = write(2).await.unwrap_err();
        let UpdateError::Failed(error) = failed else { panic!("{failed:?}") };
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!((store.snapshot().version, store.snapshot().keys.size()), (1, 1));
    }
    on_connection(&store, |db| db.execute_batch("DROP TRIGGER fail").unwrap()).await;
    write(2).await.unwrap_err();
    store.close().await.unwrap();
    assert_eq!(reopen(&state).await.unwrap().snapshot().version, 1);
}

#[tokio::test]
async fn a_panic_reaches_the_caller_and_the_store_lives() {
    let (_state, store) = new_store().await;
    let other = store.clone();
    let panicked = tokio::spawn(async move { other.update::<(), (), _>(|_| panic!("bug of the caller")).await }).await;
    assert!(panicked.unwrap_err().is_panic());
    assert_eq!(put(&store, vec![Write::PutKey(key(1))]).await, 1);
}

#[tokio::test]
async fn an_update_ends_without_its_caller() {
    let (_state, store) = new_store().await;
    let mut update = Box::pin(store.update::<_, (), _>(|_| Ok((vec![Write::PutKey(key(1))], ()))));
    let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(update.as_mut().poll(cx).is_ready())).await;
    drop(update);
    // The next one is queued behind it.
    let (seen, _) = store.update::<_, (), _>(|s| Ok((vec![], s.keys.size()))).await.unwrap();
    assert_eq!(seen, 1, "polled: {polled}");
}

#[tokio::test]
async fn each_update_sees_the_one_before() {
    let (_state, store) = new_store().await;
    put(&store, vec![Write::PutKey(key(1))]).await;
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let add = |s: &Snapshot| {
                    let mut key = KeyRecord::clone(s.keys.get(&key_id(1)).unwrap());
                    key.policy_version += 1;
                    Ok((vec![Write::PutKey(key)], ()))
                };
                store.update::<_, (), _>(add).await.unwrap().1
            })
        })
        .collect();
    let mut versions = Vec::new();
    for task in tasks {
        versions.push(task.await.unwrap());
    }
    versions.sort_unstable();
    assert_eq!(versions, (2..=51).collect::<Vec<_>>());
    assert_eq!(store.snapshot().keys.get(&key_id(1)).unwrap().policy_version, 51);
}

#[tokio::test]
async fn create_and_open_refuse_the_wrong_place() {
    let state = tempfile::tempdir().unwrap();
    assert!(matches!(reopen(&state).await, Err(StoreError::Missing(_))));
    assert!(!database_path(state.path()).exists());

    let (state, store) = new_store().await;
    match Store::lock(state.path()) {
        Err(StoreError::Locked { pid, .. }) => assert_eq!(pid, std::process::id().to_string()),
        other => panic!("{other:?}"),
    }
    store.close().await.unwrap();
    let again = Store::create(Store::lock(state.path()).unwrap(), &FakeWrap::default(), None).await;
    assert!(matches!(again, Err(StoreError::Exists(_))));
    reopen(&state).await.unwrap();
}

#[tokio::test]
async fn the_log_of_a_lost_database_is_not_replayed_into_a_new_one() {
    let state = tempfile::tempdir().unwrap();
    let lock = Store::lock(state.path()).unwrap();
    std::fs::write(state.path().join("store/store.sqlite-wal"), b"old").unwrap();
    let refused = Store::create(lock, &FakeWrap::default(), None).await.err().unwrap();
    assert!(refused.to_string().contains("store.sqlite-wal"), "{refused}");
}

#[tokio::test]
async fn only_the_right_token_opens_the_store() {
    let (state, store) = new_store().await;
    drop(store);
    let open = |wrap: FakeWrap| {
        let lock = Store::lock(state.path()).unwrap();
        async move { Store::open(lock, &wrap).await.map(|_| ()) }
    };
    let same = FakeWrap::default().name();
    assert!(matches!(open(FakeWrap::new(&same, 2)).await, Err(StoreError::Wrap(_))));
    assert!(matches!(open(FakeWrap::new("other", 2)).await, Err(StoreError::Wrap(_))));
    // A clone of the token has another serial and the same key.
    open(FakeWrap::new("clone", 1)).await.unwrap();
}

#[tokio::test]
async fn an_officer_can_recover_the_store_key() {
    let officer = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let spki = AsDer::<PublicKeyX509Der>::as_der(&officer.public_key()).unwrap();
    let pem = pem("PUBLIC KEY", spki.as_ref());
    let state = tempfile::tempdir().unwrap();
    let lock = Store::lock(state.path()).unwrap();
    let store = Store::create(lock, &FakeWrap::default(), Some(&pem)).await.unwrap();
    let (id, derived) = (store.deployment_id().to_owned(), store.derive("x"));
    store.close().await.unwrap();

    let copy: Vec<u8> = raw(&state)
        .query_row("SELECT wrapped FROM wrapped_keys WHERE kind = 'recovery'", [], |row| row.get(0))
        .unwrap();
    let officer = OaepPrivateDecryptingKey::new(officer).unwrap();
    let mut out = vec![0; officer.min_output_size()];
    let key = officer.decrypt(&OAEP_SHA256_MGF1SHA256, &copy, &mut out, None).unwrap();
    let sealer = super::seal::Sealer::new(&id, SecretBytes::new(key.to_vec())).unwrap();
    assert_eq!(sealer.derive("x"), derived);
    reopen(&state).await.unwrap();
}

#[tokio::test]
async fn a_bad_recovery_key_makes_no_store() {
    for bad in ["", "no pem", &pem("CERTIFICATE", b"x"), &pem("PUBLIC KEY", b"x")] {
        let state = tempfile::tempdir().unwrap();
        let lock = Store::lock(state.path()).unwrap();
        let refused = Store::create(lock, &FakeWrap::default(), Some(bad)).await.err().unwrap();
        assert!(matches!(refused, StoreError::RecoveryKey(_)), "{bad}: {refused}");
        assert!(!database_path(state.path()).exists());
    }
}

/// What a crash right after the acknowledgement leaves: the files as they are then, log included.
#[tokio::test]
async fn an_acknowledged_write_is_in_the_files() {
    let (state, store) = new_store().await;
    for n in 1..=5 {
        put(&store, vec![Write::PutKey(key(n)), Write::PutAlias(alias("alias/last", key_id(n)))]).await;
        let crashed = copy_files(&state);
        let after = reopen(&crashed).await.unwrap();
        assert_same(&after.snapshot(), &store.snapshot());
    }
}

#[tokio::test]
async fn commits_are_synced() {
    let (_state, store) = new_store().await;
    let (mode, sync) = on_connection(&store, |db| {
        let pragma =
            |name: &str| db.query_row(&format!("PRAGMA {name}"), [], |r| r.get::<_, rusqlite::types::Value>(0));
        (pragma("journal_mode").unwrap(), pragma("synchronous").unwrap())
    })
    .await;
    assert_eq!(mode, rusqlite::types::Value::Text("wal".into()));
    assert_eq!(sync, rusqlite::types::Value::Integer(2));
}

#[test]
fn unknown_members_of_records_are_refused() {
    let mut json = serde_json::to_value(key(1)).unwrap();
    serde_json::from_value::<KeyRecord>(json.clone()).unwrap();
    json["surprise"] = 1.into();
    assert!(serde_json::from_value::<KeyRecord>(json).is_err());
}

async fn on_connection<T: Send + 'static>(
    store: &Store,
    call: impl FnOnce(&mut Connection) -> T + Send + 'static,
) -> T {
    store.inner.connection.call_raw(call).await.unwrap()
}

/// The database and its log, not the lock.
fn copy_files(state: &TempDir) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir(copy.path().join("store")).unwrap();
    for name in ["store/store.sqlite", "store/store.sqlite-wal"] {
        if state.path().join(name).exists() {
            std::fs::copy(state.path().join(name), copy.path().join(name)).unwrap();
        }
    }
    copy
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|c| std::str::from_utf8(c).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn any_write() -> impl Strategy<Value = Write> {
    let n = 0..6u16;
    let name = (0..5u16).prop_map(|n| format!("alias/{n}"));
    prop_oneof![
        (n.clone(), any::<u64>()).prop_map(|(n, v)| Write::PutKey(KeyRecord { policy_version: v, ..key(n) })),
        n.clone().prop_map(|n| Write::DeleteKey(key_id(n))),
        (name.clone(), n.clone()).prop_map(|(name, n)| Write::PutAlias(alias(&name, key_id(n)))),
        name.prop_map(|name| Write::DeleteAlias(account(), name.parse().unwrap())),
        (0..3u16).prop_map(|n| Write::PutUser(user(&format!("u{n}")))),
        (n.clone(), any::<bool>())
            .prop_map(|(n, active)| Write::PutAccessKey(AccessKeyRecord { active, ..access_key(n) })),
        (n.clone(), any::<u64>()).prop_map(|(n, v)| Write::PutUsage(usage(n, v))),
        n.clone().prop_map(|n| Write::DeleteUsage(key_id(n))),
        n.prop_map(|n| Write::PutTombstone(tombstone(n))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn what_is_reopened_is_what_was_there(
        transactions in prop::collection::vec(prop::collection::vec(any_write(), 1..8), 1..12),
    ) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async move {
            let (state, store) = new_store().await;
            let count = transactions.len() as u64;
            for writes in transactions {
                put(&store, writes).await;
            }
            let before = store.snapshot();
            assert_eq!(before.version, count);
            store.close().await.unwrap();
            assert_same(&reopen(&state).await.unwrap().snapshot(), &before);
        });
    }
}
