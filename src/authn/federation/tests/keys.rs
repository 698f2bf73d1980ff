//! When keys are fetched, and what serves while they cannot be.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;

use super::super::*;
use super::fixtures;

const T: i64 = 1_800_000_000;

/// Answers in their order, each when it is let through. An answer that is missing never comes.
struct Network {
    asked: AtomicUsize,
    answers: Mutex<VecDeque<Result<String, String>>>,
    gate: Semaphore,
}

impl FetchKeys for Network {
    fn fetch<'a>(&'a self, _: &'a KeyLocation) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send + 'a>> {
        Box::pin(async {
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.gate.acquire().await.unwrap().forget();
            let answer = self.answers.lock().unwrap().pop_front();
            match answer {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        })
    }
}

struct Bench {
    network: Arc<Network>,
    keys: Arc<KeySets>,
    provider: OidcProvider,
}

impl Bench {
    fn new(answers: impl IntoIterator<Item = Result<String, String>>) -> Self {
        let network = Arc::new(Network {
            asked: AtomicUsize::new(0),
            answers: Mutex::new(answers.into_iter().collect()),
            gate: Semaphore::new(1000),
        });
        let location = KeyLocation { issuer: "https://issuer.example/id/X".to_owned(), jwks_url: None, ca: None };
        let provider = OidcProvider { keys: KeySource::Fetched(location), ..fixtures().providers[2].provider() };
        Self { keys: Arc::new(KeySets::new(Arc::clone(&network) as Arc<dyn FetchKeys>)), network, provider }
    }

    async fn current(&self, now: i64) -> Result<Arc<KeySet>, FederationError> {
        self.keys.current(&self.provider, now).await
    }

    fn asked(&self) -> usize {
        self.network.asked.load(Ordering::SeqCst)
    }
}

fn set() -> Result<String, String> {
    Ok(fixtures().providers[2].jwks.to_string())
}

fn away() -> Result<String, String> {
    Err("connection refused".to_owned())
}

#[tokio::test]
async fn a_set_is_fetched_once_and_kept() {
    let bench = Bench::new([set(), set()]);
    let first = bench.current(T).await.unwrap();
    assert!(Arc::ptr_eq(&first, &bench.current(T + 1799).await.unwrap()));
    assert_eq!(bench.asked(), 1);
    assert!(!Arc::ptr_eq(&first, &bench.current(T + 1800).await.unwrap()), "an aging set is fetched anew");
    assert_eq!(bench.asked(), 2);
}

#[tokio::test]
async fn an_old_set_serves_for_an_hour_and_no_longer() {
    let bench = Bench::new([set(), away(), away(), away()]);
    let first = bench.current(T).await.unwrap();
    assert!(Arc::ptr_eq(&first, &bench.current(T + 1800).await.unwrap()));
    assert!(Arc::ptr_eq(&first, &bench.current(T + 1859).await.unwrap()));
    assert_eq!(bench.asked(), 2, "once a minute");
    assert!(Arc::ptr_eq(&first, &bench.current(T + 3599).await.unwrap()));
    assert_eq!(bench.asked(), 3);
    let refused = bench.current(T + 3600).await.unwrap_err();
    assert_eq!(refused.code(), "IDPCommunicationError");
    assert!(refused.to_string().contains("connection refused"), "{refused}");
    assert_eq!(bench.asked(), 3, "a second ago it was asked");
}

#[tokio::test]
async fn an_issuer_that_is_away_is_asked_once_a_minute() {
    let bench = Bench::new([away(), away(), set()]);
    for second in [0, 1, 59] {
        assert!(bench.current(T + second).await.is_err());
    }
    assert_eq!(bench.asked(), 1);
    assert!(bench.current(T + 60).await.is_err());
    assert!(bench.current(T + 120).await.is_ok());
    assert_eq!(bench.asked(), 3);
}

#[tokio::test]
async fn what_is_no_set_changes_nothing() {
    let bench = Bench::new([set(), Ok("<html>".to_owned()), Ok(r#"{"keys":[]}"#.to_owned())]);
    let first = bench.current(T).await.unwrap();
    for later in [1800, 1900] {
        assert!(Arc::ptr_eq(&first, &bench.current(T + later).await.unwrap()));
    }
    assert_eq!(bench.asked(), 3);
}

#[tokio::test]
async fn an_unknown_kid_asks_once() {
    let bench = Bench::new([set(), set(), set()]);
    let first = bench.current(T).await.unwrap();
    let renewed = async |seen: &Arc<KeySet>, now| bench.keys.renewed(&bench.provider, seen, now).await;
    assert!(renewed(&first, T + 59).await.is_none(), "too soon after the first");
    let second = renewed(&first, T + 60).await.unwrap();
    assert_eq!(bench.asked(), 2);
    assert!(Arc::ptr_eq(&second, &renewed(&first, T + 61).await.unwrap()), "who saw the old one gets the new one");
    assert!(renewed(&second, T + 61).await.is_none());
    assert!(Arc::ptr_eq(&second, &renewed(&first, T + 600).await.unwrap()), "also much later, and nobody is asked");
    assert_eq!(bench.asked(), 2);
}

#[tokio::test]
async fn many_at_once_ask_once() {
    let bench = Bench::new([set()]);
    bench.network.gate.forget_permits(1000);
    let all: Vec<_> = (0..20)
        .map(|_| {
            let (keys, provider) = (Arc::clone(&bench.keys), bench.provider.clone());
            tokio::spawn(async move { keys.current(&provider, T).await.map(drop) })
        })
        .collect();
    tokio::task::yield_now().await;
    bench.network.gate.add_permits(1);
    for one in all {
        one.await.unwrap().unwrap();
    }
    assert_eq!(bench.asked(), 1);
}

#[tokio::test]
async fn nobody_waits_for_a_renewal_while_a_set_serves() {
    let bench = Bench::new([set(), set()]);
    let first = bench.current(T).await.unwrap();
    bench.network.gate.forget_permits(1000);
    let (keys, provider) = (Arc::clone(&bench.keys), bench.provider.clone());
    let renewing = tokio::spawn(async move { keys.current(&provider, T + 1800).await });
    while bench.asked() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(Arc::ptr_eq(&first, &bench.current(T + 1800).await.unwrap()));
    bench.network.gate.add_permits(1);
    assert!(!Arc::ptr_eq(&first, &renewing.await.unwrap().unwrap()));
}

#[tokio::test]
async fn a_caller_that_hangs_up_does_not_stop_the_fetch() {
    let bench = Bench::new([set()]);
    bench.network.gate.forget_permits(1000);
    let (keys, provider) = (Arc::clone(&bench.keys), bench.provider.clone());
    let gone = tokio::spawn(async move { keys.current(&provider, T).await.map(drop) });
    while bench.asked() < 1 {
        tokio::task::yield_now().await;
    }
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    bench.network.gate.add_permits(1);
    assert!(bench.current(T + 1).await.is_ok());
    assert_eq!(bench.asked(), 1);
}

#[tokio::test]
async fn silence_ends() {
    let mut bench = Bench::new([]);
    Arc::get_mut(&mut bench.keys).unwrap().timeout = std::time::Duration::from_millis(1);
    let refused = bench.current(T).await.unwrap_err();
    assert!(refused.to_string().contains("no answer within 1ms"), "{refused}");
}

#[tokio::test]
async fn a_clock_that_went_back_trusts_no_age() {
    let bench = Bench::new([set(), set()]);
    let first = bench.current(T).await.unwrap();
    // Requests overtake each other while they wait.
    assert!(Arc::ptr_eq(&first, &bench.current(T - 60).await.unwrap()));
    assert!(bench.keys.renewed(&bench.provider, &first, T - 5).await.is_none());
    assert_eq!(bench.asked(), 1);
    bench.current(T - 61).await.unwrap();
    assert_eq!(bench.asked(), 2);
}

#[tokio::test]
async fn places_are_kept_apart() {
    let bench = Bench::new([set(), set(), set()]);
    let KeySource::Fetched(location) = bench.provider.keys.clone() else { unreachable!() };
    let elsewhere = [
        KeyLocation { jwks_url: Some("https://issuer.example/keys".to_owned()), ..location.clone() },
        KeyLocation { ca: Some("pem".into()), ..location },
    ];
    bench.current(T).await.unwrap();
    for place in elsewhere {
        let provider = OidcProvider { keys: KeySource::Fetched(place), ..bench.provider.clone() };
        bench.keys.current(&provider, T).await.unwrap();
    }
    assert_eq!(bench.asked(), 3);
}

#[tokio::test]
async fn given_keys_change_with_their_text() {
    let bench = Bench::new([]);
    let of = |index: usize| KeySource::Given(fixtures().providers[index].jwks.to_string().into());
    let mut provider = OidcProvider { keys: of(2), ..bench.provider.clone() };
    let first = bench.keys.current(&provider, T).await.unwrap();
    assert!(Arc::ptr_eq(&first, &bench.keys.current(&provider, T).await.unwrap()));
    provider.keys = of(0);
    assert_eq!(bench.keys.current(&provider, T).await.unwrap().usable(), 1);
    assert!(bench.keys.renewed(&provider, &first, T).await.is_none());
    assert_eq!(bench.asked(), 0);
}

/// The whole way: a token whose key is new at its issuer is believed, after one more fetch.
#[tokio::test]
async fn a_new_key_is_found() {
    struct Book(Arc<OidcProvider>);
    impl Providers for Book {
        fn oidc(&self, _: &AccountId, _: &str) -> Option<Arc<OidcProvider>> {
            Some(Arc::clone(&self.0))
        }
    }
    let fixtures = fixtures();
    let mut old = fixtures.providers[2].jwks.clone();
    old["keys"].as_array_mut().unwrap().retain(|key| key["kid"] != "rsa-b");
    let account = &fixtures.providers[2].account;
    for name in ["RS256 with rsa-b", "no kid"] {
        let token = &fixtures.cases.iter().find(|case| case.name == name).unwrap().token;
        let bench = Bench::new([Ok(old.to_string()), Ok(old.to_string()), set()]);
        let book = Book(Arc::new(bench.provider.clone()));
        let oidc = Oidc::new(KeySets::new(Arc::clone(&bench.network) as Arc<dyn FetchKeys>));
        let at = async |now| oidc.verify(token, account, &book, now).await.map(drop);
        let unknown = Err(FederationError::UnknownKey("https://issuer.example/id/X".to_owned()));
        assert_eq!(at(T).await, unknown, "{name}");
        assert_eq!(at(T + 60).await, unknown, "{name}");
        assert_eq!(at(T + 61).await, unknown, "{name}");
        assert_eq!(bench.asked(), 2, "{name}");
        assert_eq!(at(T + 120).await, Ok(()), "{name}");
        assert_eq!(bench.asked(), 3, "{name}");
    }
}
