//! Derived signing keys, so that a secret is opened at most once per access key, day, Region and service.
//!
//! Says nothing about whether an access key is active: the directory is asked at every request.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::OnceCell;

use super::derive::SigningKey;
use crate::ids::AccessKeyId;

/// What a signing key is good for. A new secret under an old id has another `created`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CacheKey {
    pub id: AccessKeyId,
    pub created: i64,
    /// YYYYMMDD.
    pub day: u32,
    pub region: Arc<str>,
    pub service: &'static str,
}

/// Several requests that miss at once wait for one derivation. A failed one leaves nothing, and the next in line tries.
type Cell = Arc<OnceCell<SigningKey>>;

/// Bounded; keys of days that no signature may name any more are dropped when a new one comes.
pub struct SigningKeys {
    entries: RwLock<HashMap<CacheKey, Cell>>,
    capacity: usize,
}

impl SigningKeys {
    pub fn new(capacity: usize) -> Self {
        Self { entries: RwLock::new(HashMap::new()), capacity }
    }

    /// The cell for `key`, filled by `derive` if it is empty. `first_day`: the oldest day that a signature may
    /// name now, asked when a new cell is made.
    pub async fn obtain<E, F>(
        &self,
        key: CacheKey,
        first_day: impl FnOnce() -> u32,
        derive: impl FnOnce() -> F,
    ) -> Result<Arc<OnceCell<SigningKey>>, E>
    where
        F: Future<Output = Result<SigningKey, E>>,
    {
        let cell = self.cell(key, first_day);
        if cell.initialized() {
            return Ok(cell);
        }
        // No lock of ours is held here: waiting is per cell.
        cell.get_or_try_init(derive).await?;
        Ok(cell)
    }

    /// Drops what was derived from an access key, at once, when it is disabled or deleted.
    pub fn forget(&self, id: &AccessKeyId) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).retain(|key, _| key.id != *id);
    }

    fn cell(&self, key: CacheKey, first_day: impl FnOnce() -> u32) -> Cell {
        if let Some(cell) = self.entries.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Arc::clone(cell);
        }
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = entries.get(&key) {
            return Arc::clone(cell);
        }
        let first_day = first_day();
        entries.retain(|old, _| old.day >= first_day && (old.id != key.id || old.created == key.created));
        if entries.len() >= self.capacity
            && let Some(victim) = entries.keys().next().cloned()
        {
            entries.remove(&victim);
        }
        let cell = Cell::default();
        entries.insert(key, Arc::clone(&cell));
        cell
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn key(id: &str, created: i64, day: u32) -> CacheKey {
        let id = id.parse().unwrap();
        CacheKey { id, created, day, region: "eu-central-1".into(), service: "kms" }
    }

    const A: &str = "AKIAAAAAAAAAAAAAAAAA";
    const B: &str = "AKIABBBBBBBBBBBBBBBB";

    struct Counted(SigningKeys, AtomicUsize);

    impl Counted {
        fn new(capacity: usize) -> Self {
            Self(SigningKeys::new(capacity), AtomicUsize::new(0))
        }

        /// How often keys were derived so far, this one included.
        async fn obtain(&self, key: CacheKey, first_day: u32) -> usize {
            let derive = || async {
                self.1.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                Ok::<_, ()>(SigningKey::dummy())
            };
            self.0.obtain(key, || first_day, derive).await.unwrap();
            self.1.load(Ordering::SeqCst)
        }

        fn len(&self) -> usize {
            self.0.entries.read().unwrap().len()
        }
    }

    #[tokio::test]
    async fn one_derivation_per_day_and_secret() {
        let keys = Counted::new(10);
        assert_eq!(keys.obtain(key(A, 1, 20260101), 20260101).await, 1);
        assert_eq!(keys.obtain(key(A, 1, 20260101), 20260101).await, 1);
        assert_eq!(keys.obtain(key(B, 1, 20260101), 20260101).await, 2);
        assert_eq!(keys.obtain(key(A, 1, 20260102), 20260101).await, 3);
        assert_eq!(keys.len(), 3);
        // A new secret drops what the old one gave; a new day drops the days before.
        assert_eq!(keys.obtain(key(A, 2, 20260102), 20260101).await, 4);
        assert_eq!(keys.len(), 2);
        assert_eq!(keys.obtain(key(A, 2, 20260103), 20260102).await, 5);
        assert_eq!(keys.len(), 2);
        keys.0.forget(&A.parse().unwrap());
        assert_eq!(keys.len(), 0);
    }

    #[tokio::test]
    async fn it_is_bounded() {
        let keys = Counted::new(4);
        for created in 0..20 {
            let id = format!("AKIA{created:016}").replace('0', "A").replace('1', "B");
            keys.obtain(key(&id, created, 20260101), 20260101).await;
            assert!(keys.len() <= 4);
        }
        assert_eq!(keys.len(), 4);
    }

    #[tokio::test]
    async fn many_first_requests_derive_once() {
        let keys = Arc::new(Counted::new(4));
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let keys = Arc::clone(&keys);
                tokio::spawn(async move { keys.obtain(key(A, 1, 20260101), 20260101).await })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap(), 1);
        }
    }

    #[tokio::test]
    async fn a_failure_is_not_kept() {
        let keys = Counted::new(4);
        let failed = keys.0.obtain(key(A, 1, 20260101), || 20260101, || async { Err("the token is away") }).await;
        assert_eq!(failed.err(), Some("the token is away"));
        assert_eq!(keys.obtain(key(A, 1, 20260101), 20260101).await, 1);
    }
}
