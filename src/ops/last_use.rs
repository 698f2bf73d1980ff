//! Last use of each key by operation and principal: a cache over the journal. It is updated when the record of a use is
//! durable, saved in the background by `app`, and what the saved state lacks is replayed from the journal at start. So a crash
//! loses none of it, and a lost cache is only a longer replay.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::ids::KeyId;
use crate::ops::resolve::{KeyTarget, Resolved, Subject};
use crate::ops::{KeyLastUsage, LastUse, OpError, Operation, Ops, Response, Task};
use crate::store::KeyRecord;

const SHARDS: usize = 16;
/// Pairs of operation and principal that are kept of one key; the oldest make room.
const PAIRS_PER_KEY: usize = 256;
/// Form of the saved state.
const VERSION: u32 = 1;

/// A use of a key that succeeded and whose record is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyUse {
    /// As the record's `eventName`.
    pub operation: Arc<str>,
    /// ARN of who asked.
    pub principal: Arc<str>,
    /// Milliseconds since the epoch, whole seconds: what `eventTime` says.
    pub at: i64,
    pub event_id: Arc<str>,
    pub request_id: Arc<str>,
}

/// The cache.
pub struct LastUses {
    shards: [Mutex<HashMap<KeyId, Vec<KeyUse>>>; SHARDS],
    /// Highest seq of a record that was noted.
    noted: AtomicU64,
    /// Everything up to here is in the cache: where the next replay begins.
    position: AtomicU64,
    /// Since when uses are known; milliseconds.
    since: AtomicI64,
    changed: AtomicBool,
    complete: AtomicBool,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    version: u32,
    position: u64,
    since: i64,
    keys: Vec<(KeyId, Vec<KeyUse>)>,
}

/// The operations whose success is a use of a key (GetKeyLastUsage's list, as far as they are served).
pub const USES: &[&str] = &[
    "Decrypt",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateMac",
    "ReEncrypt",
    "Sign",
    "Verify",
    "VerifyMac",
];

impl LastUses {
    /// An empty cache, of which nothing is known until `complete`.
    pub fn new(now: i64) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            noted: AtomicU64::new(0),
            position: AtomicU64::new(0),
            since: AtomicI64::new(now),
            changed: AtomicBool::new(false),
            complete: AtomicBool::new(false),
        }
    }

    /// Notes a use. An older one never replaces a newer one, so replays may repeat what is known.
    pub fn note(&self, key: KeyId, operation: &str, principal: &str, at: i64, ids: impl FnOnce() -> [Arc<str>; 2]) {
        let mut shard = self.shard(&key);
        let uses = shard.entry(key).or_default();
        let found = uses.iter_mut().find(|u| *u.operation == *operation && *u.principal == *principal);
        match found {
            Some(known) if known.at > at => return,
            Some(known) => {
                known.at = at;
                [known.event_id, known.request_id] = ids();
            }
            None => {
                if uses.len() >= PAIRS_PER_KEY
                    && let Some(oldest) = uses.iter().enumerate().min_by_key(|(_, u)| u.at).map(|(place, _)| place)
                {
                    uses.swap_remove(oldest);
                }
                let [event_id, request_id] = ids();
                uses.push(KeyUse {
                    operation: operation.into(),
                    principal: principal.into(),
                    at,
                    event_id,
                    request_id,
                });
            }
        }
        drop(shard);
        self.changed.store(true, Ordering::Release);
    }

    /// The record with this seq was noted.
    pub fn noted(&self, seq: u64) {
        self.noted.fetch_max(seq, Ordering::AcqRel);
    }

    /// All known uses of a key, in no order.
    pub fn of(&self, key: &KeyId) -> Vec<KeyUse> {
        self.shard(key).get(key).cloned().unwrap_or_default()
    }

    /// Until the replay at start has ended, a key may have been used without being here.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// The replay ended at `seq`; the log begins at `since`.
    pub fn completed(&self, seq: u64, since: Option<i64>) {
        if let Some(since) = since {
            self.since.fetch_min(since, Ordering::AcqRel);
        }
        self.position.fetch_max(seq, Ordering::AcqRel);
        self.noted(seq);
        self.complete.store(true, Ordering::Release);
    }

    pub fn since(&self) -> i64 {
        self.since.load(Ordering::Acquire)
    }

    pub fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    pub fn highest_noted(&self) -> u64 {
        self.noted.load(Ordering::Acquire)
    }

    /// The state as bytes, where something changed since it was last taken. `settled`: a seq below which no use is still on
    /// its way from the journal to here.
    pub fn save(&self, settled: u64) -> Option<Vec<u8>> {
        if !self.is_complete() || !self.changed.swap(false, Ordering::AcqRel) {
            return None;
        }
        let position = self.position.fetch_max(settled, Ordering::AcqRel).max(settled);
        let mut keys = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            keys.extend(shard.iter().map(|(key, uses)| (*key, uses.clone())));
        }
        serde_json::to_vec(&Saved { version: VERSION, position, since: self.since(), keys }).ok()
    }

    /// The state could not be written: the next call of `save` takes it again.
    pub fn not_saved(&self) {
        self.changed.store(true, Ordering::Release);
    }

    /// Takes a saved state; `false`: it is of another form, or of a log that was longer than this one (`last_seq`).
    pub fn load(&self, bytes: &[u8], last_seq: u64) -> bool {
        let Ok(saved) = serde_json::from_slice::<Saved>(bytes) else { return false };
        if saved.version != VERSION || saved.position > last_seq {
            return false;
        }
        for (key, uses) in saved.keys {
            for u in uses {
                let ids = [u.event_id, u.request_id];
                self.note(key, &u.operation, &u.principal, u.at, || ids);
            }
        }
        self.position.store(saved.position, Ordering::Release);
        self.since.fetch_min(saved.since, Ordering::AcqRel);
        self.changed.store(false, Ordering::Release);
        true
    }

    /// A key is gone for good.
    pub fn forget(&self, key: &KeyId) {
        self.shard(key).remove(key);
    }

    fn shard(&self, key: &KeyId) -> std::sync::MutexGuard<'_, HashMap<KeyId, Vec<KeyUse>>> {
        let place = key.bytes().iter().fold(0usize, |sum, byte| sum.wrapping_add(usize::from(*byte))) % SHARDS;
        // The remainder is below the number of shards; the first stands in for what cannot be.
        let [first, ..] = &self.shards;
        self.shards.get(place).unwrap_or(first).lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ops {
    pub fn last_uses(&self) -> &Arc<LastUses> {
        &self.last_uses
    }

    /// A request succeeded and its record is durable: notes the use of each of its keys.
    pub fn used(&self, resolved: &Resolved, principal: &str, at: i64, request_id: &Arc<str>, event_id: &str, seq: u64) {
        if let Task::Kms(request) = resolved.task()
            && is_use(request.operation())
        {
            let name = request.operation().name();
            let at = at.div_euclid(1000) * 1000;
            let ids = || [Arc::from(event_id), request_id.clone()];
            match resolved.subject() {
                Subject::Key(key) | Subject::Blob { key, .. } => {
                    self.last_uses.note(key.record.id, name, principal, at, ids);
                }
                Subject::ReEncrypt { source, destination, .. } => {
                    self.last_uses.note(source.record.id, name, principal, at, ids);
                    self.last_uses.note(destination.record.id, name, principal, at, ids);
                }
                _ => {}
            }
        }
        self.last_uses.noted(seq);
    }

    /// When a key was last used, or since when it was not. `None`: not known.
    pub(super) fn unused_since(&self, key: &KeyRecord) -> Option<i64> {
        let known = || self.last_uses.is_complete().then(|| self.last_uses.since().max(key.created));
        self.last_uses.of(&key.id).iter().map(|used| used.at).max().or_else(known)
    }

    pub(super) fn key_last_usage(&self, key: &KeyTarget) -> Result<Response, OpError> {
        if !self.last_uses.is_complete() {
            return Err(OpError::DependencyTimeout("the audit log is still being read".to_owned()));
        }
        let newest = self.last_uses.of(&key.record.id).into_iter().max_by_key(|u| u.at);
        Ok(Response::GetKeyLastUsage(Box::new(KeyLastUsage {
            key_arn: key.arn.clone(),
            last: newest.map(|u| LastUse {
                operation: u.operation.to_string(),
                at: u.at,
                event_id: u.event_id.to_string(),
                request_id: u.request_id.to_string(),
            }),
            // What happened before the key was made cannot concern it.
            tracking_start: self.last_uses.since().max(key.record.created),
            key_creation: key.record.created,
        })))
    }
}

fn is_use(operation: Operation) -> bool {
    USES.contains(&operation.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> KeyId {
        KeyId::new([n; 16], false)
    }

    fn ids(text: &str) -> impl FnOnce() -> [Arc<str>; 2] + use<'_> {
        move || [format!("event {text}").into(), format!("request {text}").into()]
    }

    fn ready() -> LastUses {
        let uses = LastUses::new(1_000);
        uses.completed(0, None);
        uses
    }

    #[test]
    fn the_newest_use_of_each_pair_stays() {
        let uses = ready();
        uses.note(key(1), "Encrypt", "arn:a", 2_000, ids("1"));
        uses.note(key(1), "Encrypt", "arn:a", 1_000, ids("old"));
        uses.note(key(1), "Decrypt", "arn:a", 3_000, ids("2"));
        uses.note(key(1), "Encrypt", "arn:b", 4_000, ids("3"));
        let mut found: Vec<_> =
            uses.of(&key(1)).into_iter().map(|u| (u.operation.to_string(), u.principal.to_string(), u.at)).collect();
        found.sort();
        let pair = |o: &str, p: &str, at| (o.to_owned(), p.to_owned(), at);
        assert_eq!(
            found,
            [pair("Decrypt", "arn:a", 3_000), pair("Encrypt", "arn:a", 2_000), pair("Encrypt", "arn:b", 4_000)]
        );
        assert!(uses.of(&key(2)).is_empty());
    }

    #[test]
    fn pairs_of_a_key_are_bounded_and_the_oldest_goes() {
        let uses = ready();
        for n in 0..PAIRS_PER_KEY + 10 {
            uses.note(key(1), "Sign", &format!("arn:{n}"), n as i64, ids("x"));
        }
        let kept = uses.of(&key(1));
        assert_eq!(kept.len(), PAIRS_PER_KEY);
        assert!(kept.iter().all(|u| u.at >= 10));
    }

    #[test]
    fn a_saved_state_comes_back_and_only_for_this_log() {
        let uses = ready();
        assert_eq!(uses.save(0), None, "nothing changed");
        uses.note(key(1), "Sign", "arn:a", 5_000, ids("1"));
        uses.noted(7);
        let saved = uses.save(6).unwrap();
        assert_eq!(uses.save(6), None);
        uses.not_saved();
        assert!(uses.save(6).is_some());

        let again = LastUses::new(9_000);
        assert!(!again.load(&saved, 5), "the log is shorter than the state says");
        assert!(again.load(&saved, 7));
        assert_eq!((again.position(), again.since(), again.of(&key(1))), (6, 1_000, uses.of(&key(1))));
        assert!(!again.is_complete());
        assert!(!again.load(b"{}", 7));
    }

    #[test]
    fn a_state_is_not_saved_before_the_replay_ended() {
        let uses = LastUses::new(0);
        uses.note(key(1), "Sign", "arn:a", 5_000, ids("1"));
        assert_eq!(uses.save(3), None);
        uses.completed(3, Some(-5));
        assert_eq!(uses.since(), -5);
        assert!(uses.save(3).is_some());
    }
}
