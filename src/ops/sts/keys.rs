//! The keys that seal session tokens: made by a timer of the service, wrapped by the token key `hsm-bridge/iam-wrap`, unwrapped
//! once and then held in memory. Source: authorization.md §4.3.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::authn::{Credential, OpenSecret, SessionKey, SessionKeyId};
use crate::keystore::{CallContext, ErrorClass, KeyRef, SystemKey, Token};
use crate::ops::identity::open_access_key;
use crate::ops::{Context, Effects, OpError, Ops, sealed, token_error};
use crate::secret::{SecretBytes, SecretString};
use crate::store::{SessionKeyRecord, Snapshot, Store, Write};

/// A key seals for a day.
const SEALS_MS: i64 = 24 * 3_600_000;
/// For so long the timer may be late before a new session waits for it.
const LATE_MS: i64 = 3_600_000;
/// After its successor was made a key opens for this long: longer than any session lives (36 hours).
const OPENS_MS: i64 = 37 * 3_600_000;
/// How long authn waits for the token.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);

/// The session keys of the store, those opened so far in memory.
pub struct SessionKeys {
    store: Store,
    token: Token,
    opened: Mutex<HashMap<SessionKeyId, Arc<SessionKey>>>,
    /// Somebody waits for a first key.
    wanted: Notify,
    /// The timer has tried.
    tried: Notify,
}

impl SessionKeys {
    pub(in crate::ops) fn new(store: Store, token: Token) -> Self {
        Self { store, token, opened: Mutex::default(), wanted: Notify::new(), tried: Notify::new() }
    }

    /// The key of this id. `None`: the store has none, or its token was another one.
    pub async fn open(&self, id: SessionKeyId) -> Result<Option<Arc<SessionKey>>, String> {
        let snapshot = self.store.snapshot();
        let Some(record) = snapshot.session_keys.get(&id.to_string()) else { return Ok(None) };
        if let Some(known) = self.opened().get(&id) {
            return Ok(Some(Arc::clone(known)));
        }
        let (iv, wrapped) = sealed::split(&record.wrapped).ok_or("a wrapped session key is too short")?;
        let call = CallContext {
            principal: "service".into(),
            deadline: Instant::now() + OPEN_DEADLINE,
            request_id: "open-session-key".into(),
        };
        let key = KeyRef::System(SystemKey::IamWrap);
        let aad = id.wrap_aad(self.store.deployment_id());
        let plain = match self.token.decrypt(&call, &key, iv.to_vec(), aad, wrapped.to_vec()).await {
            Ok(done) => done.value,
            Err(error) if error.class == ErrorClass::Data => {
                tracing::error!(key = %id, "a session key does not open: its sessions are invalid");
                return Ok(None);
            }
            Err(error) => return Err(error.to_string()),
        };
        let Some(key) = SessionKey::new(id, &plain, self.store.deployment_id()).map(Arc::new) else {
            return Err(format!("session key {id} has a wrong length"));
        };
        let mut opened = self.opened();
        opened.retain(|id, _| snapshot.session_keys.contains_key(&id.to_string()));
        opened.insert(id, Arc::clone(&key));
        Ok(Some(key))
    }

    /// The key that seals now. A first one is waited for; the timer makes it, because making it is recorded.
    pub(in crate::ops) async fn current(&self, ctx: &Context) -> Result<Arc<SessionKey>, OpError> {
        let tried = self.tried.notified();
        tokio::pin!(tried);
        tried.as_mut().enable();
        let mut id = sealing(&self.store.snapshot(), ctx.now);
        if id.is_none() {
            self.wanted.notify_one();
            let waited = tokio::time::timeout_at(ctx.deadline.into(), tried).await;
            waited.map_err(|_| OpError::DependencyTimeout("no session key was made in time".to_owned()))?;
            id = sealing(&self.store.snapshot(), ctx.now);
        }
        let id = id.ok_or_else(|| OpError::Token("no session key could be made".to_owned()))?;
        let key = self.open(id).await.map_err(OpError::Token)?;
        key.ok_or_else(|| OpError::Token(format!("session key {id} does not open")))
    }

    /// Waits until somebody needs a first key.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Those who wait look again.
    pub fn tried(&self) {
        self.tried.notify_waiters();
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<SessionKeyId, Arc<SessionKey>>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What authn needs opened.
pub struct TokenSecrets {
    pub token: Token,
    pub session_keys: Arc<SessionKeys>,
}

impl OpenSecret for TokenSecrets {
    fn open<'a>(
        &'a self,
        credential: &'a Credential,
    ) -> Pin<Box<dyn Future<Output = Result<SecretString, String>> + Send + 'a>> {
        Box::pin(open_access_key(&self.token, credential, OPEN_DEADLINE))
    }

    fn session_key<'a>(
        &'a self,
        id: SessionKeyId,
    ) -> Pin<Box<dyn Future<Output = Result<Option<Arc<SessionKey>>, String>> + Send + 'a>> {
        Box::pin(self.session_keys.open(id))
    }
}

/// The newest key, as long as it may seal.
fn sealing(snapshot: &Snapshot, now: i64) -> Option<SessionKeyId> {
    let newest = newest(snapshot)?;
    // A key of the future is one of a clock that was put back: as good as new.
    (now.saturating_sub(newest.created) < SEALS_MS + LATE_MS).then(|| SessionKeyId::parse(&newest.id)).flatten()
}

fn newest(snapshot: &Snapshot) -> Option<&SessionKeyRecord> {
    snapshot.session_keys.values().max_by_key(|key| (key.created, &key.id)).map(AsRef::as_ref)
}

/// Keys whose last session has ended: their successor is old enough.
fn ended_keys(snapshot: &Snapshot, now: i64) -> Vec<String> {
    let mut by_age: Vec<_> = snapshot.session_keys.values().collect();
    by_age.sort_by_key(|key| (key.created, &key.id));
    let pairs = by_age.iter().zip(by_age.iter().skip(1));
    pairs.filter(|(_, next)| now.saturating_sub(next.created) > OPENS_MS).map(|(key, _)| key.id.clone()).collect()
}

fn ended_revocations(snapshot: &Snapshot, now: i64) -> Vec<String> {
    let ended = snapshot.revoked_sessions.values().filter(|revoked| revoked.until < now);
    ended.map(|revoked| revoked.access_key.clone()).collect()
}

impl Ops {
    pub fn session_keys(&self) -> &Arc<SessionKeys> {
        &self.session_keys
    }

    /// Whether the timer has something to do: a key is a day old, or something is not needed any more. `now`: milliseconds since
    /// the epoch.
    pub fn session_upkeep_due(&self, now: i64) -> bool {
        let snapshot = self.store.snapshot();
        newest(&snapshot).is_some_and(|key| now.saturating_sub(key.created) >= SEALS_MS)
            || !ended_keys(&snapshot, now).is_empty()
            || !ended_revocations(&snapshot, now).is_empty()
    }

    /// Makes a key where there is none or it has sealed for its day, and removes keys and revocations that no session needs.
    pub(in crate::ops) async fn keep_session_keys(&self, ctx: &Context, effects: &mut Effects) -> Result<(), OpError> {
        let snapshot = self.store.snapshot();
        let fresh = newest(&snapshot).is_some_and(|key| ctx.now.saturating_sub(key.created) < SEALS_MS);
        let made = if fresh { None } else { Some(self.new_session_key(ctx).await?) };
        let id = made.as_ref().map(|record| record.id.clone());
        let now = ctx.now;
        let ((keys, revocations), version) = self
            .change(ctx, move |snapshot| {
                let (keys, revocations) = (ended_keys(snapshot, now), ended_revocations(snapshot, now));
                let removed = keys.iter().cloned().map(Write::DeleteSessionKey);
                let forgotten = revocations.iter().cloned().map(Write::DeleteRevokedSession);
                let writes = made.into_iter().map(Write::PutSessionKey).chain(removed).chain(forgotten).collect();
                Ok((writes, (keys, revocations)))
            })
            .await?;
        effects.store_version = Some(version);
        effects.details = Some(serde_json::json!({
            "sessionKeyMade": id,
            "sessionKeysRemoved": keys,
            "revocationsRemoved": revocations.len(),
        }));
        Ok(())
    }

    async fn new_session_key(&self, ctx: &Context) -> Result<SessionKeyRecord, OpError> {
        let failed = |error| token_error(error, "hsm-bridge/iam-wrap");
        let (token, call) = (self.keystore.token(), self.call(ctx));
        let random = token.random(&call, 36).await.map_err(failed)?.value;
        let short = || OpError::Internal("the token gave too few random bytes".to_owned());
        let (id, key) = random.expose().split_first_chunk().ok_or_else(short)?;
        let id = SessionKeyId(*id);
        let aad = id.wrap_aad(self.store.deployment_id());
        let key = SecretBytes::new(key.to_vec());
        let done = token.encrypt(&call, &KeyRef::System(SystemKey::IamWrap), aad, key).await.map_err(failed)?;
        Ok(SessionKeyRecord {
            id: id.to_string(),
            created: ctx.now,
            wrapped: sealed::join(done.value).map_err(OpError::Internal)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn with(keys: &[(&str, i64)]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (id, created) in keys {
            let record = SessionKeyRecord { id: (*id).to_owned(), created: *created, wrapped: Vec::new() };
            snapshot.session_keys.insert_mut(record.id.clone(), Arc::new(record));
        }
        snapshot
    }

    #[test]
    fn the_newest_key_seals_for_a_day_and_a_late_timer() {
        assert_eq!(sealing(&with(&[]), 0), None);
        let two = with(&[("00000001", 0), ("00000002", 5)]);
        assert_eq!(sealing(&two, 25 * HOUR), SessionKeyId::parse("00000002"));
        assert_eq!(sealing(&two, 25 * HOUR + 5), None);
        assert_eq!(sealing(&two, -40 * HOUR), SessionKeyId::parse("00000002"));
    }

    #[test]
    fn a_key_stays_until_its_last_session_has_ended() {
        let keys = with(&[("00000001", 0), ("00000002", 24 * HOUR), ("00000003", 48 * HOUR)]);
        assert!(ended_keys(&keys, 61 * HOUR).is_empty());
        assert_eq!(ended_keys(&keys, 61 * HOUR + 1), ["00000001"]);
        // The newest has no successor.
        assert_eq!(ended_keys(&keys, i64::MAX), ["00000001", "00000002"]);
    }
}
