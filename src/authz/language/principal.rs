//! The Principal element (authorization.md §2.2). Who of the callers a principal matches is the evaluator's matter.

use crate::ids::{AccountId, Arn};

use super::NamedPrincipal;
use super::json::Node;

/// One entry of a Principal or NotPrincipal element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// `*` or `{"AWS": "*"}`: all identities of AWS, no services.
    Everyone,
    /// A bare account id or the account's root ARN.
    Account(Box<str>),
    Arn(Box<str>),
    Service(Box<str>),
    Federated(Box<str>),
    /// `AIDA…` or `AROA…`, as a key policy shows a principal that is gone. Such an id is never used again: it matches nobody.
    UniqueId(Box<str>),
    /// What was stored and is no principal: a group, an ARN with wildcards. Matches nobody.
    Nobody,
}

/// The Principal or NotPrincipal of a statement.
#[derive(Debug, Clone)]
pub struct Principals {
    /// NotPrincipal: everyone but these.
    pub negated: bool,
    pub list: Box<[Principal]>,
}

impl Principal {
    pub fn named(&self) -> Option<NamedPrincipal<'_>> {
        Some(match self {
            Principal::Everyone => NamedPrincipal::Everyone,
            Principal::Account(account) => NamedPrincipal::Account(account),
            Principal::Arn(arn) => NamedPrincipal::Arn(arn),
            Principal::Service(name) => NamedPrincipal::Service(name),
            Principal::Federated(arn) => NamedPrincipal::Federated(arn),
            Principal::UniqueId(id) => NamedPrincipal::UniqueId(id),
            Principal::Nobody => return None,
        })
    }
}

/// Where providers of OIDC and SAML may be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Providers {
    Known,
    Unknown,
}

/// Reads the element. What is no principal becomes `Principal::Nobody`, and its text is given to `invalid`. `None`: not even
/// the form is right.
pub fn read(node: Node, providers: Providers, mut invalid: impl FnMut(&str)) -> Option<Vec<Principal>> {
    let members = match node {
        Node::Text(text) if text == "*" => return Some(vec![Principal::Everyone]),
        Node::Text(text) => {
            invalid(&text);
            return Some(vec![Principal::Nobody]);
        }
        Node::Object(members) if !members.is_empty() => members,
        _ => return None,
    };
    let mut list = Vec::new();
    for (kind, value) in members {
        let names = match value {
            Node::Text(name) => vec![name],
            Node::List(names) if !names.is_empty() => names
                .into_iter()
                .map(|n| match n {
                    Node::Text(name) => Some(name),
                    _ => None,
                })
                .collect::<Option<_>>()?,
            _ => return None,
        };
        for name in names {
            let principal = match kind.as_str() {
                "AWS" => aws(&name),
                "Service" if is_service(&name) => Principal::Service(name.as_str().into()),
                "Federated" if providers == Providers::Known && is_provider(&name) => {
                    Principal::Federated(name.as_str().into())
                }
                _ => Principal::Nobody,
            };
            if principal == Principal::Nobody {
                invalid(&name);
            }
            list.push(principal);
        }
    }
    Some(list)
}

/// RULE §1.3: `*` alone is the one wildcard that a principal may be. Groups are no principals.
fn aws(name: &str) -> Principal {
    if name == "*" {
        return Principal::Everyone;
    }
    if name.parse::<AccountId>().is_ok() {
        return Principal::Account(name.into());
    }
    if is_unique_id(name) {
        return Principal::UniqueId(name.into());
    }
    let Ok(arn) = Arn::parse(name) else { return Principal::Nobody };
    let sound = arn.partition.starts_with("aws")
        && arn.region.is_empty()
        && arn.account.parse::<AccountId>().is_ok()
        && !name.contains(['*', '?']);
    match (arn.service, arn.resource) {
        _ if !sound => Principal::Nobody,
        ("iam", "root") => Principal::Account(arn.account.into()),
        ("iam", resource) if has_name(resource, &["user/", "role/"]) => Principal::Arn(name.into()),
        ("sts", resource) if has_name(resource, &["federated-user/"]) => Principal::Arn(name.into()),
        ("sts", resource) => match resource.strip_prefix("assumed-role/").and_then(|r| r.split_once('/')) {
            Some((role, session)) if !role.is_empty() && !session.is_empty() && !session.contains('/') => {
                Principal::Arn(name.into())
            }
            _ => Principal::Nobody,
        },
        _ => Principal::Nobody,
    }
}

/// RULE §2.2: they appear when a principal was deleted. Whether a policy may say one again, its writer decides.
fn is_unique_id(name: &str) -> bool {
    let (id, session) = name.split_once(':').map_or((name, None), |(id, session)| (id, Some(session)));
    let role = id.starts_with("AROA");
    (role || id.starts_with("AIDA"))
        && (16..=128).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        && session.is_none_or(|name| {
            role && !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b))
        })
}

fn has_name(resource: &str, kinds: &[&str]) -> bool {
    kinds.iter().any(|kind| resource.strip_prefix(kind).is_some_and(|name| !name.is_empty() && !name.ends_with('/')))
}

fn is_service(name: &str) -> bool {
    name.contains('.') && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
}

fn is_provider(name: &str) -> bool {
    Arn::parse(name).is_ok_and(|arn| {
        arn.service == "iam"
            && arn.account.parse::<AccountId>().is_ok()
            && has_name(arn.resource, &["oidc-provider/", "saml-provider/"])
            && !name.contains(['*', '?'])
    })
}
