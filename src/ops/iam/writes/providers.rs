//! Identity providers and registered services.

use super::{IdKind, identities, known_account, no_repetition, over, refused};
use crate::ids::{AccountId, Arn, ServiceName};
use crate::ops::OpError;
use crate::ops::iam::{OidcProviderSpec, ServiceSpec};
use crate::store::{KeySource, OidcProviderRecord, Owner, ServiceRecord, Snapshot, Write};

// RULE IAM quotas and API reference, CreateOpenIDConnectProvider.
const CLIENT_IDS: usize = 100;
const LONGEST_CLIENT_ID: usize = 255;
const LONGEST_URL: usize = 255;
/// What tokens may be signed with. Never `none`, never a MAC: the keys are public.
const ALGORITHMS: [&str; 9] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// `arn:aws:iam::111122223333:oidc-provider/issuer.example/path`
pub fn provider_arn(account: &AccountId, url: &str) -> String {
    let issuer = url.strip_prefix("https://").unwrap_or(url);
    format!("arn:aws:iam::{account}:oidc-provider/{issuer}")
}

pub fn put_provider(snapshot: &Snapshot, spec: &OidcProviderSpec, now: i64) -> Result<Vec<Write>, OpError> {
    known_account(snapshot, &spec.account)?;
    https(&spec.url, "the provider's URL")?;
    if spec.url.len() > LONGEST_URL {
        return refused(format!("the provider's URL has more than {LONGEST_URL} characters"));
    }
    if spec.client_ids.is_empty() {
        return refused("a provider has at least one client id: which audience its tokens may have");
    }
    if spec.client_ids.len() > CLIENT_IDS {
        return over(format!("Cannot exceed quota for ClientIdsPerOpenIdConnectProvider: {CLIENT_IDS}"));
    }
    no_repetition(&spec.client_ids)?;
    if let Some(id) = spec.client_ids.iter().find(|id| !(1..=LONGEST_CLIENT_ID).contains(&id.chars().count())) {
        return refused(format!("client id `{id}`: 1 to {LONGEST_CLIENT_ID} characters are allowed"));
    }
    if spec.algorithms.is_empty() {
        return refused("a provider has at least one algorithm that its tokens are signed with");
    }
    no_repetition(&spec.algorithms)?;
    if let Some(other) = spec.algorithms.iter().find(|name| !ALGORITHMS.contains(&name.as_str())) {
        return refused(format!("tokens cannot be signed with `{other}`: {} are allowed", ALGORITHMS.join(", ")));
    }
    match &spec.keys {
        KeySource::Static { jwks } => {
            let keys = serde_json::from_str::<serde_json::Value>(jwks)
                .map_err(|error| OpError::Validation(format!("the JSON Web Key Set is no JSON: {error}")))?;
            if keys.get("keys").and_then(|keys| keys.as_array()).is_none_or(Vec::is_empty) {
                return refused("the JSON Web Key Set has no `keys`");
            }
        }
        KeySource::Fetched { url, ca } => {
            https(url, "the URL of the keys")?;
            if ca.as_ref().is_some_and(|pem| !pem.contains("-----BEGIN CERTIFICATE-----")) {
                return refused("the authority for the URL of the keys is no certificate in PEM");
            }
        }
    }
    let arn = provider_arn(&spec.account, &spec.url);
    let known = snapshot.oidc_providers.get(&arn);
    let record = OidcProviderRecord {
        arn,
        account: spec.account.clone(),
        url: spec.url.clone(),
        client_ids: spec.client_ids.clone(),
        algorithms: spec.algorithms.clone(),
        keys: spec.keys.clone(),
        created: known.map_or(now, |provider| provider.created),
    };
    Ok(if known.is_some_and(|known| **known == record) { Vec::new() } else { vec![Write::PutOidcProvider(record)] })
}

pub fn delete_provider(snapshot: &Snapshot, arn: &str) -> Result<Vec<Write>, OpError> {
    match snapshot.oidc_providers.contains_key(arn) {
        true => Ok(vec![Write::DeleteOidcProvider(arn.to_owned())]),
        false => refused(format!("OpenIDConnect Provider not found for arn {arn}")),
    }
}

pub fn put_service(
    snapshot: &Snapshot,
    spec: &ServiceSpec,
    now: i64,
    ids: &mut impl FnMut(IdKind) -> String,
) -> Result<Vec<Write>, OpError> {
    known_account(snapshot, &spec.account)?;
    let known = snapshot.services.get(&spec.name);
    if let Some(other) = known.filter(|known| known.account != spec.account) {
        return refused(format!("service {} is registered in account {}", spec.name, other.account));
    }
    if let Some(word) = &spec.managed_key {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !(1..=64).contains(&word.len()) || !word.bytes().all(legal) {
            return refused(format!(
                "`{word}` cannot stand behind `alias/aws/`: 1 to 64 small letters, digits and dashes"
            ));
        }
        let other = snapshot
            .services
            .values()
            .find(|service| service.name != spec.name && service.managed_key.as_ref() == Some(word));
        if let Some(other) = other {
            return refused(format!("`alias/aws/{word}` is service {}'s", other.name));
        }
    }
    no_repetition(&spec.may_act_for)?;
    if let Some(wrong) = spec.may_act_for.iter().find(|text| !is_principal_pattern(text)) {
        return refused(format!(
            "`{wrong}` is nobody to act for: an account id, or the ARN of a user or role in which `*` is a wildcard"
        ));
    }
    let record = ServiceRecord {
        name: spec.name.clone(),
        account: spec.account.clone(),
        service_id: known.map_or_else(|| ids(IdKind::Service), |service| service.service_id.clone()),
        created: known.map_or(now, |service| service.created),
        managed_key: spec.managed_key.clone(),
        may_act_for: spec.may_act_for.clone(),
    };
    Ok(if known.is_some_and(|known| **known == record) { Vec::new() } else { vec![Write::PutService(record)] })
}

pub fn delete_service(snapshot: &Snapshot, name: &ServiceName) -> Result<Vec<Write>, OpError> {
    let Some(service) = snapshot.services.get(name) else {
        return refused(format!("there is no service {name}"));
    };
    let mut writes = identities::access_keys_of(snapshot, &service.account, Owner::Service(name.clone()));
    writes.push(Write::DeleteService(name.clone()));
    Ok(writes)
}

/// An account id, or an ARN of users, roles, root or their sessions. The account is never a wildcard: a service acts for
/// those whom somebody named.
fn is_principal_pattern(text: &str) -> bool {
    if text.parse::<AccountId>().is_ok() {
        return true;
    }
    Arn::parse(text).is_ok_and(|arn| {
        arn.partition == "aws"
            && matches!(arn.service, "iam" | "sts")
            && arn.region.is_empty()
            && arn.account.parse::<AccountId>().is_ok()
    })
}

/// RULE OpenID Connect Core §2, `iss`: https, without query and fragment.
fn https(url: &str, what: &str) -> Result<(), OpError> {
    let host = url.strip_prefix("https://").and_then(|rest| rest.split('/').next());
    let legal = url.bytes().all(|b| b.is_ascii_graphic() && !b"?#\"<>\\".contains(&b));
    match host {
        Some(host) if !host.is_empty() && !host.contains('@') && legal => Ok(()),
        _ => refused(format!("{what} is `{url}`: `https://host/path` is wanted, without query and fragment")),
    }
}
