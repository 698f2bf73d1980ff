//! The condition keys of a live request, each computed when a policy asks for it. Source: authorization.md §2.7; which
//! operation has which: §1.14.

use std::borrow::Cow;
use std::net::IpAddr;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::identities::{Identity, units};
use super::language::{ConditionKeys, Effort, Values};
use super::{Check, Resource};
use crate::authn::{Principal, Session};
use crate::ids::{AccountId, Region};
use crate::store::{KeyRecord, Snapshot};

const DAY_MS: i64 = 86_400_000;

/// What a request brings beside its caller and its content.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Milliseconds since the epoch.
    pub now: i64,
    /// `None`: not over the network.
    pub source_ip: Option<IpAddr>,
    /// TLS on the client's leg.
    pub secure_transport: bool,
    pub user_agent: Option<String>,
    /// Of this bridge.
    pub region: Region,
}

/// The condition keys of one check.
pub struct Keys<'a> {
    pub environment: &'a Environment,
    pub identity: &'a Identity<'a>,
    pub snapshot: &'a Snapshot,
    pub check: &'a Check<'a>,
    /// For comparing patterns with all of it.
    effort: Effort,
}

impl ConditionKeys for Keys<'_> {
    fn value(&self, name: &str) -> Option<Values<'_>> {
        // What the request says comes first: CreateKey has a KeySpec without a key.
        let given = self.check.conditions.request.iter();
        if let Some((_, values)) = spelled(given.map(|(key, values)| (key.as_ref(), values)), name) {
            return Some(values.clone());
        }
        let folded = name.to_ascii_lowercase();
        match folded.split_once(':') {
            Some(("aws", rest)) => self.aws(name, rest),
            Some(("kms", rest)) => self.kms(name, rest),
            Some(("hsmbridge", "aliasgeneration")) => one(self.check.conditions.alias_generation?.as_str()),
            _ => self.claim(name),
        }
    }

    fn effort(&self) -> Option<&Effort> {
        Some(&self.effort)
    }
}

fn one<'a>(value: impl Into<Cow<'a, str>>) -> Option<Values<'a>> {
    Some(Values::One(value.into()))
}

fn truth(value: bool) -> Option<Values<'static>> {
    one(if value { "true" } else { "false" })
}

/// Many values; none at all is an absent key.
fn many<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<Values<'a>> {
    let values: Vec<Cow<'a, str>> = values.into_iter().map(Cow::Borrowed).collect();
    (!values.is_empty()).then_some(Values::Many(values))
}

/// RULE §2.6: names without regard to case; of several that differ in case only, the exact spelling.
fn spelled<'a, T>(pairs: impl Iterator<Item = (&'a str, T)> + Clone, name: &str) -> Option<(&'a str, T)> {
    let exact = pairs.clone().find(|(key, _)| *key == name);
    exact.or_else(|| pairs.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)))
}

/// The value of a tag or of a pair of an encryption context. `name` is the condition key after `prefix`.
fn pair<'a>(pairs: &'a [(String, String)], name: &str, prefix: usize) -> Option<Values<'a>> {
    let name = name.get(prefix..)?;
    one(spelled(pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())), name)?.1)
}

/// ISO 8601, to the second.
fn date(seconds: i64) -> Option<Values<'static>> {
    one(OffsetDateTime::from_unix_timestamp(seconds).ok()?.format(&Rfc3339).ok()?)
}

impl<'a> Keys<'a> {
    pub fn new(
        environment: &'a Environment,
        identity: &'a Identity<'a>,
        snapshot: &'a Snapshot,
        check: &'a Check<'a>,
    ) -> Self {
        Self { environment, identity, snapshot, check, effort: Effort::new(Effort::OF_A_DECISION) }
    }

    /// Whether comparing patterns took more than it may.
    pub fn effort_is_spent(&self) -> bool {
        self.effort.is_spent()
    }

    fn aws(&self, name: &str, rest: &str) -> Option<Values<'_>> {
        const PRINCIPAL_TAG: &str = "aws:principaltag/";
        const RESOURCE_TAG: &str = "aws:resourcetag/";
        let caller = self.identity.caller;
        let principal = caller.principal();
        let identity = !matches!(principal, Principal::Service { .. } | Principal::WebIdentity(_));
        let now = self.environment.now.div_euclid(1000);
        match rest {
            // Of a caller behind a service only the service's address is known.
            "sourceip" if caller.via().is_some() => None,
            "sourceip" => one(self.environment.source_ip?.to_string()),
            "securetransport" => truth(self.environment.secure_transport),
            "currenttime" => date(now),
            "epochtime" => one(now.to_string()),
            "requestedregion" => one(self.environment.region.as_str()),
            "useragent" => one(self.environment.user_agent.as_deref()?),
            "principalarn" if identity => one(caller.principal_arn()),
            "principalaccount" if identity => one(caller.account().as_str()),
            "principaltype" => one(match principal {
                Principal::Root => "Account",
                Principal::User { .. } => "User",
                Principal::AssumedRole { .. } => "AssumedRole",
                Principal::FederatedUser { .. } => "FederatedUser",
                _ => return None,
            }),
            "userid" if identity => one(caller.unique_id()),
            "username" => match principal {
                Principal::User { name, .. } => one(name.as_str()),
                _ => None,
            },
            "principalorgid" if identity => one(self.organization(caller.account())?.0),
            "principalorgpaths" if identity => {
                Some(Values::Many(vec![Cow::Owned(self.organization(caller.account())?.1)]))
            }
            "principalisawsservice" => truth(matches!(principal, Principal::Service { .. })),
            "principalservicename" => match principal {
                Principal::Service { name, .. } => one(name.as_str()),
                _ => None,
            },
            "principalservicenameslist" => match principal {
                Principal::Service { name, .. } => many([name.as_str()]),
                _ => None,
            },
            "viaawsservice" => truth(caller.via().is_some()),
            "calledvia" => many(caller.via().map(|service| service.as_str())),
            "calledviafirst" | "calledvialast" => one(caller.via()?.as_str()),
            // RULE §1.11: only registered services are believed.
            "sourcearn" => one(caller.source()?.arn.as_deref()?),
            "sourceaccount" => one(caller.source()?.account.as_ref()?.as_str()),
            "resourceaccount" => one(self.owner()?.as_str()),
            "resourceorgid" => one(self.organization(self.owner()?)?.0),
            "resourceorgpaths" => Some(Values::Many(vec![Cow::Owned(self.organization(self.owner()?)?.1)])),
            _ if rest.starts_with("principaltag/") => {
                let of_session = caller.session().map_or(&[][..], |session| &session.tags);
                pair(of_session, name, PRINCIPAL_TAG.len())
                    .or_else(|| pair(self.identity.tags, name, PRINCIPAL_TAG.len()))
            }
            _ if rest.starts_with("resourcetag/") => pair(self.resource_tags(), name, RESOURCE_TAG.len()),
            _ => self.of_session(caller.session()?, rest, now),
        }
    }

    /// Only temporary credentials have these.
    fn of_session<'s>(&self, session: &'s Session, rest: &str, now: i64) -> Option<Values<'s>> {
        match rest {
            "tokenissuetime" => date(session.issued),
            "multifactorauthpresent" => truth(session.mfa_at.is_some()),
            "multifactorauthage" => one((now - session.mfa_at?).to_string()),
            "sourceidentity" => one(session.source_identity.as_deref()?),
            "federatedprovider" => one(session.federated_provider.as_deref()?),
            _ => None,
        }
    }

    fn kms(&self, name: &str, rest: &str) -> Option<Values<'_>> {
        const CONTEXT: &str = "kms:encryptioncontext:";
        let Check { action, conditions, encryption_context, .. } = self.check;
        let caller = self.identity.caller;
        match rest {
            "calleraccount" if has_caller_account(action) => one(caller.account().as_str()),
            "viaservice" if has_caller_account(action) && !action.contains("CustomKeyStore") => {
                one(caller.via()?.as_str())
            }
            "grantisforawsresource" if matches!(*action, "kms:CreateGrant" | "kms:ListGrants" | "kms:RevokeGrant") => {
                truth(caller.via().is_some())
            }
            "requestalias" => one(conditions.request_alias?.as_str()),
            "resourcealiases" => many(conditions.resource_aliases.iter().map(|alias| alias.as_str())),
            "encryptioncontextkeys" => many(encryption_context.iter().map(|(key, _)| key.as_str())),
            "trailingdayswithoutkeyusage" => {
                one((self.environment.now - conditions.last_used?).max(0).div_euclid(DAY_MS).to_string())
            }
            _ if rest.starts_with("encryptioncontext:") => pair(encryption_context, name, CONTEXT.len()),
            _ => match self.check.resource {
                Resource::Key { record, .. } => of_key(record, rest),
                _ => None,
            },
        }
    }

    /// What an identity provider's token said, when it was exchanged or now.
    fn claim(&self, name: &str) -> Option<Values<'_>> {
        let claims = match self.identity.caller.principal() {
            Principal::WebIdentity(identity) => &identity.claims,
            _ => &self.identity.caller.session()?.claims,
        };
        let (_, values) = spelled(claims.iter().map(|(key, values)| (key.as_str(), values)), name)?;
        match values.as_slice() {
            [value] => one(value.as_str()),
            values => many(values.iter().map(String::as_str)),
        }
    }

    /// Whose the resource is; `*` is the caller's own account.
    fn owner(&self) -> Option<&AccountId> {
        match &self.check.resource {
            Resource::Key { record, .. } => Some(&record.account),
            Resource::Role { record, .. } => Some(&record.account),
            Resource::Alias { account, .. } | Resource::OfTheLog { account, .. } => Some(account),
            Resource::Any => Some(self.identity.caller.account()),
            Resource::Foreign | Resource::Command(_) | Resource::Timer(_) | Resource::Identity => None,
        }
    }

    fn resource_tags(&self) -> &[(String, String)] {
        match &self.check.resource {
            Resource::Key { record, .. } => &record.tags,
            Resource::Role { record, .. } => &record.tags,
            _ => &[],
        }
    }

    /// Id and path of an account's organisation: `o-…/r-…/ou-…/`.
    fn organization(&self, account: &AccountId) -> Option<(&str, String)> {
        let first = self.snapshot.accounts.get(account)?.unit.as_deref()?;
        let chain = units(self.snapshot, first).collect::<Result<Vec<_>, _>>().ok()?;
        let id = chain.last()?.organization.as_str();
        let mut path = format!("{id}/");
        for unit in chain.iter().rev() {
            path.push_str(&unit.id);
            path.push('/');
        }
        Some((id, path))
    }
}

/// RULE §1.14: these have no condition keys of their own.
fn has_caller_account(action: &str) -> bool {
    !matches!(action, "kms:GenerateRandom" | "kms:ListAliases" | "kms:ListKeys" | "kms:ListRetirableGrants")
}

fn of_key<'a>(key: &'a KeyRecord, rest: &str) -> Option<Values<'a>> {
    match rest {
        "keyspec" | "customermasterkeyspec" => one(key.spec.as_str()),
        "keyusage" | "customermasterkeyusage" => one(key.usage.as_str()),
        "keyorigin" => one(if key.key_store.is_some() { "AWS_CLOUDHSM" } else { "AWS_KMS" }),
        "multiregion" => truth(key.id.is_multi_region()),
        "multiregionkeytype" => key.id.is_multi_region().then_some(Values::One(Cow::Borrowed("PRIMARY"))),
        _ => None,
    }
}
