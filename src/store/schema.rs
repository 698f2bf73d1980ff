//! The SQL schema and how it moves on. `PRAGMA user_version` is its number.

use tokio_rusqlite::rusqlite::{self, Connection, TransactionBehavior};

use super::StoreError;

/// Each entry takes the schema one version on; the first makes it. Entries are never edited once released.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE meta (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL) STRICT;
    CREATE TABLE wrapped_keys (name TEXT PRIMARY KEY NOT NULL, wrapped BLOB NOT NULL, kind TEXT NOT NULL) STRICT;
    CREATE TABLE head (id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1), sealed BLOB NOT NULL) STRICT;
    CREATE TABLE deployment (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
    CREATE TABLE keys (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
    CREATE TABLE aliases (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
    CREATE TABLE users (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
    CREATE TABLE access_keys (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
    CREATE TABLE usage (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
    CREATE TABLE tombstones (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
    CREATE TABLE applied (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
",
    "
    CREATE TABLE key_stores (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
    CREATE TABLE tokens (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
    CREATE TABLE rotations (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
",
    "
    CREATE TABLE accounts (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
    CREATE TABLE units (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
    CREATE TABLE groups (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
    CREATE TABLE roles (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
    CREATE TABLE policies (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
    CREATE TABLE oidc_providers (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
    CREATE TABLE services (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
    CREATE TABLE session_keys (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
    CREATE TABLE revoked_sessions (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
    CREATE TABLE grants (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
    ",
    "
    CREATE TABLE audit_keys (pk TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
    ",
];

/// Makes the schema in an empty database.
pub fn create(db: &mut Connection) -> Result<(), StoreError> {
    migrate(db, MIGRATIONS)
}

/// Brings an existing store to the newest schema. A newer one, and one with foreign objects in it, is refused.
pub fn upgrade(db: &mut Connection) -> Result<(), StoreError> {
    if version(db)? == 0 {
        return Err(StoreError::Tampered("the database has no schema".to_owned()));
    }
    migrate(db, MIGRATIONS)
}

/// Settings of the connection to the live database.
pub fn configure(db: &Connection) -> Result<(), StoreError> {
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(StoreError::Sql(format!("the file system allows no write-ahead log, only `{mode}`")));
    }
    // FULL: the log is synced at each commit, so an acknowledged write survives a power cut.
    db.execute_batch("PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF; PRAGMA cache_size = -2048;")?;
    db.set_prepared_statement_cache_capacity(32);
    Ok(())
}

fn migrate(db: &mut Connection, migrations: &[&str]) -> Result<(), StoreError> {
    let found = version(db)?;
    let known = i64::try_from(migrations.len()).expect("the list of migrations is short");
    if found > known {
        return Err(StoreError::NewerSchema { found, known });
    }
    let done = usize::try_from(found)
        .map_err(|_| StoreError::Tampered(format!("the database says that its schema is {found}")))?;
    let (old, new) = migrations.split_at(done);
    refuse_foreign_objects(db, old)?;
    if new.is_empty() {
        return Ok(());
    }
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for sql in new {
        tx.execute_batch(sql)?;
    }
    tx.pragma_update(None, "user_version", known)?;
    tx.commit()?;
    Ok(())
}

fn version(db: &Connection) -> Result<i64, StoreError> {
    Ok(db.query_row("PRAGMA user_version", [], |row| row.get(0))?)
}

/// A trigger or a view in the file would act on what is written here, so tables must be exactly ours.
fn refuse_foreign_objects(db: &Connection, migrations: &[&str]) -> Result<(), StoreError> {
    let expected = Connection::open_in_memory()?;
    for sql in migrations {
        expected.execute_batch(sql)?;
    }
    if objects(db)? != objects(&expected)? {
        return Err(StoreError::Tampered("the database's schema is not the one that was made".to_owned()));
    }
    Ok(())
}

fn objects(db: &Connection) -> rusqlite::Result<Vec<String>> {
    db.prepare("SELECT quote(type) || quote(name) || quote(tbl_name) || quote(sql) FROM sqlite_schema ORDER BY 1")?
        .query_map([], |row| row.get(0))?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEXT: &str = "ALTER TABLE meta ADD COLUMN note TEXT; CREATE TABLE next (pk TEXT) STRICT;";

    fn made() -> Connection {
        let mut db = Connection::open_in_memory().unwrap();
        create(&mut db).unwrap();
        db
    }

    #[test]
    fn migrations_keep_the_data_and_run_once() {
        let mut db = made();
        db.execute("INSERT INTO meta (name, value) VALUES ('deployment', 'x')", []).unwrap();
        let list = [MIGRATIONS, &[NEXT]].concat();
        migrate(&mut db, &list).unwrap();
        assert_eq!(version(&db).unwrap(), list.len() as i64);
        let kept: (String, Option<String>) =
            db.query_row("SELECT value, note FROM meta", [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
        assert_eq!(kept, ("x".to_owned(), None));
        migrate(&mut db, &list).unwrap();
    }

    #[test]
    fn a_failed_migration_changes_nothing() {
        let mut db = made();
        let list = [MIGRATIONS, &[NEXT, "CREATE TABLE meta (x TEXT)"]].concat();
        assert!(matches!(migrate(&mut db, &list), Err(StoreError::Sql(_))));
        assert_eq!(version(&db).unwrap(), MIGRATIONS.len() as i64);
        upgrade(&mut db).unwrap();
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let mut db = made();
        migrate(&mut db, &[MIGRATIONS, &[NEXT]].concat()).unwrap();
        let newer = MIGRATIONS.len() as i64 + 1;
        assert!(
            matches!(upgrade(&mut db), Err(StoreError::NewerSchema { found, known }) if found == newer && known == newer - 1)
        );
    }

    #[test]
    fn foreign_objects_are_refused() {
        for sql in [
            "CREATE TRIGGER t AFTER INSERT ON keys BEGIN DELETE FROM usage; END",
            "CREATE VIEW v AS SELECT * FROM keys",
            "DROP TABLE usage",
            "PRAGMA user_version = -1",
            "PRAGMA user_version = 0",
        ] {
            let mut db = made();
            db.execute_batch(sql).unwrap();
            assert!(matches!(upgrade(&mut db), Err(StoreError::Tampered(_))), "{sql}");
        }
    }
}
