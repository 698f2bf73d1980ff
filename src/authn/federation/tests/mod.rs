//! Tokens of `tests/fixtures/oidc/cases.json`, which `tests/clients/oidc_issuer.py` made with python-cryptography: each has beside it
//! what it must give.

mod jwks;
mod keys;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use super::*;

const FIXTURES: &str = include_str!("../../../../tests/fixtures/oidc/cases.json");

#[derive(Deserialize)]
struct Fixtures {
    now: i64,
    providers: Vec<Registered>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Registered {
    account: AccountId,
    url: String,
    client_ids: Vec<String>,
    algorithms: Vec<String>,
    jwks: Value,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    account: AccountId,
    now: i64,
    token: String,
    gives: Option<Gives>,
    code: Option<String>,
    message: Option<String>,
    cause: Option<String>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Gives {
    provider_arn: String,
    issuer: String,
    subject: String,
    audiences: Vec<String>,
    claims: BTreeMap<String, Vec<String>>,
}

impl From<Assertion> for Gives {
    fn from(assertion: Assertion) -> Self {
        let claims: BTreeMap<_, _> = assertion.claims().iter().cloned().collect();
        assert_eq!(claims.len(), assertion.claims().len(), "a condition key twice");
        Gives {
            provider_arn: assertion.provider_arn().to_owned(),
            issuer: assertion.issuer().to_owned(),
            subject: assertion.subject().to_owned(),
            audiences: assertion.audiences().to_vec(),
            claims,
        }
    }
}

fn fixtures() -> Fixtures {
    serde_json::from_str(FIXTURES).unwrap()
}

struct Book(Vec<(AccountId, Arc<OidcProvider>)>);

impl Book {
    fn of(fixtures: &Fixtures) -> Book {
        Book(fixtures.providers.iter().map(|one| (one.account.clone(), Arc::new(one.provider()))).collect())
    }
}

impl Registered {
    fn provider(&self) -> OidcProvider {
        OidcProvider {
            arn: OidcProvider::arn_of(&self.account, &self.url),
            url: self.url.clone(),
            client_ids: self.client_ids.clone(),
            algorithms: self.algorithms.iter().map(|name| name.parse().unwrap()).collect(),
            keys: KeySource::Given(self.jwks.to_string().into()),
        }
    }
}

impl Providers for Book {
    fn oidc(&self, account: &AccountId, issuer: &str) -> Option<Arc<OidcProvider>> {
        self.0
            .iter()
            .find(|(own, provider)| own == account && provider.url == issuer)
            .map(|(_, found)| Arc::clone(found))
    }
}

/// Where keys are given, nothing is fetched.
struct NoNetwork;

impl FetchKeys for NoNetwork {
    fn fetch<'a>(&'a self, from: &'a KeyLocation) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send + 'a>> {
        panic!("{from:?} is fetched")
    }
}

fn oidc() -> Oidc {
    Oidc::new(KeySets::new(Arc::new(NoNetwork)))
}

#[tokio::test]
async fn every_fixture_gives_what_it_says() {
    let fixtures = fixtures();
    let (oidc, book) = (oidc(), Book::of(&fixtures));
    let mut wrong = Vec::new();
    for case in fixtures.cases {
        let found = oidc.verify(&case.token, &case.account, &book, case.now).await;
        let right = match (&found, &case.gives) {
            (Ok(assertion), Some(gives)) => Gives::from(assertion.clone()) == *gives,
            (Err(error), None) => {
                Some(error.code()) == case.code.as_deref()
                    && case.message.is_none_or(|message| error.message() == message)
                    && case.cause.is_none_or(|cause| error.to_string().contains(&cause))
            }
            _ => false,
        };
        if !right {
            wrong.push(format!("{}: {found:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_fixtures_are_many_of_both_kinds() {
    let cases = fixtures().cases;
    let accepted = cases.iter().filter(|case| case.gives.is_some()).count();
    assert!(accepted > 20 && cases.len() - accepted > 90, "{accepted} of {}", cases.len());
}

/// A token's time is judged at the moment of the call, not at that of the test.
#[tokio::test]
async fn now_is_a_parameter() {
    let fixtures = fixtures();
    let (oidc, book) = (oidc(), Book::of(&fixtures));
    let case = fixtures.cases.iter().find(|case| case.name == "RS256 with rsa-b").unwrap();
    let at = async |now| oidc.verify(&case.token, &case.account, &book, now).await.map(drop).map_err(|e| e.code());
    let (issued, expires) = (fixtures.now, fixtures.now + 600);
    assert_eq!(at(issued - 61).await, Err("IDPRejectedClaim"));
    assert_eq!(at(issued - 60).await, Ok(()));
    assert_eq!(at(expires + 59).await, Ok(()));
    assert_eq!(at(expires + 60).await, Err("ExpiredTokenException"));
    for border in [i64::MIN, i64::MAX] {
        assert!(at(border).await.is_err());
    }
}

/// A view that takes more issuers for equal than it should does not make them so.
#[tokio::test]
async fn the_issuer_is_compared_once_more() {
    struct Generous(Arc<OidcProvider>);
    impl Providers for Generous {
        fn oidc(&self, _: &AccountId, _: &str) -> Option<Arc<OidcProvider>> {
            Some(Arc::clone(&self.0))
        }
    }
    let fixtures = fixtures();
    let book = Book::of(&fixtures);
    let (account, adfs) = &book.0[0];
    let token = &fixtures.cases.iter().find(|case| case.name == "Kubernetes, RS256").unwrap().token;
    let refused = oidc().verify(token, account, &Generous(Arc::clone(adfs)), fixtures.now).await.unwrap_err();
    assert!(matches!(refused, FederationError::NoProvider(_)), "{refused}");
}

#[test]
fn statuses_are_those_of_sts() {
    let row = |error: FederationError| (error.status(), error.code());
    assert_eq!(row(FederationError::Audience), (400, "InvalidIdentityToken"));
    assert_eq!(row(FederationError::Expired { now: 1, expiry: 0 }), (400, "ExpiredTokenException"));
    assert_eq!(row(FederationError::NotYet { claim: "nbf", value: 1 }), (403, "IDPRejectedClaim"));
    let away =
        FederationError::KeysUnavailable { issuer: "https://x".to_owned(), cause: "10.0.0.1 refused".to_owned() };
    assert!(!away.message().contains("10.0.0.1"), "the cause is for the log");
    assert_eq!(row(away), (400, "IDPCommunicationError"));
}

#[test]
fn arns_of_providers() {
    let account = "111122223333".parse().unwrap();
    assert_eq!(
        OidcProvider::arn_of(&account, "https://adfs.example/adfs"),
        "arn:aws:iam::111122223333:oidc-provider/adfs.example/adfs"
    );
}

fn run(token: &str) -> Result<Assertion, FederationError> {
    static READ: LazyLock<(Fixtures, Book, Oidc)> = LazyLock::new(|| {
        let fixtures = fixtures();
        let book = Book::of(&fixtures);
        (fixtures, book, oidc())
    });
    let (fixtures, book, oidc) = &*READ;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(oidc.verify(token, &fixtures.providers[0].account, book, fixtures.now))
}

fn part() -> impl Strategy<Value = String> {
    use base64::Engine;
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let json = prop_oneof![
        r#"\{("(alg|kid|crit|jwk|typ|iss|sub|aud|azp|exp|nbf|iat)":("RS256"|"none"|"app"|"https://issuer.example/id/X"|-?[0-9]{1,20}|null|\[\]|\{\}|1e999),?){0,6}\}"#,
        ".{0,40}",
    ];
    prop_oneof![json.prop_map(move |text| engine.encode(text)), "[A-Za-z0-9_=.-]{0,60}", ".{0,20}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn nothing_panics_and_nothing_unsigned_is_believed(parts in prop::collection::vec(part(), 0..5), text in any::<String>()) {
        prop_assert!(run(&parts.join(".")).is_err());
        prop_assert!(run(&text).is_err());
    }

    /// Whatever changes in a good token, it is refused.
    #[test]
    fn a_changed_token_is_refused(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.-]", cut in any::<bool>()) {
        static GOOD: LazyLock<String> = LazyLock::new(|| {
            fixtures().cases.into_iter().find(|case| case.name == "Kubernetes, ES256").unwrap().token
        });
        let good = &*GOOD;
        let at = at.index(good.len());
        let changed = if cut { good[..at].to_owned() } else { format!("{}{to}{}", &good[..at], &good[at + 1..]) };
        prop_assert_eq!(run(&changed).is_ok(), changed == *good);
    }
}
