//! Who somebody else says that a caller is: what AssumeRoleWithWebIdentity believes of a token. Knows no role and no trust policy:
//! it is handed the providers of the role's account and gives an assertion, which authz then holds against the role's trust policy.
//! Source: authorization.md §4.2 and §4.4.

mod jwks;
mod keys;
mod oidc;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use jwks::{Algorithm, KeySet, KeySetError, LARGEST_KEY_SET};
pub use keys::{FetchKeys, KeyLocation, KeySets};
pub use oidc::Oidc;

use crate::ids::AccountId;

/// `url` of a provider is at most this long, as in IAM.
const LONGEST_URL: usize = 255;

/// One way of taking another system's word for who calls. OIDC is the one there is; SAML 2.0 is the next, whose document is an
/// assertion and whose providers are another list of [`Providers`].
pub trait FederatedIdentity: Send + Sync {
    /// `document`: what the caller presents, an OIDC token for example. `account`: the role's, whose providers alone are asked.
    /// `now`: seconds since the epoch.
    fn verify<'a>(
        &'a self,
        document: &'a str,
        account: &'a AccountId,
        providers: &'a dyn Providers,
        now: i64,
    ) -> Pin<Box<dyn Future<Output = Result<Assertion, FederationError>> + Send + 'a>>;
}

/// The providers as they are registered at this moment. A provider belongs to one account; two accounts may have one for the same
/// issuer.
pub trait Providers: Send + Sync {
    fn oidc(&self, account: &AccountId, issuer: &str) -> Option<Arc<OidcProvider>>;
}

/// An OIDC issuer that an account trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcProvider {
    pub arn: String,
    /// The issuer, exactly as `iss` of its tokens has it.
    pub url: String,
    /// `aud` or `azp` of a token must be one.
    pub client_ids: Vec<String>,
    /// A token's header chooses among these and never beyond.
    pub algorithms: Vec<Algorithm>,
    pub keys: KeySource,
}

#[derive(Clone, PartialEq, Eq)]
pub enum KeySource {
    /// The text of a JWKS that the operator gave: nothing is fetched.
    Given(Arc<str>),
    Fetched(KeyLocation),
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::Given(text) => write!(f, "Given({} bytes)", text.len()),
            KeySource::Fetched(location) => f.debug_tuple("Fetched").field(location).finish(),
        }
    }
}

impl OidcProvider {
    /// `arn:aws:iam::ACCOUNT:oidc-provider/` and the URL without its scheme.
    pub fn arn_of(account: &AccountId, url: &str) -> String {
        format!("arn:aws:iam::{account}:oidc-provider/{}", without_scheme(url))
    }

    /// The name of a condition key: the issuer without its scheme, a colon, the claim.
    fn condition_key(&self, claim: &str) -> String {
        format!("{}:{claim}", without_scheme(&self.url))
    }
}

fn without_scheme(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest)
}

/// What may stand in an issuer: a claimed one is shown in an error and searched for, before anything is verified.
fn is_issuer(text: &str) -> bool {
    (1..=LONGEST_URL).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'<' | b'>' | b'\\'))
}

/// What a verified document says. Only an implementation of [`FederatedIdentity`] makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    provider_arn: String,
    issuer: String,
    subject: String,
    audiences: Vec<String>,
    authorized_party: Option<String>,
    claims: Vec<(String, Vec<String>)>,
}

impl Assertion {
    /// `Principal.Federated` of the trust policy, `aws:FederatedProvider` of the session.
    pub fn provider_arn(&self) -> &str {
        &self.provider_arn
    }

    /// `Provider` of the answer.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// `SubjectFromWebIdentityToken` of the answer.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// `azp`: the client for which the token was made, where that is not its audience.
    pub fn authorized_party(&self) -> Option<&str> {
        self.authorized_party.as_deref()
    }

    /// `Audience` of the answer: the client as the condition key `aud` has it.
    pub fn client(&self) -> Option<&str> {
        self.authorized_party().or(self.audiences.first().map(String::as_str))
    }

    /// Condition keys with their values. `sub`, `aud`, `oaud`, `azp` and `amr` stand first, then the token's other claims. No two
    /// names differ in case alone.
    pub fn claims(&self) -> &[(String, Vec<String>)] {
        &self.claims
    }
}

/// Why a document is not believed. This text is for the log; [`FederationError::message`] is the caller's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FederationError {
    #[error("no ID token: {0}")]
    NotAToken(&'static str),
    #[error("the token has no `{0}`")]
    MissingClaim(&'static str),
    #[error("the account has no provider for `{0}`")]
    NoProvider(String),
    #[error("the token's algorithm is not one that its provider is registered with")]
    AlgorithmRefused,
    /// None of the issuer's keys is the token's. The issuer may have a new one.
    #[error("`{0}` has no key for the token's kid and algorithm")]
    UnknownKey(String),
    #[error("the keys of `{issuer}` are not to be had: {cause}")]
    KeysUnavailable { issuer: String, cause: String },
    #[error("the token's signature is not its issuer's")]
    BadSignature,
    #[error("the token expired at {expiry}")]
    Expired { now: i64, expiry: i64 },
    #[error("the token is not valid yet: `{claim}` is {value}")]
    NotYet { claim: &'static str, value: i64 },
    #[error("neither `aud` nor `azp` is a client of the provider")]
    Audience,
}

impl FederationError {
    /// RULE authorization.md §4.2, errors of STS.
    pub fn code(&self) -> &'static str {
        self.row().1
    }

    pub fn status(&self) -> u16 {
        self.row().0
    }

    fn row(&self) -> (u16, &'static str) {
        match self {
            FederationError::NotAToken(_)
            | FederationError::MissingClaim(_)
            | FederationError::NoProvider(_)
            | FederationError::AlgorithmRefused
            | FederationError::UnknownKey(_)
            | FederationError::BadSignature
            | FederationError::Audience => (400, "InvalidIdentityToken"),
            FederationError::KeysUnavailable { .. } => (400, "IDPCommunicationError"),
            FederationError::Expired { .. } => (400, "ExpiredTokenException"),
            FederationError::NotYet { .. } => (403, "IDPRejectedClaim"),
        }
    }

    /// What the caller is told, in AWS's words where they are known. An issuer in it has the characters of a URL alone.
    pub fn message(&self) -> String {
        match self {
            FederationError::NotAToken(_) | FederationError::AlgorithmRefused | FederationError::BadSignature => {
                "The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)"
                    .to_owned()
            }
            FederationError::MissingClaim(claim) => format!("Missing a required claim: {claim}"),
            FederationError::NoProvider(issuer) => {
                format!("No OpenIDConnect provider found in your account for {issuer}")
            }
            FederationError::UnknownKey(_) => "Couldn't retrieve verification key from your identity provider, please \
                 reference AssumeRoleWithWebIdentity documentation for requirements"
                .to_owned(),
            FederationError::KeysUnavailable { .. } => {
                "The request could not be fulfilled because the identity provider (IDP) \
                 that was asked to verify the incoming identity token could not be reached."
                    .to_owned()
            }
            FederationError::Expired { now, expiry } => {
                format!("Token expired: current date/time {now} must be before the expiration date/time {expiry}")
            }
            FederationError::NotYet { claim, .. } => {
                format!("The identity provider (IDP) reported a claim that is not valid yet: {claim}")
            }
            FederationError::Audience => "Incorrect token audience".to_owned(),
        }
    }
}
