//! Who may: the decision over what was resolved. A pure function over records: no HTTP, no token, no clock.
//!
//! The full policy engine is a later issue. Until then the account's root user may do anything, the local operator what
//! the configuration lists, the service its timers, and everybody else nothing. The step, its proof and its place in the
//! pipeline are the final ones.

pub mod cases;
pub mod evaluate;
pub mod language;
mod managed;
pub mod policy;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::authn::{Caller, Principal};
use crate::ids::AliasName;
use crate::store::KeyRecord;

/// What one check is about.
#[derive(Debug, Clone)]
pub enum Resource<'a> {
    /// `*`: operations on the account.
    Any,
    Key {
        arn: &'a str,
        record: &'a Arc<KeyRecord>,
    },
    Alias {
        arn: &'a str,
    },
    /// An ARN of another account: there is no telling whether it exists.
    Foreign,
    /// A command of the local operator, `key:list` for example.
    Command(&'static str),
    /// A timer of the service.
    Timer(&'static str),
    /// The caller's own identity: always allowed, even under an explicit deny (authorization.md §4.2).
    Identity,
}

/// Whether a key was reached as an alias's key of now or of before: `hsmbridge:AliasGeneration`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AliasGeneration {
    Current,
    Retired,
}

impl AliasGeneration {
    pub fn as_str(self) -> &'static str {
        match self {
            AliasGeneration::Current => "current",
            AliasGeneration::Retired => "retired",
        }
    }
}

/// Condition keys that follow from what was resolved. Absent ones are absent, never empty.
#[derive(Debug, Clone, Copy, Default)]
pub struct Conditions<'a> {
    /// `kms:RequestAlias`: the alias by which the caller named the key. For a retired key only where `rotate` retired it:
    /// who points an alias elsewhere by hand may have meant to take the old key's users away.
    pub request_alias: Option<&'a AliasName>,
    /// `hsmbridge:AliasGeneration`
    pub alias_generation: Option<AliasGeneration>,
    /// `kms:ResourceAliases`: the aliases that point to the key now.
    pub resource_aliases: &'a [AliasName],
}

/// One question: may the caller perform this action on this resource?
#[derive(Debug, Clone)]
pub struct Check<'a> {
    /// `kms:Decrypt`
    pub action: &'static str,
    pub resource: Resource<'a>,
    pub conditions: Conditions<'a>,
}

impl<'a> Check<'a> {
    pub fn new(action: &'static str, resource: Resource<'a>) -> Self {
        Self { action, resource, conditions: Conditions::default() }
    }
}

/// What was resolved names every check that has to pass.
pub trait Checks {
    fn checks(&self) -> Vec<Check<'_>>;
}

/// Why the decision was what it was; goes into the audit record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grounds {
    /// `Allow` or `Deny`.
    pub decision: &'static str,
    /// `Root`, `OperatorConfiguration`, `Service`, `IdentityPolicy`.
    pub source: &'static str,
}

/// Proof that every check of an operation passed, with the caller and exactly what was checked. Only `decide` makes it.
#[derive(Debug)]
pub struct Permit<R> {
    caller: Caller,
    resolved: R,
    grounds: Grounds,
}

impl<R> Permit<R> {
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    pub fn resolved(&self) -> &R {
        &self.resolved
    }

    pub fn grounds(&self) -> Grounds {
        self.grounds
    }
}

/// A refusal. `message` is AWS's text (authorization.md §1.13) and safe to show.
#[derive(Debug)]
pub struct Denied<R> {
    pub caller: Caller,
    pub resolved: R,
    pub message: String,
    pub grounds: Grounds,
}

/// What the configuration lets the local operator do: names such as `key:list`.
#[derive(Debug, Clone, Default)]
pub struct OperatorCommands(pub BTreeSet<String>);

/// Runs all checks. Missing configuration never means "allowed".
pub fn decide<R: Checks>(
    caller: Caller,
    resolved: R,
    operator: &OperatorCommands,
) -> Result<Permit<R>, Box<Denied<R>>> {
    let mut refusal = None;
    let mut asked = 0;
    for check in resolved.checks() {
        asked += 1;
        if let Some(message) = managed::forbidden(&caller, &check) {
            refusal = Some(message);
            break;
        }
        if let Err(message) = allowed(&caller, &check, operator) {
            refusal = Some(message);
            break;
        }
    }
    let source = source(caller.principal());
    match refusal {
        None if asked > 0 => Ok(Permit { caller, resolved, grounds: Grounds { decision: "Allow", source } }),
        None => {
            let message = format!("User: {} is not authorized to perform this operation", caller.arn());
            Err(Box::new(Denied { caller, resolved, message, grounds: Grounds { decision: "Deny", source } }))
        }
        Some(message) => {
            Err(Box::new(Denied { caller, resolved, message, grounds: Grounds { decision: "Deny", source } }))
        }
    }
}

fn source(principal: &Principal) -> &'static str {
    match principal {
        Principal::Root => "Root",
        Principal::User { .. }
        | Principal::AssumedRole { .. }
        | Principal::FederatedUser { .. }
        | Principal::Service { .. }
        | Principal::WebIdentity(_) => "IdentityPolicy",
        Principal::Operator { .. } => "OperatorConfiguration",
        Principal::Bridge => "Service",
    }
}

fn allowed(caller: &Caller, check: &Check<'_>, operator: &OperatorCommands) -> Result<(), String> {
    match (caller.principal(), &check.resource) {
        (_, Resource::Foreign) => Err(format!(
            "User: {} is not authorized to perform: {} on this resource because the resource does not exist in this \
             Region, no resource-based policies allow access, or a resource-based policy explicitly denies access",
            caller.arn(),
            check.action
        )),
        (Principal::Operator { .. }, Resource::Command(name)) if operator.0.contains(*name) => Ok(()),
        (Principal::Operator { .. }, Resource::Command(name)) => {
            Err(format!("the operator may not use `{name}`: it is not in `operator.allow` of the configuration"))
        }
        (Principal::Bridge, Resource::Timer(_)) => Ok(()),
        (Principal::Root | Principal::User { .. }, Resource::Identity) => Ok(()),
        (Principal::Root, Resource::Any | Resource::Alias { .. }) => Ok(()),
        (Principal::Root, Resource::Key { record, .. }) if record.account == *caller.account() => Ok(()),
        (_, resource) => Err(format!(
            "User: {} is not authorized to perform: {} on resource: {} because no identity-based policy allows the {} action",
            caller.arn(),
            check.action,
            shown(resource),
            check.action
        )),
    }
}

fn shown<'a>(resource: &'a Resource<'_>) -> &'a str {
    match resource {
        Resource::Key { arn, .. } | Resource::Alias { arn } => arn,
        Resource::Any | Resource::Foreign | Resource::Identity => "*",
        Resource::Command(name) | Resource::Timer(name) => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Asks(Vec<&'static str>);
    impl Checks for Asks {
        fn checks(&self) -> Vec<Check<'_>> {
            self.0.iter().map(|name| Check::new("kms:X", Resource::Command(name))).collect()
        }
    }

    fn operator() -> Caller {
        Caller::operator("111122223333".parse().unwrap(), 1000)
    }

    #[test]
    fn nothing_configured_is_a_refusal() {
        assert!(decide(operator(), Asks(vec!["key:list"]), &OperatorCommands::default()).is_err());
    }

    #[test]
    fn no_check_at_all_is_a_refusal() {
        let all = OperatorCommands(["key:list".to_owned()].into());
        assert!(decide(operator(), Asks(vec![]), &all).is_err());
        assert!(decide(operator(), Asks(vec!["key:list"]), &all).is_ok());
    }

    #[test]
    fn every_check_must_pass() {
        let all = OperatorCommands(["key:list".to_owned()].into());
        let denied = decide(operator(), Asks(vec!["key:list", "key:show"]), &all).unwrap_err();
        assert!(denied.message.contains("`key:show`"), "{}", denied.message);
        assert_eq!(denied.grounds.decision, "Deny");
    }

    #[test]
    fn the_operator_is_no_principal_of_kms_and_the_service_only_has_its_timers() {
        #[derive(Debug)]
        struct Any;
        impl Checks for Any {
            fn checks(&self) -> Vec<Check<'_>> {
                vec![Check::new("kms:Decrypt", Resource::Any)]
            }
        }
        let all = OperatorCommands(["key:list".to_owned()].into());
        assert!(decide(operator(), Any, &all).is_err());
        assert!(decide(Caller::bridge("111122223333".parse().unwrap()), Any, &all).is_err());
    }
}
