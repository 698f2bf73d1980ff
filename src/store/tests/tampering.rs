//! Each way to change the files is refused, and the message says where.

use super::*;

/// Four keys in four transactions, key 1 written again in a fifth; closed.
async fn filled() -> TempDir {
    let (state, store) = new_store().await;
    for n in 1..=4 {
        put(&store, vec![Write::PutKey(key(n)), Write::PutUsage(usage(n, 1))]).await;
    }
    put(&store, one_of_each(&store)).await;
    store.close().await.unwrap();
    state
}

async fn refusal(state: &TempDir) -> String {
    match reopen(state).await {
        Err(error @ StoreError::Tampered(_)) => error.to_string(),
        Err(error) => panic!("another error: {error}"),
        Ok(_) => panic!("opened"),
    }
}

fn pk(n: u16) -> String {
    key_id(n).to_string()
}

fn row(db: &Connection, table: &str, pk: &str) -> (i64, Vec<u8>) {
    db.query_row(&format!("SELECT revision, sealed FROM {table} WHERE pk = ?1"), [pk], |r| Ok((r.get(0)?, r.get(1)?)))
        .unwrap()
}

fn set_row(db: &Connection, table: &str, pk: &str, (revision, sealed): &(i64, Vec<u8>)) {
    let sql = format!("INSERT OR REPLACE INTO {table} (pk, revision, sealed) VALUES (?1, ?2, ?3)");
    db.execute(&sql, rusqlite::params![pk, revision, sealed]).unwrap();
}

#[track_caller]
fn assert_names(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[tokio::test]
async fn an_untouched_store_opens() {
    reopen(&filled().await).await.unwrap();
}

#[tokio::test]
async fn an_older_row_is_refused() {
    let (state, store) = new_store().await;
    put(&store, vec![Write::PutKey(key(1))]).await;
    let db = raw(&state);
    let old = row(&db, "keys", &pk(1));
    put(&store, vec![Write::PutKey(KeyRecord { lifecycle: Lifecycle::Disabled, ..key(1) })]).await;
    store.close().await.unwrap();
    let new = row(&db, "keys", &pk(1));
    set_row(&db, "keys", &pk(1), &old);
    assert_names(&refusal(&state).await, &["changed behind the service", "table `keys`", "another revision"]);
    // The older content under the newer revision.
    set_row(&db, "keys", &pk(1), &(new.0, old.1));
    assert_names(&refusal(&state).await, &["table `keys`", &pk(1), "does not open"]);
    set_row(&db, "keys", &pk(1), &new);
    reopen(&state).await.unwrap();
}

#[tokio::test]
async fn a_removed_row_is_refused() {
    for table in ["deployment", "keys", "aliases", "users", "access_keys", "usage", "tombstones"] {
        let state = filled().await;
        let sql = format!("DELETE FROM {table} WHERE rowid = (SELECT max(rowid) FROM {table})");
        assert_eq!(raw(&state).execute(&sql, []).unwrap(), 1);
        assert_names(&refusal(&state).await, &[&format!("table `{table}` has"), "where the head says"]);
    }
}

#[tokio::test]
async fn swapped_rows_are_refused() {
    let state = filled().await;
    let db = raw(&state);
    let (two, three) = (row(&db, "keys", &pk(2)), row(&db, "keys", &pk(3)));
    set_row(&db, "keys", &pk(2), &three);
    set_row(&db, "keys", &pk(3), &two);
    assert_names(&refusal(&state).await, &["table `keys`", "does not open"]);
    // Content alone.
    set_row(&db, "keys", &pk(2), &(two.0, three.1));
    set_row(&db, "keys", &pk(3), &(three.0, two.1));
    assert_names(&refusal(&state).await, &["table `keys`", "does not open"]);
}

#[tokio::test]
async fn a_row_of_another_table_is_refused() {
    let state = filled().await;
    let db = raw(&state);
    let usage = row(&db, "usage", &pk(2));
    set_row(&db, "keys", &pk(2), &usage);
    assert_names(&refusal(&state).await, &["table `keys`", &pk(2)]);
}

#[tokio::test]
async fn a_row_of_another_deployment_is_refused() {
    let (state, other) = (filled().await, filled().await);
    set_row(&raw(&state), "keys", &pk(2), &row(&raw(&other), "keys", &pk(2)));
    assert_names(&refusal(&state).await, &["table `keys`", &pk(2), "does not open"]);
}

#[tokio::test]
async fn an_added_row_is_refused() {
    let (state, store) = new_store().await;
    put(&store, vec![Write::PutKey(key(1))]).await;
    let db = raw(&state);
    let destroyed = row(&db, "keys", &pk(1));
    put(&store, vec![Write::DeleteKey(key_id(1))]).await;
    store.close().await.unwrap();
    set_row(&db, "keys", &pk(1), &destroyed);
    assert_names(&refusal(&state).await, &["table `keys` has 1 rows where the head says 0"]);
}

#[tokio::test]
async fn a_row_newer_than_the_head_is_refused() {
    let state = filled().await;
    let db = raw(&state);
    let old_head: Vec<u8> = db.query_row("SELECT sealed FROM head", [], |r| r.get(0)).unwrap();
    let store = reopen(&state).await.unwrap();
    put(&store, vec![Write::PutKey(key(2))]).await;
    store.close().await.unwrap();
    db.execute("UPDATE head SET sealed = ?1", [old_head]).unwrap();
    assert_names(&refusal(&state).await, &["table `keys`", &pk(2), "newer than the head"]);
}

#[tokio::test]
async fn a_missing_or_changed_head_is_refused() {
    let state = filled().await;
    let db = raw(&state);
    let head: Vec<u8> = db.query_row("SELECT sealed FROM head", [], |r| r.get(0)).unwrap();
    for at in [0, 11, 12, head.len() / 2, head.len() - 1] {
        let mut changed = head.clone();
        changed[at] ^= 1;
        db.execute("UPDATE head SET sealed = ?1", [changed]).unwrap();
        assert_names(&refusal(&state).await, &["the head row does not open"]);
    }
    db.execute("DELETE FROM head", []).unwrap();
    assert_names(&refusal(&state).await, &["the head row is missing"]);
}

#[tokio::test]
async fn each_changed_byte_of_a_row_is_refused() {
    let state = filled().await;
    let db = raw(&state);
    let good = row(&db, "usage", &pk(2));
    for at in 0..good.1.len() {
        let mut bad = good.clone();
        bad.1[at] ^= 0x40;
        set_row(&db, "usage", &pk(2), &bad);
        assert_names(&refusal(&state).await, &["table `usage`", &pk(2), "does not open"]);
    }
    for bad in [(good.0 + 1, good.1.clone()), (-1, good.1.clone()), (good.0, vec![]), (good.0, good.1[1..].to_vec())] {
        set_row(&db, "usage", &pk(2), &bad);
        assert_names(&refusal(&state).await, &["table `usage`", &pk(2)]);
    }
    set_row(&db, "usage", &pk(2), &good);
    reopen(&state).await.unwrap();
}

#[tokio::test]
async fn a_renamed_row_is_refused() {
    let state = filled().await;
    raw(&state).execute("UPDATE keys SET pk = ?1 WHERE pk = ?2", [pk(7), pk(2)]).unwrap();
    assert_names(&refusal(&state).await, &["table `keys`", &pk(7), "does not open"]);
}

#[tokio::test]
async fn changed_copies_of_the_store_key_are_refused() {
    let state = filled().await;
    let db = raw(&state);
    db.execute("INSERT INTO wrapped_keys VALUES ('attacker', x'00', 'token')", []).unwrap();
    assert_names(&refusal(&state).await, &["wrapped_keys"]);
    db.execute("DELETE FROM wrapped_keys", []).unwrap();
    assert!(matches!(reopen(&state).await, Err(StoreError::Wrap(_))));
}

#[tokio::test]
async fn another_deployment_id_opens_nothing() {
    let state = filled().await;
    raw(&state).execute("UPDATE meta SET value = ?1", ["00".repeat(16)]).unwrap();
    assert!(matches!(reopen(&state).await, Err(StoreError::Wrap(_))));
    raw(&state).execute("DELETE FROM meta", []).unwrap();
    assert_names(&refusal(&state).await, &["deployment id is missing"]);
}

#[tokio::test]
async fn foreign_schemas_are_refused() {
    let state = filled().await;
    let db = raw(&state);
    db.execute_batch("CREATE TRIGGER t AFTER UPDATE ON head BEGIN DELETE FROM usage; END").unwrap();
    assert_names(&refusal(&state).await, &["schema"]);
    db.execute_batch("DROP TRIGGER t; PRAGMA user_version = 99").unwrap();
    assert!(matches!(reopen(&state).await, Err(StoreError::NewerSchema { found: 99, .. })));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let state = filled().await;
    std::fs::write(database_path(state.path()), vec![0x55; 8192]).unwrap();
    refusal(&state).await;
    std::fs::write(database_path(state.path()), b"").unwrap();
    refusal(&state).await;
}

/// Right in itself, so it opens; its version is what the journal's last one convicts.
#[tokio::test]
async fn an_older_copy_of_all_shows_an_older_version() {
    let (state, store) = new_store().await;
    put(&store, vec![Write::PutKey(key(1))]).await;
    let old = copy_files(&state);
    put(&store, vec![Write::PutKey(key(2))]).await;
    let newest = store.snapshot().version;
    let back = reopen(&old).await.unwrap();
    assert!(back.snapshot().version < newest);
    assert!(back.snapshot().keys.get(&key_id(2)).is_none());
}

#[tokio::test]
async fn a_head_changed_under_the_running_store_is_noticed_at_the_next_write() {
    let (state, store) = new_store().await;
    put(&store, vec![Write::PutKey(key(1))]).await;
    let db = raw(&state);
    let old_head: Vec<u8> = db.query_row("SELECT sealed FROM head", [], |r| r.get(0)).unwrap();
    put(&store, vec![Write::PutKey(key(1))]).await;
    db.execute("UPDATE head SET sealed = ?1", [old_head]).unwrap();
    let failed = store.update::<_, (), _>(|_| Ok((vec![Write::PutKey(key(2))], ()))).await.unwrap_err();
    assert!(matches!(failed, UpdateError::Failed(StoreError::Tampered(_))), "{failed:?}");
    store.close().await.unwrap();
    refusal(&state).await;
}

#[tokio::test]
async fn a_row_changed_back_under_the_running_store_is_noticed_at_the_next_start() {
    let (state, store) = new_store().await;
    put(&store, vec![Write::PutKey(key(1))]).await;
    let db = raw(&state);
    let old_row = row(&db, "keys", &pk(1));
    put(&store, vec![Write::PutKey(key(1))]).await;
    set_row(&db, "keys", &pk(1), &old_row);
    put(&store, vec![Write::PutKey(key(1))]).await;
    store.close().await.unwrap();
    assert_names(&refusal(&state).await, &["table `keys`"]);
}
