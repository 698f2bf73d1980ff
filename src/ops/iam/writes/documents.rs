//! Policy documents at their write: form, size, and whom a trust policy names.

use std::collections::BTreeMap;

use crate::authz::language::{Malformed, NamedPrincipal, Policy, PolicyKind};
use crate::ids::{Arn, PolicyDocument, PolicyName};
use crate::ops::OpError;
use crate::ops::principals::{known_account, known_principal, known_service};
use crate::store::Snapshot;

/// Names the policy in a refusal: a command may bring many.
pub fn parse(text: &str, kind: PolicyKind, whose: &str) -> Result<Policy, OpError> {
    Policy::parse(text, kind).map_err(|Malformed { text, too_long }| {
        let text = format!("{whose}: {text}");
        if too_long { OpError::LimitExceeded(text) } else { OpError::MalformedPolicy(text) }
    })
}

/// RULE IAM quotas: the limit is for all inline policies of an identity together, white space not counted.
pub fn inline(
    documents: &BTreeMap<PolicyName, String>,
    max: usize,
    whose: &str,
) -> Result<BTreeMap<PolicyName, PolicyDocument>, OpError> {
    let mut size = 0;
    let mut parsed = BTreeMap::new();
    for (name, text) in documents {
        size += parse(text, PolicyKind::IdentityInline { max }, &format!("policy {name} of {whose}"))?.size();
        parsed.insert(name.clone(), PolicyDocument::plain(text.as_str()));
    }
    if size > max {
        return Err(OpError::LimitExceeded(format!("Maximum policy size of {max} bytes exceeded for {whose}")));
    }
    Ok(parsed)
}

/// A trust policy with its principals bound to their unique ids.
pub fn trust(snapshot: &Snapshot, text: &str, whose: &str) -> Result<PolicyDocument, OpError> {
    let policy = parse(text, PolicyKind::Trust, whose)?;
    let mut bound = BTreeMap::new();
    for principal in policy.principals() {
        let (name, known) = match principal {
            NamedPrincipal::Everyone => continue,
            NamedPrincipal::Account(text) => {
                let id = Arn::parse(text).map_or(text, |arn| arn.account);
                (text, known_account(snapshot, id).is_some())
            }
            NamedPrincipal::Arn(arn) => match known_principal(snapshot, arn) {
                Some(known) => {
                    bound.extend(known.unique_id.map(|id| (arn.to_owned(), id)));
                    (arn, true)
                }
                None => (arn, false),
            },
            // Services that were registered, and AWS's own: policies that were written for AWS stay writable.
            NamedPrincipal::Service(name) => {
                (name, known_service(snapshot, name).is_some() || name.ends_with(".amazonaws.com"))
            }
            // RULE §2.2: ids stand for those who are gone.
            NamedPrincipal::UniqueId(id) => (id, false),
            NamedPrincipal::Federated(arn) => (arn, snapshot.oidc_providers.contains_key(arn)),
        };
        if !known {
            return Err(OpError::MalformedPolicy(format!(
                "{whose}: Policy contains a statement with one or more invalid principals. `{name}` is not known"
            )));
        }
    }
    Ok(PolicyDocument::new(text, bound))
}
