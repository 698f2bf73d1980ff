//! The key sets of all providers: given by the operator, or fetched and kept for an hour.
//!
//! A token that nobody has verified may lead to a fetch, so an issuer is asked once a minute at most, by one request at a time.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use super::{FederationError, KeySet, KeySource, OidcProvider};

/// Seconds for which a fetched set is used. RULE authorization.md §4.4.
const KEPT: i64 = 3600;
/// From this age on a set is fetched anew, while it still serves: an issuer that is away for a moment is not noticed.
const AGING: i64 = 1800;
/// Seconds between two fetches from one place, whatever came of the first.
const PAUSE: i64 = 60;
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyLocation {
    pub issuer: String,
    /// Where the set itself is. `None`: `jwks_uri` of the issuer's `/.well-known/openid-configuration`.
    pub jwks_url: Option<String>,
    /// Certificates (PEM) that alone are trusted for it. `None`: the system's.
    pub ca: Option<Arc<str>>,
}

/// Brings the text of a key set from the network; refuses one above [`super::LARGEST_KEY_SET`] bytes while it reads. Errors are for the
/// log.
pub trait FetchKeys: Send + Sync {
    fn fetch<'a>(&'a self, from: &'a KeyLocation) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send + 'a>>;
}

pub struct KeySets {
    fetch: Arc<dyn FetchKeys>,
    /// By the provider's ARN.
    given: Mutex<HashMap<String, Given>>,
    fetched: Mutex<HashMap<KeyLocation, Arc<Place>>>,
    pub(super) timeout: Duration,
}

/// A set and the text of which it was made.
struct Given {
    text: Arc<str>,
    set: Arc<KeySet>,
}

/// What is known of one location.
#[derive(Default)]
struct Place {
    state: Mutex<State>,
    turn: Arc<Turn<()>>,
}

#[derive(Default)]
struct State {
    set: Option<(Arc<KeySet>, i64)>,
    asked: Option<i64>,
    failure: Option<String>,
}

impl State {
    fn set(&self, now: i64, younger_than: i64) -> Option<Arc<KeySet>> {
        // A request that waited for its turn may have read the clock before the fetch. A clock that went further back makes a
        // set's age unknown.
        self.set.as_ref().filter(|(_, at)| (-PAUSE..younger_than).contains(&(now - at))).map(|(set, _)| Arc::clone(set))
    }

    fn may_ask(&self, now: i64) -> bool {
        self.asked.is_none_or(|asked| !(-PAUSE..PAUSE).contains(&(now - asked)))
    }
}

impl KeySets {
    pub fn new(fetch: Arc<dyn FetchKeys>) -> Self {
        Self { fetch, given: Mutex::default(), fetched: Mutex::default(), timeout: TIMEOUT }
    }

    pub(super) async fn current(&self, provider: &OidcProvider, now: i64) -> Result<Arc<KeySet>, FederationError> {
        let unavailable = |cause: String| FederationError::KeysUnavailable { issuer: provider.url.clone(), cause };
        match &provider.keys {
            KeySource::Given(text) => self.given(&provider.arn, text).map_err(unavailable),
            KeySource::Fetched(location) => self.kept_or_fetched(location, now).await.map_err(unavailable),
        }
    }

    /// A set that is newer than `seen`, in which a token's key was missing. `None`: there is none, or it is too soon to ask.
    pub(super) async fn renewed(&self, provider: &OidcProvider, seen: &Arc<KeySet>, now: i64) -> Option<Arc<KeySet>> {
        let KeySource::Fetched(location) = &provider.keys else { return None };
        let place = self.place(location);
        let turn = Arc::clone(&place.turn).lock_owned().await;
        let another = |place: &Place| locked(&place.state).set(now, KEPT).filter(|set| !Arc::ptr_eq(set, seen));
        // Somebody else may have fetched while this one waited.
        if another(&place).is_none() && locked(&place.state).may_ask(now) {
            self.fetch(&place, location, now, turn).await;
        }
        another(&place)
    }

    fn given(&self, arn: &str, text: &Arc<str>) -> Result<Arc<KeySet>, String> {
        if let Some(known) = locked(&self.given).get(arn).filter(|known| known.text == *text) {
            return Ok(Arc::clone(&known.set));
        }
        let set = Arc::new(KeySet::parse(text).map_err(|e| e.to_string())?);
        locked(&self.given).insert(arn.to_owned(), Given { text: Arc::clone(text), set: Arc::clone(&set) });
        Ok(set)
    }

    async fn kept_or_fetched(&self, location: &KeyLocation, now: i64) -> Result<Arc<KeySet>, String> {
        let place = self.place(location);
        if let Some(set) = locked(&place.state).set(now, AGING) {
            return Ok(set);
        }
        let kept = locked(&place.state).set(now, KEPT);
        let turn = match &kept {
            // Whoever comes while another fetches takes the set that is there.
            Some(set) => match Arc::clone(&place.turn).try_lock_owned() {
                Ok(turn) => turn,
                Err(_) => return Ok(Arc::clone(set)),
            },
            None => Arc::clone(&place.turn).lock_owned().await,
        };
        // Whoever waited while another fetched is within the pause of that fetch.
        let ask = locked(&place.state).may_ask(now);
        if ask {
            self.fetch(&place, location, now, turn).await;
        }
        let state = locked(&place.state);
        state.set(now, KEPT).ok_or_else(|| state.failure.clone().unwrap_or_else(|| "no answer".to_owned()))
    }

    /// Asks once. It is a task of its own: a caller that hangs up must not leave a minute without keys.
    async fn fetch(&self, place: &Arc<Place>, location: &KeyLocation, now: i64, turn: OwnedMutexGuard<()>) {
        locked(&place.state).asked = Some(now);
        let (fetch, place, location) = (Arc::clone(&self.fetch), Arc::clone(place), location.clone());
        let timeout = self.timeout;
        let task = tokio::spawn(async move {
            let _turn = turn;
            let answer = tokio::time::timeout(timeout, fetch.fetch(&location)).await;
            let set = answer
                .map_err(|_| format!("no answer within {timeout:?}"))
                .and_then(|text| text)
                .and_then(|text| KeySet::parse(&text).map_err(|e| e.to_string()));
            let mut state = locked(&place.state);
            match set {
                Ok(set) => {
                    state.set = Some((Arc::new(set), now));
                    state.failure = None;
                }
                Err(cause) => {
                    tracing::warn!(issuer = %location.issuer, %cause, "no new keys of an OIDC issuer");
                    state.failure = Some(cause);
                }
            }
        });
        // A task that panicked has stored nothing, which is a failure like others.
        let _ = task.await;
    }

    fn place(&self, location: &KeyLocation) -> Arc<Place> {
        let mut places = locked(&self.fetched);
        if let Some(place) = places.get(location) {
            return Arc::clone(place);
        }
        let place = Arc::<Place>::default();
        places.insert(location.clone(), Arc::clone(&place));
        place
    }
}

/// No holder of these locks leaves a value half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
