//! ID tokens: JWTs (RFC 7519) that an OpenID Connect issuer signed. Source: authorization.md §4.4, OpenID Connect Core §3.1.3.7.
//!
//! The signature is `jsonwebtoken`'s work; the claims are judged here, because that crate reads the system's clock.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::{
    Algorithm, Assertion, FederatedIdentity, FederationError, KeySet, KeySets, OidcProvider, Providers, is_issuer,
};
use crate::ids::AccountId;

/// Characters of `WebIdentityToken`.
const LONGEST_TOKEN: usize = 20_000;
/// Characters of `SubjectFromWebIdentityToken`.
const LONGEST_SUBJECT: usize = 255;
/// Seconds that the issuer's clock and ours may differ.
const LEEWAY: i64 = 60;
/// Claims about the token and not about who has it: no condition keys.
const ABOUT_THE_TOKEN: &[&str] = &["iss", "exp", "nbf", "iat", "jti", "nonce", "auth_time", "at_hash", "c_hash"];
/// Condition keys that are made below.
const MADE: &[&str] = &["sub", "aud", "oaud", "azp"];

/// The web identity of AssumeRoleWithWebIdentity.
pub struct Oidc {
    keys: KeySets,
}

impl Oidc {
    pub fn new(keys: KeySets) -> Self {
        Self { keys }
    }

    async fn verified(
        &self,
        token: &str,
        account: &AccountId,
        providers: &dyn Providers,
        now: i64,
    ) -> Result<Assertion, FederationError> {
        let claimed = Claimed::read(token)?;
        let provider = claimed.provider(account, providers)?;
        let algorithm = claimed.algorithm(&provider)?;
        let keys = self.keys.current(&provider, now).await?;
        match claimed.check_signature(algorithm, &provider, &keys) {
            Err(unknown @ FederationError::UnknownKey(_)) => {
                let newer = self.keys.renewed(&provider, &keys, now).await.ok_or(unknown)?;
                claimed.check_signature(algorithm, &provider, &newer)?;
            }
            outcome => outcome?,
        }
        check_times(&claimed.claims, now)?;
        assertion(claimed.claims, &provider)
    }
}

impl FederatedIdentity for Oidc {
    fn verify<'a>(
        &'a self,
        document: &'a str,
        account: &'a AccountId,
        providers: &'a dyn Providers,
        now: i64,
    ) -> Pin<Box<dyn Future<Output = Result<Assertion, FederationError>> + Send + 'a>> {
        Box::pin(self.verified(document, account, providers, now))
    }
}

/// A token as it is presented: nothing of it is believed yet.
struct Claimed<'a> {
    token: &'a str,
    algorithm: jsonwebtoken::Algorithm,
    kid: Option<String>,
    claims: Claims,
}

impl<'a> Claimed<'a> {
    fn read(token: &'a str) -> Result<Self, FederationError> {
        if token.len() > LONGEST_TOKEN {
            return Err(FederationError::NotAToken("it is longer than 20,000 characters"));
        }
        let no_jwt =
            || FederationError::NotAToken("it is not three parts of base64url with JSON objects in the first two");
        // Refuses `none` and every algorithm that it does not know.
        let header = decode_header(token).map_err(|_| no_jwt())?;
        // RULE RFC 7515 §4.1.11: what is critical must be understood, and no extension is.
        if header.crit.is_some() {
            return Err(FederationError::NotAToken("its header has `crit`"));
        }
        let payload = token.split('.').nth(1).ok_or_else(no_jwt)?;
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| no_jwt())?;
        let claims: Claims = serde_json::from_slice(&payload).map_err(|_| no_jwt())?;
        Ok(Self { token, algorithm: header.alg, kid: header.kid, claims })
    }

    fn provider(&self, account: &AccountId, providers: &dyn Providers) -> Result<Arc<OidcProvider>, FederationError> {
        let issuer = self.claims.required_text("iss")?;
        if !is_issuer(issuer) {
            return Err(FederationError::NotAToken("`iss` is no URL"));
        }
        // RULE OpenID Connect Core §3.1.3.7, 2: exactly the issuer, whatever the view takes for equal.
        providers
            .oidc(account, issuer)
            .filter(|provider| provider.url == issuer)
            .ok_or_else(|| FederationError::NoProvider(issuer.to_owned()))
    }

    fn algorithm(&self, provider: &OidcProvider) -> Result<Algorithm, FederationError> {
        let named = provider.algorithms.iter().find(|algorithm| algorithm.jwa() == self.algorithm);
        named.copied().ok_or(FederationError::AlgorithmRefused)
    }

    fn check_signature(
        &self,
        algorithm: Algorithm,
        provider: &OidcProvider,
        keys: &KeySet,
    ) -> Result<(), FederationError> {
        let mut validation = Validation::new(algorithm.jwa());
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let unknown = || FederationError::UnknownKey(provider.url.clone());
        let mut refusal = unknown();
        for key in keys.candidates(self.kid.as_deref(), algorithm) {
            match decode::<IgnoredAny>(self.token, key, &validation) {
                Ok(_) => return Ok(()),
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {
                    refusal = FederationError::BadSignature;
                }
                Err(_) => refusal = FederationError::NotAToken("its signature is not base64url"),
            }
        }
        // Without a kid nothing tells a forged token from one whose key is new.
        Err(if self.kid.is_none() { unknown() } else { refusal })
    }
}

/// The members of the payload, in their order.
struct Claims(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Claims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
                let (mut claims, mut names) = (Vec::new(), HashSet::new());
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    // RULE RFC 7519 §4: claim names are unique.
                    if !names.insert(name.clone()) {
                        return Err(serde::de::Error::custom("a claim stands twice"));
                    }
                    claims.push((name, value));
                }
                Ok(Claims(claims))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

impl Claims {
    fn value(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    fn required(&self, name: &'static str) -> Result<&Value, FederationError> {
        self.value(name).ok_or(FederationError::MissingClaim(name))
    }

    fn required_text(&self, name: &'static str) -> Result<&str, FederationError> {
        self.required(name)?.as_str().ok_or(FederationError::NotAToken("`iss` or `sub` is no text"))
    }

    fn time(&self, name: &'static str) -> Result<Option<i64>, FederationError> {
        self.value(name).map(time).transpose()
    }
}

/// NumericDate of RFC 7519 §2: seconds, which may have a fraction.
fn time(value: &Value) -> Result<i64, FederationError> {
    // Whole numbers up to here are exact in both shapes of a JSON number.
    const FURTHEST: f64 = 9_007_199_254_740_992.0;
    match value.as_f64() {
        Some(seconds) if seconds.abs() < FURTHEST => Ok(seconds.floor() as i64),
        _ => Err(FederationError::NotAToken("`exp`, `nbf` or `iat` is no time")),
    }
}

/// RULE authorization.md §4.4: `exp` is required; `nbf` and `iat` are not in the future.
fn check_times(claims: &Claims, now: i64) -> Result<(), FederationError> {
    let expiry = time(claims.required("exp")?)?;
    if now >= expiry.saturating_add(LEEWAY) {
        return Err(FederationError::Expired { now, expiry });
    }
    for claim in ["nbf", "iat"] {
        if let Some(value) = claims.time(claim)?
            && value > now.saturating_add(LEEWAY)
        {
            return Err(FederationError::NotYet { claim, value });
        }
    }
    Ok(())
}

fn assertion(claims: Claims, provider: &OidcProvider) -> Result<Assertion, FederationError> {
    let subject = claims.required_text("sub")?.to_owned();
    if subject.is_empty() || subject.len() > LONGEST_SUBJECT {
        return Err(FederationError::NotAToken("`sub` is empty or longer than 255 characters"));
    }
    let bad_audience = FederationError::NotAToken("`aud` or `azp` is neither text nor a list of texts");
    let audiences = texts(claims.required("aud")?).ok_or_else(|| bad_audience.clone())?;
    let authorized_party = match claims.value("azp") {
        None => None,
        Some(value) => Some(value.as_str().ok_or(bad_audience)?.to_owned()),
    };
    if !audiences.iter().chain(&authorized_party).any(|client| provider.client_ids.contains(client)) {
        return Err(FederationError::Audience);
    }
    Ok(Assertion {
        provider_arn: provider.arn.clone(),
        issuer: provider.url.clone(),
        claims: condition_keys(claims, &subject, &audiences, authorized_party.as_ref(), provider)?,
        subject,
        audiences,
        authorized_party,
    })
}

/// RULE IAM user guide, "Available keys for AWS OIDC federation": `aud` is the token's `azp` where it has one and else its `aud`, which
/// `oaud` is always.
fn condition_keys(
    claims: Claims,
    subject: &str,
    audiences: &[String],
    authorized_party: Option<&String>,
    provider: &OidcProvider,
) -> Result<Vec<(String, Vec<String>)>, FederationError> {
    let client = authorized_party.map_or_else(|| audiences.to_vec(), |party| vec![party.clone()]);
    let mut keys = vec![("sub", vec![subject.to_owned()]), ("aud", client), ("oaud", audiences.to_vec())];
    keys.extend(authorized_party.map(|party| ("azp", vec![party.clone()])));
    let mut keys: Vec<(String, Vec<String>)> =
        keys.into_iter().map(|(name, values)| (provider.condition_key(name), values)).collect();
    // Condition keys are compared without case: `SUB` beside `sub` would be a second value of the same key.
    let mut names: HashSet<String> = MADE.iter().map(|name| (*name).to_owned()).collect();
    let (methods, others): (Vec<_>, Vec<_>) = claims.0.into_iter().partition(|(name, _)| name == "amr");
    for (name, value) in methods.into_iter().chain(others) {
        if MADE.contains(&name.as_str()) || ABOUT_THE_TOKEN.contains(&name.as_str()) {
            continue;
        }
        if !names.insert(name.to_lowercase()) {
            return Err(FederationError::NotAToken("two of its claims differ in case alone"));
        }
        if let Some(values) = shown(&value) {
            keys.push((provider.condition_key(&name), values));
        }
    }
    Ok(keys)
}

/// Texts, truth values and lists of texts become condition keys; numbers, objects and mixed lists do not.
fn shown(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Bool(truth) => Some(vec![truth.to_string()]),
        other => texts(other),
    }
}

fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(all) => all.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}
