//! The open store: creating, opening, transactions.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio_rusqlite::Connection;
use tokio_rusqlite::rusqlite::{self, ErrorCode, OpenFlags, TransactionBehavior};

use super::envelope::Envelope;
use super::head::Head;
use super::seal::Sealer;
use super::sql::{self, Batch, Loaded};
use super::{Decision, KeyId, Snapshot, StoreError, StoreLock, TombstoneRecord, UpdateError, WrapKey, files, schema};
use crate::secret::SecretBytes;

/// The open store. Cheap to clone. Writers are serialised on the store's own thread, so no lock is held across an await.
#[derive(Clone)]
pub struct Store {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) connection: Connection,
    pub(super) sealer: Sealer,
    current: ArcSwap<Snapshot>,
    /// Only the store's thread takes it.
    writer: Mutex<Writer>,
    // The last member: released after the connection.
    pub(super) lock: StoreLock,
}

struct Writer {
    head: Head,
    sealed_head: Vec<u8>,
    /// Why nothing is written any more.
    failed: Option<String>,
}

impl Store {
    /// Takes the lock `<state>/store/LOCK` (flock, holds the pid) before anything else. Call it before the token is
    /// touched. The state directory must exist.
    pub fn lock(state_dir: &Path) -> Result<StoreLock, StoreError> {
        StoreLock::take(state_dir)
    }

    /// A new, empty store: makes the store key (token's random), wraps it, writes the head. Refuses where one exists.
    /// `recovery_key`: PEM of an officer's RSA public key that gets a wrapped copy (OAEP-SHA-256).
    pub async fn create(lock: StoreLock, wrap: &dyn WrapKey, recovery_key: Option<&str>) -> Result<Store, StoreError> {
        files::require_vacant(lock.database())?;
        let (envelope, sealer) = Envelope::seal_new(wrap, recovery_key).await?;
        let scratch = scratch().await?;
        let path = lock.database().to_owned();
        // The database appears under its name only when it is complete.
        let sealer = on_thread(&scratch, move |db| {
            schema::create(db)?;
            let tx = db.transaction()?;
            envelope.write(&tx)?;
            Batch::begin(&tx, &sealer, Head::first(envelope.fingerprint()), 0).finish()?;
            tx.commit()?;
            files::write_copy(db, &path, |_| Ok(()))?;
            Ok(sealer)
        })
        .await?;
        Store::open_with(lock, Key::Known(Box::new(sealer))).await
    }

    /// Opens, migrates, unseals all rows, checks the head.
    ///
    /// An older copy of the whole store opens, since it is right in itself: compare `snapshot().version` with the version
    /// that the journal saw last.
    pub async fn open(lock: StoreLock, wrap: &dyn WrapKey) -> Result<Store, StoreError> {
        Store::open_with(lock, Key::Wrapped(wrap)).await
    }

    /// The newest committed state.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.inner.current.load_full()
    }

    /// The id that stands in all associated data, and which the deployment record must have.
    pub fn deployment_id(&self) -> &str {
        self.inner.sealer.deployment()
    }

    /// Runs `decide` on the newest snapshot on the store's thread, writes what it says in one transaction (fsynced), swaps
    /// the snapshot, and returns the value with the store's new version. An empty list of writes changes nothing.
    ///
    /// It runs to its end even if the caller stops waiting. A panic of `decide` writes nothing and goes on in the caller.
    pub async fn update<T, E, F>(&self, decide: F) -> Result<(T, u64), UpdateError<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
        F: FnOnce(&Snapshot) -> Decision<T, E> + Send + 'static,
    {
        let inner = self.inner.clone();
        match self.inner.connection.call_raw(move |db| inner.update(db, decide)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(closed) => Err(UpdateError::Failed(StoreError::Sql(closed.to_string()))),
        }
    }

    /// What is left of a destroyed key. Read from the database.
    pub async fn tombstone(&self, id: KeyId) -> Result<Option<TombstoneRecord>, StoreError> {
        let inner = self.inner.clone();
        on_thread(&self.inner.connection, move |db| sql::read(db, &inner.sealer, &id.to_string())).await
    }

    /// HKDF-SHA-256 of the store key for another use (`purpose` names it), 32 bytes.
    pub fn derive(&self, purpose: &str) -> SecretBytes {
        self.inner.sealer.derive(purpose)
    }

    /// Ends what is queued and closes the database; clones of this store are of no use afterwards. Dropping the last
    /// clone closes it too, but does not wait.
    pub async fn close(self) -> Result<(), StoreError> {
        self.inner.connection.clone().close().await.map_err(|e| StoreError::Sql(e.to_string()))
    }

    pub(super) async fn open_with(lock: StoreLock, key: Key<'_>) -> Result<Store, StoreError> {
        if lock.database().symlink_metadata().is_err() {
            return Err(StoreError::Missing(lock.database().to_owned()));
        }
        // Without CREATE: a store that vanishes now is not replaced by an empty one.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(lock.database(), flags).await?;
        match load(&connection, key).await {
            Ok((sealer, loaded)) => {
                let Loaded { snapshot, head, sealed_head, .. } = loaded;
                let current = ArcSwap::from_pointee(snapshot);
                let writer = Mutex::new(Writer { head, sealed_head, failed: None });
                Ok(Store { inner: Arc::new(Inner { connection, sealer, current, writer, lock }) })
            }
            Err(error) => {
                // Before the lock is released. That it does not open matters more than how it closes.
                let _ = connection.close().await;
                Err(error)
            }
        }
    }
}

/// Where the store key comes from.
pub(super) enum Key<'a> {
    Wrapped(&'a dyn WrapKey),
    Known(Box<Sealer>),
}

/// A database in memory, with a thread of its own.
pub(super) async fn scratch() -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Ok(Connection::open_in_memory_with_flags(flags).await?)
}

pub(super) async fn on_thread<T: Send + 'static>(
    connection: &Connection,
    call: impl FnOnce(&mut rusqlite::Connection) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    connection.call_raw(call).await.map_err(|closed| StoreError::Sql(closed.to_string()))?
}

async fn load(connection: &Connection, key: Key<'_>) -> Result<(Sealer, Loaded), StoreError> {
    let envelope = on_thread(connection, |db| {
        schema::configure(db)?;
        schema::upgrade(db)?;
        Envelope::read(db)
    })
    .await?;
    let sealer = match key {
        Key::Known(sealer) => *sealer,
        Key::Wrapped(wrap) => envelope.open(wrap).await?,
    };
    on_thread(connection, move |db| {
        let loaded = sql::load(db, &sealer)?;
        Ok((sealer, loaded))
    })
    .await
}

impl Inner {
    /// The outer error is a panic of `decide`, which must not end the store's thread.
    #[allow(clippy::type_complexity)]
    fn update<T, E>(
        &self,
        db: &mut rusqlite::Connection,
        decide: impl FnOnce(&Snapshot) -> Decision<T, E>,
    ) -> Result<Result<(T, u64), UpdateError<E>>, Box<dyn Any + Send>> {
        let before = self.current.load_full();
        let (writes, value) = match catch_unwind(AssertUnwindSafe(|| decide(&before)))? {
            Ok(decision) => decision,
            Err(refusal) => return Ok(Err(UpdateError::Refused(refusal))),
        };
        if writes.is_empty() {
            return Ok(Ok((value, before.version)));
        }
        let written = self.transaction(db, before.version, |batch, _| {
            let mut after = Snapshot::clone(&before);
            for write in writes {
                batch.write(&write)?;
                after.apply(write);
            }
            Ok(after)
        });
        Ok(written.map(|version| (value, version)).map_err(UpdateError::Failed))
    }

    /// One transaction: the rows that `fill` writes, the head at a version above `at_least`, then the snapshot that `fill`
    /// gave, under that version. Readers see it only when it is on stable storage.
    pub(super) fn transaction(
        &self,
        db: &mut rusqlite::Connection,
        at_least: u64,
        fill: impl FnOnce(&mut Batch<'_>, &Snapshot) -> Result<Snapshot, StoreError>,
    ) -> Result<u64, StoreError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = &writer.failed {
            return Err(StoreError::Sql(format!("an earlier write failed, restart the service: {reason}")));
        }
        let version = writer.head.next_version(at_least)?;

        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if sql::sealed_head(&tx)? != writer.sealed_head {
            return Err(StoreError::Tampered("the head row changed while the store was open".to_owned()));
        }
        let mut batch = Batch::begin(&tx, &self.sealer, writer.head.clone(), version);
        let mut after = fill(&mut batch, &self.current.load())?;
        let (head, sealed_head) = batch.finish()?;
        if let Err(error) = tx.commit() {
            // After a failed sync nobody knows what the disk holds: the frames of this commit may come back at the next
            // start, so nothing may be built on their absence. A full disk fails before that.
            if !matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy)) {
                writer.failed = Some(error.to_string());
            }
            return Err(error.into());
        }
        writer.head = head;
        writer.sealed_head = sealed_head;
        after.version = version;
        self.current.store(Arc::new(after));
        Ok(version)
    }
}
