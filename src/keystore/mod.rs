//! Key stores: connected tokens. The default key store (`Origin = AWS_KMS`) is always there; custom key stores
//! (`Origin = AWS_CLOUDHSM`) are connected and disconnected while the service runs.

mod clusters;
mod configured;
pub mod members;
mod states;

pub use crate::token::{
    Adopted, BoxFuture, CallContext, Capabilities, Curve, DataName, Done, Enforcement, ErrorClass, Evidence, Facts,
    GcmOutput, Generated, Hash, Isolation, KeyKind, KeyRef, LoginForm, Looked, MaterialId, MemberView, MlDsa,
    ObjectFacts, ObjectReport, ObjectSelector, OpenFailure, Profile, Replicas, Rung, Selector, SignMechanism,
    SlotFacts, Status, SystemKey, Token, TokenError, TokenInfo, certificate, look, slots,
};
pub use clusters::{DEFAULT_TOKEN, Presence, derive_cluster, first_seen};
pub use configured::{ConfiguredMember, ConfiguredToken, blocking};
pub use states::{STATE_NAMES, State, States, Step};

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::ids::{ClusterId, KeyStoreId};
use crate::store::{Connection, Snapshot};
use crate::token::Backoff;

/// How long a disconnect waits for calls that were accepted.
const DRAIN: Duration = Duration::from_secs(10);
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// All key stores of this instance. Cheap to clone.
#[derive(Clone)]
pub struct KeyStores(Arc<Inner>);

struct Inner {
    token: Token,
    configured: Vec<ConfiguredToken>,
    states: States<Token>,
    /// What the token of a key store could do when it was last connected.
    remembered: RwLock<BTreeMap<KeyStoreId, Arc<Capabilities>>>,
    /// Key stores whose connection is due, each once per CONNECTING.
    waiting: Mutex<VecDeque<KeyStoreId>>,
    due: Notify,
    /// Key stores that were meant to be connected before this start, until they are: when to try again.
    insisted: Mutex<BTreeMap<KeyStoreId, Backoff>>,
    connected: Notify,
    /// Held by whoever changes a key store: such changes are rare and go one after the other.
    change: tokio::sync::Mutex<()>,
}

impl KeyStores {
    pub fn new(token: Token, configured: Vec<ConfiguredToken>) -> Self {
        Self(Arc::new(Inner {
            token,
            configured,
            states: States::default(),
            remembered: RwLock::default(),
            waiting: Mutex::default(),
            due: Notify::new(),
            insisted: Mutex::default(),
            connected: Notify::new(),
            change: tokio::sync::Mutex::default(),
        }))
    }

    /// The default key store's token.
    pub fn token(&self) -> &Token {
        &self.0.token
    }

    /// The token that holds the keys of a key store; `None`: it is not connected.
    pub fn token_of(&self, store: Option<&KeyStoreId>) -> Option<Token> {
        match store {
            None => Some(self.0.token.clone()),
            Some(id) => self.0.states.token(id),
        }
    }

    /// The default key store always counts as connected: that its token is away shows in each call.
    pub fn is_connected(&self, store: Option<&KeyStoreId>) -> bool {
        store.is_none_or(|id| self.0.states.is_connected(id))
    }

    /// What the token of a key store can do; `None`: it was not connected since the start.
    pub fn capabilities(&self, store: Option<&KeyStoreId>) -> Option<Arc<Capabilities>> {
        match store {
            None => Some(self.0.token.capabilities()),
            Some(id) => self.0.remembered.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned(),
        }
    }

    /// Custom key stores that are connected.
    pub fn connected(&self) -> Vec<(KeyStoreId, Token)> {
        let all = self.0.states.all();
        let connected = all.iter().filter_map(|(id, state)| match state {
            State::Connected(token) => Some((id.clone(), token.clone())),
            _ => None,
        });
        connected.collect()
    }

    pub fn states(&self) -> &States<Token> {
        &self.0.states
    }

    /// Key stores by connection state, for metrics; states that none is in are 0.
    pub fn by_state(&self) -> Vec<(&'static str, u64)> {
        let all = self.0.states.all();
        STATE_NAMES.map(|name| (name, all.values().filter(|state| state.name() == name).count() as u64)).to_vec()
    }

    /// The tokens for custom key stores that the configuration names.
    pub fn configured(&self) -> &[ConfiguredToken] {
        &self.0.configured
    }

    /// The configured token that is this cluster, by the configuration or as it was first seen.
    pub fn of_cluster(&self, cluster: &ClusterId, snapshot: &Snapshot) -> Option<&ConfiguredToken> {
        self.0.configured.iter().find(|token| {
            token.cluster.as_ref() == Some(cluster)
                || snapshot.tokens.get(&token.name).is_some_and(|record| record.cluster == *cluster)
        })
    }

    /// For changes of key stores; not for what uses them.
    pub async fn changing(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.change.lock().await
    }

    /// Takes over what the records say: at start, and after the store was replaced by a backup (`before`: what it was).
    pub fn follow(&self, before: &Snapshot, snapshot: &Snapshot) {
        let states = &self.0.states;
        let meant = |records: &Snapshot, id| {
            let record = records.key_stores.get(id)?;
            Some((record.cluster.clone(), record.connection.clone()))
        };
        for (id, state) in states.all().iter() {
            // Another token or no connection any more. What is just being disconnected stays so until somebody connects it.
            let changed = meant(before, id) != meant(snapshot, id) && !matches!(state, State::Disconnecting);
            if changed || !snapshot.key_stores.contains_key(id) {
                states.remove(id);
                if let State::Connected(token) = state {
                    let token = token.clone();
                    std::thread::spawn(move || token.close());
                }
            }
        }
        for (id, record) in snapshot.key_stores.iter() {
            if states.state(id).is_some() {
                continue;
            }
            states.set(id, State::Disconnected);
            match &record.connection {
                Connection::Disconnected => {}
                Connection::Failed { code } => states.set(id, State::Failed(code.as_str().into())),
                Connection::Wanted => {
                    if let Step::Taken(_) = states.connect(id) {
                        let retry = self.0.configured.first().map(|token| token.settings.retry).unwrap_or_default();
                        self.insisted().insert(id.clone(), Backoff::new(retry));
                        self.connection_due(id);
                    }
                }
            }
        }
    }

    /// A key store is CONNECTING from now on: whoever connects is woken.
    pub fn connection_due(&self, id: &KeyStoreId) {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(id.clone());
        self.0.due.notify_one();
    }

    /// The connection is tried again after a while, and the key store stays CONNECTING. `false`: nobody asked for that.
    pub fn connection_due_again(&self, id: &KeyStoreId) -> bool {
        let Some(wait) = self.insisted().get_mut(id).map(Backoff::wait) else { return false };
        let (this, id) = (self.clone(), id.clone());
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            // Also where it is DISCONNECTING meanwhile: the attempt ends that.
            this.connection_due(&id);
        });
        true
    }

    /// An attempt ended for good, well or not.
    pub fn attempts_ended(&self, id: &KeyStoreId) {
        self.insisted().remove(id);
    }

    fn insisted(&self) -> MutexGuard<'_, BTreeMap<KeyStoreId, Backoff>> {
        self.0.insisted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next key store to connect.
    pub async fn due(&self) -> KeyStoreId {
        loop {
            // `notify_one` keeps one permit, so nothing is missed between the look and the wait.
            let next = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            if let Some(id) = next {
                return id;
            }
            self.0.due.notified().await;
        }
    }

    /// A key store is connected from now on.
    pub fn connect_ended(&self, id: &KeyStoreId, token: Token) {
        self.0.remembered.write().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), token.capabilities());
        self.0.states.set(id, State::Connected(token));
        self.0.connected.notify_waiters();
    }

    /// Comes back when a key store was connected.
    pub async fn a_store_connects(&self) {
        self.0.connected.notified().await;
    }

    /// Finishes the calls that a token has accepted, as far as that takes not too long, and logs out. Nobody is given the
    /// token any more.
    pub async fn drain(&self, token: Token) {
        let until = Instant::now() + DRAIN;
        loop {
            let gauges = token.gauges();
            if (gauges.queued == 0 && gauges.keygen_queued == 0) || Instant::now() > until {
                break;
            }
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        if let Err(error) = tokio::task::spawn_blocking(move || token.close()).await {
            tracing::error!(%error, "closing a token failed");
        }
    }

    /// Closes the tokens of all custom key stores; the default one is its owner's. Blocking.
    pub fn close(&self) {
        for (_, token) in self.connected() {
            token.close();
        }
    }
}
