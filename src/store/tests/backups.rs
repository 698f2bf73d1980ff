//! Backup of a running store, and the two ways back.

use super::*;

#[track_caller]
fn assert_unfit(result: Result<BackupFacts, StoreError>, part: &str) {
    match result {
        Err(error @ StoreError::Backup { .. }) => assert!(error.to_string().contains(part), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_backup_under_writes_is_whole() {
    let (state, store) = new_store().await;
    put(&store, one_of_each(&store)).await;
    let writer = store.clone();
    let writing = tokio::spawn(async move {
        for n in 2..120 {
            // Always the pair: a copy torn between them would show.
            put(&writer, vec![Write::PutKey(key(n)), Write::PutUsage(usage(n, 1))]).await;
        }
    });
    let mut backups = Vec::new();
    for n in 0..5 {
        let path = state.path().join(format!("backup-{n}"));
        backups.push(store.backup(&path).await.unwrap());
        tokio::task::yield_now().await;
    }
    writing.await.unwrap();
    for facts in backups {
        assert_eq!(std::fs::metadata(&facts.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&facts.path).unwrap().len(), facts.bytes);
        let new = tempfile::tempdir().unwrap();
        let lock = Store::lock(new.path()).unwrap();
        let restored = Store::restore_new(lock, &facts.path, &FakeWrap::default(), 0, i64::MIN).await.unwrap();
        let snapshot = restored.snapshot();
        assert_eq!(snapshot.version, facts.version + 1);
        assert_eq!((snapshot.keys.size() as u64, facts.aliases), (facts.keys, 1));
        assert_eq!(snapshot.keys.size(), snapshot.usage.size());
        assert_eq!(facts.keys, facts.version);
    }
    // Nothing but the backups is left beside them.
    let mut names: Vec<_> =
        std::fs::read_dir(state.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["backup-0", "backup-1", "backup-2", "backup-3", "backup-4", "store"]);
}

#[tokio::test]
async fn a_backup_overwrites_nothing() {
    let (state, store) = new_store().await;
    let path = state.path().join("there");
    std::fs::write(&path, b"precious").unwrap();
    let refused = store.backup(&path).await.unwrap_err();
    assert!(refused.to_string().contains("exists already"), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    assert!(store.backup(&state.path().join("no/such/dir")).await.is_err());
}

#[tokio::test]
async fn restore_into_the_running_store() {
    let (state, store) = new_store().await;
    put(&store, one_of_each(&store)).await;
    put(&store, vec![Write::PutKey(key(2)), Write::PutAlias(alias("alias/two", key_id(2)))]).await;
    let then = store.snapshot();
    let path = state.path().join("backup");
    let facts = store.backup(&path).await.unwrap();
    assert_eq!((facts.version, facts.keys, facts.aliases), (2, 2, 2));

    put(&store, vec![Write::PutKey(key(3)), Write::DeleteKey(key_id(1)), Write::PutUsage(usage(1, 5000))]).await;
    put(&store, vec![Write::PutUsage(usage(2, 70)), Write::PutUsage(usage(3, 80))]).await;
    put(&store, vec![Write::PutAlias(alias("alias/app", key_id(3))), Write::PutTombstone(tombstone(1))]).await;
    let before = store.snapshot();
    let restored = store.restore(&path, &FakeWrap::default(), 41, i64::MIN).await.unwrap();
    assert_eq!((restored.version, restored.keys), (2, 2));

    let now = store.snapshot();
    assert_eq!(now.version, 42);
    assert_eq!(before.version, 5, "readers keep what they hold");
    assert!(now.keys == then.keys && now.aliases == then.aliases && now.aliases_of == then.aliases_of);
    assert_eq!(now.deployment, then.deployment);
    // Counts never go down; a key that is gone has none.
    let count = |n| now.usage.get(&key_id(n)).map(|u| u.reserved);
    assert_eq!((count(1), count(2), count(3)), (Some(5000), Some(70), None));
    assert_eq!(store.tombstone(key_id(1)).await.unwrap(), None);
    assert_eq!(store.tombstone(key_id(9)).await.unwrap(), Some(tombstone(9)));

    assert_eq!(put(&store, vec![Write::PutKey(key(4))]).await, 43);
    let now = store.snapshot();
    store.close().await.unwrap();
    assert_same(&reopen(&state).await.unwrap().snapshot(), &now);
}

/// A key that was being made at the time of the backup may be somebody's key now, and a deletion may have been cancelled.
#[tokio::test]
async fn what_was_under_way_at_the_time_of_the_backup() {
    let (state, store) = new_store().await;
    let with = |n, lifecycle| Write::PutKey(KeyRecord { lifecycle, ..key(n) });
    let pending = |deletion_date| Lifecycle::PendingDeletion { deletion_date };
    put(&store, vec![with(1, Lifecycle::Creating), with(2, pending(100)), with(3, pending(900))]).await;
    put(&store, vec![with(4, Lifecycle::Deleting), with(5, Lifecycle::Enabled)]).await;
    let path = state.path().join("backup");
    store.backup(&path).await.unwrap();
    put(&store, vec![with(1, Lifecycle::Enabled), with(2, Lifecycle::Disabled)]).await;

    let check = |snapshot: &Snapshot| {
        let found: Vec<_> = (1..=5).map(|n| snapshot.keys.get(&key_id(n)).map(|r| r.lifecycle.clone())).collect();
        let expected =
            [None, Some(pending(500)), Some(pending(900)), Some(Lifecycle::Deleting), Some(Lifecycle::Enabled)];
        assert_eq!(found, expected);
    };
    store.restore(&path, &FakeWrap::default(), 0, 500).await.unwrap();
    check(&store.snapshot());
    store.close().await.unwrap();
    check(&reopen(&state).await.unwrap().snapshot());

    let new = tempfile::tempdir().unwrap();
    let lock = Store::lock(new.path()).unwrap();
    let restored = Store::restore_new(lock, &path, &FakeWrap::default(), 0, 500).await.unwrap();
    check(&restored.snapshot());
    restored.close().await.unwrap();
    check(&reopen(&new).await.unwrap().snapshot());
}

/// `token replace` came after the backup: its serial is the one that is there.
#[tokio::test]
async fn a_restore_keeps_what_is_known_of_the_tokens() {
    let (state, store) = new_store().await;
    let token = |name: &str, serial: &str| TokenRecord {
        name: name.into(),
        cluster: format!("cluster-{name}").parse().unwrap(),
        serial: serial.into(),
        first_seen: 1,
    };
    put(&store, vec![Write::PutToken(token("aaaaaaaaaaa", "old")), Write::PutToken(token("bbbbbbbbbbb", "b"))]).await;
    let path = state.path().join("backup");
    store.backup(&path).await.unwrap();
    put(&store, vec![Write::PutToken(token("aaaaaaaaaaa", "new")), Write::PutToken(token("ccccccccccc", "c"))]).await;
    store.restore(&path, &FakeWrap::default(), 0, i64::MIN).await.unwrap();
    let serials: Vec<_> = store.snapshot().tokens.values().map(|r| r.serial.clone()).collect();
    assert_eq!(serials, ["new", "b", "c"]);
    let before = store.snapshot();
    store.close().await.unwrap();
    assert_same(&reopen(&state).await.unwrap().snapshot(), &before);
}

#[tokio::test]
async fn a_restore_keeps_the_keys_of_the_log() {
    use super::identities::audit_key;
    let (state, store) = new_store().await;
    put(&store, vec![Write::PutAuditKey(audit_key(1, AuditKeyStage::Current))]).await;
    put(&store, vec![Write::PutAuditKey(audit_key(2, AuditKeyStage::Made))]).await;
    let path = state.path().join("backup");
    store.backup(&path).await.unwrap();
    let rotated = [(1, AuditKeyStage::Retired), (2, AuditKeyStage::Current)]
        .map(|(n, stage)| Write::PutAuditKey(audit_key(n, stage)));
    put(&store, rotated.into()).await;
    let stages =
        |store: &Store| store.snapshot().audit_keys.values().map(|key| key.stage).collect::<Vec<AuditKeyStage>>();
    store.restore(&path, &FakeWrap::default(), 0, i64::MIN).await.unwrap();
    assert_eq!(stages(&store), [AuditKeyStage::Retired, AuditKeyStage::Current]);
    store.close().await.unwrap();

    // In place of a missing store there is the backup alone: what was being made then may sign since, and is not touched.
    std::fs::remove_dir_all(state.path().join("store")).unwrap();
    let lock = Store::lock(state.path()).unwrap();
    let store = Store::restore_new(lock, &path, &FakeWrap::default(), 0, i64::MIN).await.unwrap();
    assert_eq!(stages(&store), [AuditKeyStage::Current, AuditKeyStage::Abandoned]);
}

#[tokio::test]
async fn a_restored_count_is_the_higher_of_both() {
    let (state, store) = new_store().await;
    put(&store, vec![Write::PutKey(key(1)), Write::PutUsage(usage(1, 900))]).await;
    let path = state.path().join("backup");
    store.backup(&path).await.unwrap();
    put(&store, vec![Write::PutUsage(usage(1, 100))]).await;
    store.restore(&path, &FakeWrap::default(), 0, i64::MIN).await.unwrap();
    assert_eq!(store.snapshot().usage.get(&key_id(1)).unwrap().reserved, 900);
    assert_eq!(store.snapshot().version, 3);
}

#[tokio::test]
async fn restore_in_place_of_a_missing_store() {
    let (state, store) = new_store().await;
    put(&store, one_of_each(&store)).await;
    let then = store.snapshot();
    let path = state.path().join("backup");
    store.backup(&path).await.unwrap();
    let derived = store.derive("pages");
    store.close().await.unwrap();

    let lock = Store::lock(state.path()).unwrap();
    let refused = Store::restore_new(lock, &path, &FakeWrap::default(), 0, i64::MIN).await.err().unwrap();
    assert!(matches!(refused, StoreError::Exists(_)), "{refused}");

    std::fs::remove_file(database_path(state.path())).unwrap();
    let lock = Store::lock(state.path()).unwrap();
    let store = Store::restore_new(lock, &path, &FakeWrap::default(), 17, i64::MIN).await.unwrap();
    assert_eq!(store.snapshot().version, 18);
    assert!(store.snapshot().keys == then.keys);
    assert_eq!(store.derive("pages"), derived);
    assert_eq!(put(&store, vec![Write::PutKey(key(2))]).await, 19);
    store.close().await.unwrap();
    assert_eq!(reopen(&state).await.unwrap().snapshot().keys.size(), 2);
}

#[tokio::test]
async fn a_bad_backup_is_refused_and_nothing_changes() {
    let (state, store) = new_store().await;
    put(&store, one_of_each(&store)).await;
    let wrap = FakeWrap::default();
    let good = state.path().join("good");
    store.backup(&good).await.unwrap();
    put(&store, vec![Write::PutKey(key(2))]).await;
    let before = store.snapshot();

    let bad = state.path().join("bad");
    let spoilt = |sql: &str| {
        std::fs::copy(&good, &bad).unwrap();
        Connection::open(&bad).unwrap().execute_batch(sql).unwrap();
    };
    for (sql, part) in [
        ("UPDATE keys SET sealed = zeroblob(80)", "table `keys`"),
        ("DELETE FROM tombstones", "table `tombstones` has 0 rows"),
        ("DELETE FROM head", "head row is missing"),
        ("PRAGMA user_version = 99", "newer"),
        ("PRAGMA user_version = 0", "no schema"),
        ("DELETE FROM wrapped_keys", "does not open"),
        ("CREATE VIEW v AS SELECT 1", "schema"),
    ] {
        spoilt(sql);
        assert_unfit(store.restore(&bad, &wrap, 0, i64::MIN).await, part);
    }
    for bytes in [vec![], b"no database".repeat(500), std::fs::read(&good).unwrap()[..8192].to_vec()] {
        std::fs::write(&bad, bytes).unwrap();
        assert!(matches!(store.restore(&bad, &wrap, 0, i64::MIN).await, Err(StoreError::Backup { .. })));
    }
    assert_unfit(store.restore(&state.path().join("none"), &wrap, 0, i64::MIN).await, "none");
    assert_unfit(
        store.restore(&good, &FakeWrap::new(&wrap.name(), 3), 0, i64::MIN).await,
        "does not open under this token",
    );

    assert_same(&store.snapshot(), &before);
    assert_eq!(put(&store, vec![Write::PutKey(key(3))]).await, before.version + 1);
    let before = store.snapshot();
    store.close().await.unwrap();
    assert_same(&reopen(&state).await.unwrap().snapshot(), &before);
}

#[tokio::test]
async fn a_bad_backup_makes_no_store() {
    let state = tempfile::tempdir().unwrap();
    let bad = state.path().join("bad");
    std::fs::write(&bad, b"no database".repeat(500)).unwrap();
    let lock = Store::lock(state.path()).unwrap();
    assert!(Store::restore_new(lock, &bad, &FakeWrap::default(), 0, i64::MIN).await.is_err());
    assert!(!database_path(state.path()).exists());
}

#[tokio::test]
async fn a_backup_of_another_deployment_is_refused() {
    let (_one, store) = new_store().await;
    let (two, other) = new_store().await;
    let path = two.path().join("backup");
    other.backup(&path).await.unwrap();
    assert_unfit(store.restore(&path, &FakeWrap::default(), 0, i64::MIN).await, other.deployment_id());
}

/// As after a change of the store key: same deployment, same token key, rows sealed under another store key.
#[tokio::test]
async fn a_backup_under_an_older_store_key_is_sealed_anew() {
    let (state, store) = new_store().await;
    put(&store, vec![Write::PutKey(key(1))]).await;
    let path = rekeyed_copy(&state, &store).await;
    let derived = store.derive("pages");
    store.restore(&path, &FakeWrap::default(), 0, i64::MIN).await.unwrap();
    assert_eq!(store.snapshot().keys.size(), 2);
    assert_eq!(store.derive("pages"), derived);
    let before = store.snapshot();
    store.close().await.unwrap();
    assert_same(&reopen(&state).await.unwrap().snapshot(), &before);
}

async fn rekeyed_copy(state: &TempDir, store: &Store) -> PathBuf {
    use super::super::{envelope::Envelope, files, head::Head, schema, sql::Batch};
    let id = store.deployment_id().to_owned();
    let (mut envelope, _) = Envelope::seal_new(&FakeWrap::default(), None).await.unwrap();
    envelope.rewrap(&id, &FakeWrap::default(), &SecretBytes::new(vec![0x77; 32])).await;
    let sealer = envelope.open(&FakeWrap::default()).await.unwrap();
    assert_ne!(sealer.derive("pages"), store.derive("pages"));
    let mut db = Connection::open_in_memory().unwrap();
    schema::create(&mut db).unwrap();
    envelope.write(&db).unwrap();
    let mut batch = Batch::begin(&db, &sealer, Head::first(envelope.fingerprint()), 1);
    for n in 1..=2 {
        batch.write(&Write::PutKey(key(n))).unwrap();
    }
    batch.write(&Write::PutAlias(alias("alias/a", key_id(1)))).unwrap();
    batch.finish().unwrap();
    let path = state.path().join("older-key");
    files::write_copy(&db, &path, |_| Ok(())).unwrap();
    path
}
