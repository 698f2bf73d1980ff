//! The live state of each custom key store: what is written down says only whether it is meant to be connected. Readers take
//! no lock. `T` is the connected token; tests put something else in its place.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::ids::KeyStoreId;

/// AWS's connection states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State<T> {
    Disconnected,
    /// An attempt is due or under way; it ends this state, and nothing else does.
    Connecting,
    Connected(T),
    /// With the ConnectionErrorCode.
    Failed(Arc<str>),
    /// Calls that run are finished, or an attempt that was given up is waited for.
    Disconnecting,
}

impl<T> State<T> {
    /// ConnectionState as AWS spells it.
    pub fn name(&self) -> &'static str {
        match self {
            State::Disconnected => "DISCONNECTED",
            State::Connecting => "CONNECTING",
            State::Connected(_) => "CONNECTED",
            State::Failed(_) => "FAILED",
            State::Disconnecting => "DISCONNECTING",
        }
    }

    /// ConnectionErrorCode.
    pub fn error_code(&self) -> Option<&str> {
        match self {
            State::Failed(code) => Some(code),
            _ => None,
        }
    }
}

/// Names of all states, for metrics.
pub const STATE_NAMES: [&str; 5] = ["CONNECTED", "CONNECTING", "DISCONNECTED", "DISCONNECTING", "FAILED"];

/// What a request made of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<T> {
    /// The state is the next one now; what it was before.
    Taken(State<T>),
    /// The request is satisfied as it is.
    Nothing,
    /// AWS refuses the request in this state.
    Refused(State<T>),
    /// No such key store.
    Unknown,
}

pub struct States<T>(ArcSwap<BTreeMap<KeyStoreId, State<T>>>);

impl<T: Clone> Default for States<T> {
    fn default() -> Self {
        Self(ArcSwap::from_pointee(BTreeMap::new()))
    }
}

impl<T: Clone> States<T> {
    /// The hot path: no lock, no wait.
    pub fn token(&self, id: &KeyStoreId) -> Option<T> {
        match self.0.load().get(id) {
            Some(State::Connected(token)) => Some(token.clone()),
            _ => None,
        }
    }

    pub fn is_connected(&self, id: &KeyStoreId) -> bool {
        matches!(self.0.load().get(id), Some(State::Connected(_)))
    }

    pub fn state(&self, id: &KeyStoreId) -> Option<State<T>> {
        self.0.load().get(id).cloned()
    }

    pub fn all(&self) -> Arc<BTreeMap<KeyStoreId, State<T>>> {
        self.0.load_full()
    }

    /// ConnectCustomKeyStore: AWS takes it in every state but DISCONNECTING and FAILED.
    pub fn connect(&self, id: &KeyStoreId) -> Step<T> {
        self.step(id, |state| match state {
            State::Disconnected => Ok(Some(State::Connecting)),
            State::Connecting | State::Connected(_) => Ok(None),
            State::Failed(_) | State::Disconnecting => Err(()),
        })
    }

    /// DisconnectCustomKeyStore: AWS takes it in every state but DISCONNECTING and DISCONNECTED.
    pub fn disconnect(&self, id: &KeyStoreId) -> Step<T> {
        self.step(id, |state| match state {
            // The attempt is still under way: it ends in DISCONNECTED.
            State::Connecting | State::Connected(_) => Ok(Some(State::Disconnecting)),
            State::Failed(_) => Ok(Some(State::Disconnected)),
            State::Disconnected | State::Disconnecting => Err(()),
        })
    }

    /// Puts a key store into a state, whatever it was in.
    pub fn set(&self, id: &KeyStoreId, state: State<T>) {
        self.edit(|map| {
            map.insert(id.clone(), state.clone());
        });
    }

    pub fn remove(&self, id: &KeyStoreId) {
        self.edit(|map| {
            map.remove(id);
        });
    }

    fn step(&self, id: &KeyStoreId, decide: impl Fn(&State<T>) -> Result<Option<State<T>>, ()>) -> Step<T> {
        let mut taken = Step::Unknown;
        self.edit(|map| {
            taken = match map.get(id) {
                None => Step::Unknown,
                Some(before) => match decide(before) {
                    Ok(None) => Step::Nothing,
                    Err(()) => Step::Refused(before.clone()),
                    Ok(Some(next)) => {
                        let before = before.clone();
                        map.insert(id.clone(), next);
                        Step::Taken(before)
                    }
                },
            };
        });
        taken
    }

    /// `edit` may run more than once; the last run counts.
    fn edit(&self, mut edit: impl FnMut(&mut BTreeMap<KeyStoreId, State<T>>)) {
        self.0.rcu(|map| {
            let mut map = map.as_ref().clone();
            edit(&mut map);
            map
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> KeyStoreId {
        "cks-0123456789abcdef0".parse().unwrap()
    }

    fn in_state(state: State<u8>) -> States<u8> {
        let states = States::default();
        states.set(&id(), state);
        states
    }

    fn every() -> [State<u8>; 5] {
        [
            State::Disconnected,
            State::Connecting,
            State::Connected(7),
            State::Failed("NETWORK_ERRORS".into()),
            State::Disconnecting,
        ]
    }

    #[test]
    fn connect_in_every_state() {
        let table = [
            ("DISCONNECTED", "taken", "CONNECTING"),
            ("CONNECTING", "nothing", "CONNECTING"),
            ("CONNECTED", "nothing", "CONNECTED"),
            ("FAILED", "refused", "FAILED"),
            ("DISCONNECTING", "refused", "DISCONNECTING"),
        ];
        check(&table, States::connect);
    }

    #[test]
    fn disconnect_in_every_state() {
        let table = [
            ("DISCONNECTED", "refused", "DISCONNECTED"),
            ("CONNECTING", "taken", "DISCONNECTING"),
            ("CONNECTED", "taken", "DISCONNECTING"),
            ("FAILED", "taken", "DISCONNECTED"),
            ("DISCONNECTING", "refused", "DISCONNECTING"),
        ];
        check(&table, States::disconnect);
    }

    fn check(table: &[(&str, &str, &str)], step: fn(&States<u8>, &KeyStoreId) -> Step<u8>) {
        for (state, (before, what, after)) in every().into_iter().zip(table) {
            assert_eq!(state.name(), *before);
            let states = in_state(state.clone());
            let taken = match step(&states, &id()) {
                Step::Taken(was) => {
                    assert_eq!(was, state);
                    "taken"
                }
                Step::Nothing => "nothing",
                Step::Refused(is) => {
                    assert_eq!(is, state);
                    "refused"
                }
                Step::Unknown => "unknown",
            };
            let now = states.state(&id()).unwrap();
            assert_eq!((taken, now.name()), (*what, *after), "from {before}");
            assert_eq!(states.token(&id()).is_some(), *after == "CONNECTED", "only a connected store has a token");
        }
        assert_eq!(step(&States::default(), &id()), Step::Unknown);
    }

    #[test]
    fn only_a_failed_store_has_a_code() {
        for state in every() {
            assert_eq!(state.error_code().is_some(), state.name() == "FAILED");
            assert!(STATE_NAMES.contains(&state.name()));
        }
    }

    #[test]
    fn a_removed_store_is_unknown() {
        let states = in_state(State::Connected(1));
        states.remove(&id());
        assert_eq!((states.token(&id()), states.state(&id())), (None, None));
    }
}
