//! Backups of the running store, and the ways back: into a running store, and in place of a missing one.

use std::path::{Path, PathBuf};

use tokio_rusqlite::Connection;
use tokio_rusqlite::rusqlite::{self, OpenFlags, backup, backup::StepResult};

use super::envelope::Envelope;
use super::handle::{Key, on_thread, scratch};
use super::seal::Sealer;
use super::sql::{self, Batch, Loaded};
use super::{
    AuditKeyRecord, AuditKeyStage, BackupFacts, KeyRecord, Lifecycle, Snapshot, Store, StoreError, StoreLock,
    UsageRecord, WrapKey, Write, files, schema,
};

impl Store {
    /// A consistent copy of the running store into `path` (0600, fsynced, refuses to overwrite). Writers go on meanwhile;
    /// the copy is read back and checked whole before it gets its name.
    pub async fn backup(&self, path: &Path) -> Result<BackupFacts, StoreError> {
        let inner = self.inner.clone();
        let path = path.to_owned();
        let work = move || {
            let live = open_read_only(inner.lock.database())?;
            let mut facts = None;
            let bytes = files::write_copy(&live, &path, |staged| {
                facts = Some(sql::load(&mut open_read_only(staged)?, &inner.sealer)?.snapshot);
                Ok(())
            })?;
            let snapshot = facts.unwrap_or_default();
            Ok(facts_of(&snapshot, path, bytes))
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| StoreError::Io(format!("backup: {e}")))?
    }

    /// Replaces the contents by a backup's after checking that it opens whole under this store's wrap key; the version
    /// becomes `max(current, the backup's, at_least) + 1`, so that the restored store is newer than anything the journal
    /// saw. Counts of encryptions never go down, what is known of the tokens stays, and what was under way when the backup was
    /// made is settled (`brought_back`). Returns the facts of the backup.
    ///
    /// One transaction: a crash leaves the old contents or the new.
    pub async fn restore(
        &self,
        path: &Path,
        wrap: &dyn WrapKey,
        at_least: u64,
        no_deletion_before: i64,
    ) -> Result<BackupFacts, StoreError> {
        let (_, sealer, mut loaded, bytes) = read_backup(path, wrap).await?;
        if sealer.deployment() != self.deployment_id() {
            let reason =
                format!("it is of deployment `{}`, this store is `{}`", sealer.deployment(), self.deployment_id());
            return Err(StoreError::Backup { path: path.to_owned(), reason });
        }
        let facts = facts_of(&loaded.snapshot, path.to_owned(), bytes);
        let at_least = at_least.max(loaded.snapshot.version);
        let inner = self.inner.clone();
        on_thread(&self.inner.connection, move |db| {
            // Rows are sealed anew under this store's key: the backup's may be an older one.
            inner.transaction(db, at_least, |batch, live| {
                keep_counts(&mut loaded.snapshot, live);
                keep_tokens(&mut loaded.snapshot, live);
                for write in brought_back(&loaded.snapshot, no_deletion_before) {
                    loaded.snapshot.apply(write);
                }
                keep_audit_keys(&mut loaded.snapshot, live);
                replace(batch, &loaded)?;
                Ok(loaded.snapshot)
            })
        })
        .await?;
        Ok(facts)
    }

    /// Takes the version past `at_least` without changing a record: an older store that was accepted is from then on newer
    /// than anything that the journal saw. Returns the new version.
    pub async fn advance(&self, at_least: u64) -> Result<u64, StoreError> {
        let inner = self.inner.clone();
        on_thread(&self.inner.connection, move |db| {
            inner.transaction(db, at_least, |_, live| Ok(Snapshot::clone(live)))
        })
        .await?;
        Ok(self.snapshot().version)
    }

    /// Puts a backup in place of a missing store, at version `max(the backup's, at_least) + 1`, and opens it.
    ///
    /// What was reserved for encryptions after the backup is not in it: the caller raises the counts.
    pub async fn restore_new(
        lock: StoreLock,
        path: &Path,
        wrap: &dyn WrapKey,
        at_least: u64,
        no_deletion_before: i64,
    ) -> Result<Store, StoreError> {
        files::require_vacant(lock.database())?;
        let (scratch, sealer, loaded, _) = read_backup(path, wrap).await?;
        let database = lock.database().to_owned();
        let sealer = on_thread(&scratch, move |db| {
            let version = loaded.head.next_version(at_least)?;
            let tx = db.transaction()?;
            let mut batch = Batch::begin(&tx, &sealer, loaded.head, version);
            brought_back(&loaded.snapshot, no_deletion_before).iter().try_for_each(|write| batch.write(write))?;
            batch.finish()?;
            tx.commit()?;
            files::write_copy(db, &database, |_| Ok(()))?;
            Ok(sealer)
        })
        .await?;
        Store::open_with(lock, Key::Known(Box::new(sealer))).await
    }
}

/// Reads a backup into memory, so that what was checked is what is used, and checks it whole.
async fn read_backup(path: &Path, wrap: &dyn WrapKey) -> Result<(Connection, Sealer, Loaded, u64), StoreError> {
    let unfit = |error: StoreError| StoreError::Backup { path: path.to_owned(), reason: error.to_string() };
    let bytes = std::fs::metadata(path).map_err(|e| unfit(StoreError::Io(e.to_string())))?.len();
    let scratch = scratch().await?;
    let from = path.to_owned();
    let read = on_thread(&scratch, move |db| {
        if backup::Backup::new(&open_read_only(&from)?, db)?.step(-1)? != StepResult::Done {
            return Err(StoreError::Sql("somebody else is using the file".to_owned()));
        }
        schema::upgrade(db)?;
        Envelope::read(db)
    });
    let sealer = read.await.map_err(unfit)?.open(wrap).await.map_err(unfit)?;
    let checked = on_thread(&scratch, move |db| {
        let loaded = sql::load(db, &sealer)?;
        Ok((sealer, loaded))
    });
    let (sealer, loaded) = checked.await.map_err(unfit)?;
    Ok((scratch, sealer, loaded, bytes))
}

fn replace(batch: &mut Batch<'_>, new: &Loaded) -> Result<(), StoreError> {
    batch.clear()?;
    let snapshot = &new.snapshot;
    if let Some(record) = &snapshot.deployment {
        batch.put(record.as_ref())?;
    }
    snapshot.keys.values().try_for_each(|r| batch.put(r.as_ref()))?;
    snapshot.aliases.values().try_for_each(|r| batch.put(r.as_ref()))?;
    snapshot.users.values().try_for_each(|r| batch.put(r.as_ref()))?;
    snapshot.access_keys.values().try_for_each(|r| batch.put(r.as_ref()))?;
    snapshot.usage.values().try_for_each(|r| batch.put(r.as_ref()))?;
    snapshot.key_stores.values().try_for_each(|r| batch.put(r.as_ref()))?;
    snapshot.tokens.values().try_for_each(|r| batch.put(r.as_ref()))?;
    snapshot.rotations.values().try_for_each(|r| batch.put(r.as_ref()))?;
    snapshot.accounts.values().try_for_each(|r| batch.put(r.as_ref()))?;
    snapshot.units.values().try_for_each(|r| batch.put(r.as_ref()))?;
    snapshot.groups.values().try_for_each(|r| batch.put(r.as_ref()))?;
    snapshot.roles.values().try_for_each(|r| batch.put(r.as_ref()))?;
    snapshot.policies.values().try_for_each(|r| batch.put(r.as_ref()))?;
    snapshot.oidc_providers.values().try_for_each(|r| batch.put(r.as_ref()))?;
    snapshot.services.values().try_for_each(|r| batch.put(r.as_ref()))?;
    snapshot.session_keys.values().try_for_each(|r| batch.put(r.as_ref()))?;
    snapshot.revoked_sessions.values().try_for_each(|r| batch.put(r.as_ref()))?;
    snapshot.grants.values().try_for_each(|r| batch.put(r.as_ref()))?;
    snapshot.audit_keys.values().try_for_each(|r| batch.put(r.as_ref()))?;
    new.tombstones.iter().try_for_each(|r| batch.put(r))
}

/// What an older state of the store must not do when it comes back.
///
/// A key that was being made at that time may have been finished and told since: its row goes, so that nobody takes the object
/// for debris and destroys it. Keys of sessions go too. A deletion may have been cancelled since: its date is `no_deletion_before` at least.
pub fn brought_back(snapshot: &Snapshot, no_deletion_before: i64) -> Vec<Write> {
    let settled = snapshot.keys.values().filter_map(|record| match record.lifecycle {
        Lifecycle::Creating => Some(Write::DeleteKey(record.id)),
        Lifecycle::PendingDeletion { deletion_date } if deletion_date < no_deletion_before => {
            let lifecycle = Lifecycle::PendingDeletion { deletion_date: no_deletion_before };
            Some(Write::PutKey(KeyRecord { lifecycle, ..record.as_ref().clone() }))
        }
        _ => None,
    });
    // Who lost a session or was revoked since must not have it back: all of them end.
    let sessions = snapshot.session_keys.keys().map(|id| Write::DeleteSessionKey(id.clone()));
    // A key of the log that was being made may sign since: nobody takes its object for debris.
    let audit =
        snapshot.audit_keys.values().filter(|key| matches!(key.stage, AuditKeyStage::Creating | AuditKeyStage::Made));
    let audit =
        audit.map(|key| Write::PutAuditKey(AuditKeyRecord { stage: AuditKeyStage::Abandoned, ..key.as_ref().clone() }));
    settled.chain(sessions).chain(audit).collect()
}

/// Which tokens there are, and with which serial, is a fact of today and no content of a backup.
fn keep_tokens(restored: &mut Snapshot, live: &Snapshot) {
    for record in live.tokens.values() {
        restored.apply(Write::PutToken(record.as_ref().clone()));
    }
}

/// The audit keys are those of the log that goes on: one that was retired since must not come back.
fn keep_audit_keys(restored: &mut Snapshot, live: &Snapshot) {
    restored.audit_keys = live.audit_keys.clone();
}

/// A count that went back would allow more encryptions under a key than SP 800-38D does, so the higher one stays.
fn keep_counts(restored: &mut Snapshot, live: &Snapshot) {
    for (key, live) in &live.usage {
        let kept = match restored.usage.get(key) {
            Some(old) => UsageRecord { reserved: old.reserved.max(live.reserved), ..UsageRecord::clone(old) },
            None if restored.keys.contains_key(key) => UsageRecord::clone(live),
            None => continue,
        };
        restored.apply(Write::PutUsage(kept));
    }
}

fn facts_of(snapshot: &Snapshot, path: PathBuf, bytes: u64) -> BackupFacts {
    BackupFacts {
        path,
        version: snapshot.version,
        keys: snapshot.keys.size() as u64,
        aliases: snapshot.aliases.size() as u64,
        bytes,
    }
}

fn open_read_only(path: &Path) -> Result<rusqlite::Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Ok(rusqlite::Connection::open_with_flags(path, flags)?)
}
