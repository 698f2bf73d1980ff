//! Signatures to be implemented.
#![allow(unused_variables)]
use super::*;

/// The open store. Cheap to clone. Writers are serialised on the store's own thread, so no lock is held across an await.
#[derive(Clone)]
pub struct Store {}

#[allow(unused_variables, clippy::unused_async)]
impl Store {
    /// Takes the lock `<state>/store/LOCK` (flock, holds the pid) before anything else. Call it before the token is touched.
    pub fn lock(state_dir: &Path) -> Result<StoreLock, StoreError> {
        unimplemented!()
    }
    /// A new, empty store: makes the store key (token's random), wraps it, writes the head. Refuses where one exists.
    /// `recovery_key`: PEM of an officer's RSA public key that gets a wrapped copy (OAEP-SHA-256).
    pub async fn create(lock: StoreLock, wrap: &dyn WrapKey, recovery_key: Option<&str>) -> Result<Store, StoreError> {
        unimplemented!()
    }
    /// Opens, migrates, unseals all rows, checks the head.
    pub async fn open(lock: StoreLock, wrap: &dyn WrapKey) -> Result<Store, StoreError> {
        unimplemented!()
    }
    pub fn snapshot(&self) -> Arc<Snapshot> {
        unimplemented!()
    }
    /// Runs `decide` on the newest snapshot on the store's thread, writes what it says in one transaction (fsynced), swaps
    /// the snapshot, and returns the value with the store's new version. An empty list of writes changes nothing.
    pub async fn update<T, E, F>(&self, decide: F) -> Result<(T, u64), UpdateError<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
        F: FnOnce(&Snapshot) -> Decision<T, E> + Send + 'static,
    {
        unimplemented!()
    }
    /// A consistent copy of the running store into `path` (0600, fsynced, refuses to overwrite).
    pub async fn backup(&self, path: &Path) -> Result<BackupFacts, StoreError> {
        unimplemented!()
    }
    /// Replaces the contents by a backup's after checking that it opens whole under this store's wrap key; the version
    /// becomes `max(current, at_least) + 1`, so that the restored store is newer than anything the journal saw.
    pub async fn restore(&self, path: &Path, wrap: &dyn WrapKey, at_least: u64) -> Result<BackupFacts, StoreError> {
        unimplemented!()
    }
    /// HKDF-SHA-256 of the store key for another use (`purpose` names it), 32 bytes.
    pub fn derive(&self, purpose: &str) -> SecretBytes {
        unimplemented!()
    }
}

/// The held lock; released on drop.
pub struct StoreLock {}
