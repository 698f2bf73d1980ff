//! The GCM budget: random 96-bit IVs under one AES key are safe to 2^32 encryptions (RULE SP 800-38D §8.3). Use is counted
//! by reservation: a block of the budget is set aside durably before it is used, in the background, and what is left of it
//! is forgotten at a restart. So the count is never too low.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Notify;

use crate::ids::KeyId;
use crate::ops::OpError;
use crate::ops::resolve::KeyTarget;
use crate::store::{Snapshot, Store, StoreError, UpdateError, UsageRecord, Write};

pub const DEFAULT_LIMIT: u64 = 1 << 32;
/// The first block of a key after a start; each refill doubles it, so that rarely used keys waste little.
const FIRST_BLOCK: u64 = 1 << 10;
const LARGEST_BLOCK: u64 = 1 << 20;
/// No block is more than this part of the limit: what is set aside has to say how much is used.
const BLOCKS_IN_LIMIT: u64 = 64;

/// Keys by the share of their budget that is set aside, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BudgetUse {
    pub below_quarter: u64,
    pub below_half: u64,
    pub below_limit: u64,
    pub at_limit: u64,
}

pub struct Budgets {
    counters: RwLock<HashMap<KeyId, Arc<Counter>>>,
    bounds: Bounds,
    store: Store,
}

#[derive(Clone)]
struct Bounds {
    limit: u64,
    /// Encryptions set aside from which on the key's aliases shall move to a new key.
    rotate_at: Option<u64>,
    passed: Arc<Notify>,
}

impl Bounds {
    fn largest_block(&self) -> u64 {
        (self.limit / BLOCKS_IN_LIMIT).clamp(1, LARGEST_BLOCK)
    }
}

struct Counter {
    generation: u32,
    used: AtomicU64,
    reserved: AtomicU64,
    block: AtomicU64,
    refilling: AtomicBool,
}

impl Budgets {
    /// `rotate_at`: in thousandths of the limit.
    pub fn new(store: Store, limit: u64, rotate_at: Option<u32>) -> Self {
        let rotate_at = rotate_at.map(|share| share_of(limit, share));
        let bounds = Bounds { limit, rotate_at, passed: Arc::default() };
        Self { counters: RwLock::default(), bounds, store }
    }

    pub fn limit(&self) -> u64 {
        self.bounds.limit
    }

    pub fn rotate_at(&self) -> Option<u64> {
        self.bounds.rotate_at
    }

    /// Returns once a key passed `rotate_at`.
    pub async fn share_passed(&self) {
        self.bounds.passed.notified().await;
    }

    /// Forgets what is held in memory: after a restore the store's numbers count.
    pub fn forget(&self) {
        self.counters.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub fn in_use(&self, snapshot: &Snapshot) -> BudgetUse {
        let mut all = BudgetUse::default();
        for (_, usage) in snapshot.usage.iter() {
            let slot = match usage.reserved {
                r if r >= self.bounds.limit => &mut all.at_limit,
                r if r >= self.bounds.limit / 2 => &mut all.below_limit,
                r if r >= self.bounds.limit / 4 => &mut all.below_half,
                _ => &mut all.below_quarter,
            };
            *slot += 1;
        }
        all
    }

    /// Takes one encryption out of the key's budget.
    pub async fn take(&self, key: &KeyTarget, generation: u32, snapshot: &Snapshot) -> Result<(), OpError> {
        let counter = self.counter(key.record.id, generation, snapshot);
        let mine = counter.used.fetch_add(1, Ordering::Relaxed);
        let reserved = counter.reserved.load(Ordering::Acquire);
        let block = counter.block.load(Ordering::Relaxed);
        if mine < reserved {
            let low = reserved - mine < block / 2 && reserved < self.bounds.limit;
            if low && !counter.refilling.swap(true, Ordering::AcqRel) {
                let (store, bounds, id) = (self.store.clone(), self.bounds.clone(), key.record.id);
                tokio::spawn(async move {
                    if let Err(error) = refill(&store, &bounds, id, &counter).await {
                        tracing::error!(key = %id, %error, "setting aside encryptions failed");
                    }
                    counter.refilling.store(false, Ordering::Release);
                });
            }
            return Ok(());
        }
        // The block is used up (or this is the key's first use since the start): wait until more is on disk.
        refill(&self.store, &self.bounds, key.record.id, &counter)
            .await
            .map_err(|error| OpError::Internal(error.to_string()))?;
        if mine < counter.reserved.load(Ordering::Acquire) {
            return Ok(());
        }
        if counter.reserved.load(Ordering::Acquire) >= self.bounds.limit {
            return Err(OpError::EncryptionLimit { arn: key.arn.clone() });
        }
        // More callers than a block has: they come again.
        Err(OpError::Throttled)
    }

    fn counter(&self, id: KeyId, generation: u32, snapshot: &Snapshot) -> Arc<Counter> {
        let held = self.counters.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        if let Some(counter) = held.filter(|c| c.generation == generation) {
            return counter;
        }
        let mut counters = self.counters.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = counters.get(&id).filter(|c| c.generation == generation) {
            return counter.clone();
        }
        let reserved = snapshot.usage.get(&id).filter(|u| u.generation == generation).map_or(0, |usage| usage.reserved);
        let counter = Arc::new(Counter {
            generation,
            used: AtomicU64::new(reserved),
            reserved: AtomicU64::new(reserved),
            block: AtomicU64::new(FIRST_BLOCK.min(self.bounds.largest_block())),
            refilling: AtomicBool::new(false),
        });
        counters.insert(id, counter.clone());
        counter
    }
}

/// Sets the next block aside. Callers that come together share one block: whoever finds enough set aside writes nothing.
async fn refill(store: &Store, bounds: &Bounds, id: KeyId, counter: &Arc<Counter>) -> Result<(), StoreError> {
    let (inner, generation) = (counter.clone(), counter.generation);
    let (limit, largest) = (bounds.limit, bounds.largest_block());
    let decide = move |snapshot: &Snapshot| {
        let stored = snapshot.usage.get(&id).filter(|u| u.generation == generation).map_or(0, |u| u.reserved);
        // A count of the store that is higher than ours (after a restore) counts.
        let used = inner.used.load(Ordering::Acquire).min(limit);
        let block = inner.block.load(Ordering::Relaxed);
        let held = inner.reserved.load(Ordering::Acquire).max(stored);
        if held >= limit || held > used.saturating_add(block / 2) {
            return Ok::<_, StoreError>((Vec::new(), held));
        }
        let reserved = held.max(used).saturating_add(block).min(limit);
        inner.block.store((block * 2).min(largest), Ordering::Relaxed);
        Ok((vec![Write::PutUsage(UsageRecord { key: id, generation, reserved })], reserved))
    };
    match store.update(decide).await {
        Ok((reserved, _)) => {
            let before = counter.reserved.fetch_max(reserved, Ordering::AcqRel);
            warn_at_shares(id, before, reserved, limit);
            if bounds.rotate_at.is_some_and(|share| before < share && reserved >= share) {
                bounds.passed.notify_one();
            }
            Ok(())
        }
        Err(UpdateError::Refused(error) | UpdateError::Failed(error)) => Err(error),
    }
}

/// `thousandths` of the limit, without overflow.
fn share_of(limit: u64, thousandths: u32) -> u64 {
    u64::try_from(u128::from(limit) * u128::from(thousandths) / 1000).unwrap_or(limit)
}

fn warn_at_shares(id: KeyId, before: u64, now: u64, limit: u64) {
    for (share, text) in [(limit / 4, "a quarter"), (limit / 2, "half"), (limit, "all")] {
        if before < share && now >= share {
            tracing::warn!(key = %id, reserved = now, limit, "{text} of the key's encryption budget is set aside: rotate it");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::testing::{key, new_store, put};

    fn target() -> KeyTarget {
        KeyTarget { record: Arc::new(key(1)), arn: "arn".to_owned() }
    }

    /// Takes one, and says what is set aside then.
    async fn take(budgets: &Budgets, store: &Store) -> Result<u64, OpError> {
        budgets.take(&target(), 1, &store.snapshot()).await?;
        Ok(store.snapshot().usage.get(&key(1).id).map_or(0, |usage| usage.reserved))
    }

    #[tokio::test]
    async fn a_small_limit_is_reached_in_small_steps_and_its_share_is_told_before() {
        let (_dir, store) = new_store().await;
        put(&store, vec![Write::PutKey(key(1))]).await;
        let budgets = Budgets::new(store.clone(), 640, Some(500));
        assert_eq!(budgets.rotate_at(), Some(320));
        let told = async || tokio::time::timeout(Duration::from_millis(1), budgets.share_passed()).await.is_ok();
        for used in 1..=640 {
            let reserved = take(&budgets, &store).await.unwrap();
            assert!((used..=used + 2 * 640 / BLOCKS_IN_LIMIT).contains(&reserved), "{reserved} set aside for {used}");
            if used == 290 {
                assert!(!told().await, "too early: {reserved}");
            }
            if used == 320 {
                assert!(told().await, "too late: {reserved}");
            }
        }
        assert_eq!(take(&budgets, &store).await, Err(OpError::EncryptionLimit { arn: "arn".to_owned() }));
        assert!(!told().await, "once");
    }

    #[tokio::test]
    async fn what_was_set_aside_is_gone_after_a_restart() {
        let (_dir, store) = new_store().await;
        put(&store, vec![Write::PutKey(key(1))]).await;
        let before = take(&Budgets::new(store.clone(), DEFAULT_LIMIT, None), &store).await.unwrap();
        let after = take(&Budgets::new(store.clone(), DEFAULT_LIMIT, None), &store).await.unwrap();
        assert_eq!((before, after), (1 + FIRST_BLOCK, 2 * (1 + FIRST_BLOCK)));
    }
}
