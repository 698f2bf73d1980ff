//! Who may: the decision over what was resolved. A pure function over records: no HTTP, no token, no clock.
//!
//! Callers of AWS's kind are judged by their policies (`evaluate`), the local operator by what the configuration lists, the
//! service by its timers. Missing configuration never means "allowed", and what cannot be read denies.

pub mod builtin;
pub mod cases;
pub mod context;
pub mod evaluate;
mod grounds;
pub mod identities;
pub mod language;
mod managed;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::authn::{Caller, Principal};
use crate::ids::{AccountId, AliasName, KeyId, PolicyDocument};
use crate::store::{GrantRecord, KeyRecord, RoleRecord, Snapshot};

pub use builtin::{BuiltinPolicy, builtin_policies};
pub use context::{Environment, Keys};
pub use grounds::{CheckGrounds, Grounds, Source};
pub use identities::{Identity, NoIdentity};

use evaluate::{Asks, Bindings, Grants, Named, NoGrants, Question, Target, Verdict, evaluate};
use grounds::word;
use language::{Policy, PolicyKind, Values};

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
        account: &'a AccountId,
    },
    /// A role, for sts:AssumeRole and its kin: its trust policy decides.
    Role {
        arn: &'a str,
        record: &'a Arc<RoleRecord>,
    },
    /// The instance's own log: its trail, its bucket, an object in it. It has no policy: identity policies decide, within
    /// the account that has the log.
    OfTheLog {
        arn: &'a str,
        account: &'a AccountId,
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
#[derive(Debug, Clone, Default)]
pub struct Conditions<'a> {
    /// `kms:RequestAlias`: the alias by which the caller named the key. For a retired key only where `rotate` retired it:
    /// who points an alias elsewhere by hand may have meant to take the old key's users away.
    pub request_alias: Option<&'a AliasName>,
    /// `hsmbridge:AliasGeneration`
    pub alias_generation: Option<AliasGeneration>,
    /// `kms:ResourceAliases`: the aliases that point to the key now.
    pub resource_aliases: &'a [AliasName],
    /// For `kms:TrailingDaysWithoutKeyUsage`: when the key was last used, or since when it was not, for operations that have
    /// that key. Milliseconds since the epoch.
    pub last_used: Option<i64>,
    /// What the request says: full name of the condition key and effective value.
    pub request: Vec<(Cow<'a, str>, Values<'a>)>,
}

/// One question: may the caller perform this action on this resource?
#[derive(Debug, Clone)]
pub struct Check<'a> {
    /// `kms:Decrypt`
    pub action: &'static str,
    pub resource: Resource<'a>,
    /// How the caller named the resource: for the text of a refusal.
    pub named: Named,
    pub conditions: Conditions<'a>,
    pub encryption_context: Cow<'a, [(String, String)]>,
    pub asks: Asks<'a>,
}

impl<'a> Check<'a> {
    pub fn new(action: &'static str, resource: Resource<'a>) -> Self {
        Self {
            action,
            resource,
            named: Named::Directly,
            conditions: Conditions::default(),
            encryption_context: Cow::Borrowed(&[]),
            asks: Asks::Plain,
        }
    }
}

/// What was resolved names every check that has to pass, and the records that it was resolved from.
pub trait Checks {
    fn checks(&self) -> Vec<Check<'_>>;

    fn snapshot(&self) -> &Snapshot;
}

/// Proof that every check of an operation passed, with the caller and exactly what was checked. Only `decide` makes it.
#[derive(Debug)]
pub struct Permit<R> {
    caller: Caller,
    resolved: R,
    environment: Environment,
    grounds: Grounds,
}

impl<R> Permit<R> {
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    pub fn resolved(&self) -> &R {
        &self.resolved
    }

    /// In which the request was decided: for the lockout safety check.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    pub fn grounds(&self) -> &Grounds {
        &self.grounds
    }
}

impl<R: Checks> Permit<R> {
    /// The lockout safety check (§1.9): whether the same caller, in this request, could still call kms:PutKeyPolicy under
    /// `policy`, which binds its principals as `document` does.
    pub fn could_put_policy(&self, key_arn: &str, account: &AccountId, document: &PolicyDocument) -> bool {
        let Some(policy) = identities::compiled(document, PolicyKind::Key) else { return false };
        let snapshot = self.resolved.snapshot();
        let Ok(identity) = Identity::of(&self.caller, snapshot) else { return false };
        // The first check is the one on the key, or on the account where the key is to be.
        let Some(check) = self.resolved.checks().into_iter().next() else { return false };
        let bound = Bound(document.principals());
        let verdict = with_question(&identity, &check, snapshot, &self.environment, true, |question| {
            evaluate::lockout(question, key_arn, account.as_str(), &policy, &bound)
        });
        verdict.is_ok_and(|verdict| verdict.allowed)
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

/// What the configuration says about decisions.
#[derive(Debug, Clone)]
pub struct Rules {
    pub operator: OperatorCommands,
    /// Refusals do not say which kind of policy refused.
    pub hide_policy_type: bool,
    /// A grant to a principal of another account suffices; else that account's policies must allow it too.
    pub grants_suffice_cross_account: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { operator: OperatorCommands::default(), hide_policy_type: false, grants_suffice_cross_account: true }
    }
}

/// Runs all checks; the first that does not pass is the refusal. Missing configuration never means "allowed".
pub fn decide<R: Checks>(
    caller: Caller,
    resolved: R,
    environment: Environment,
    rules: &Rules,
) -> Result<Permit<R>, Box<Denied<R>>> {
    let mut grounds = Grounds { decision: "Allow", checks: Vec::new() };
    match run(&caller, &resolved, &environment, rules, &mut grounds.checks) {
        Ok(()) => Ok(Permit { caller, resolved, environment, grounds }),
        Err(message) => {
            grounds.decision = word(false);
            Err(Box::new(Denied { caller, resolved, message, grounds }))
        }
    }
}

fn run<R: Checks>(
    caller: &Caller,
    resolved: &R,
    environment: &Environment,
    rules: &Rules,
    looked_at: &mut Vec<CheckGrounds>,
) -> Result<(), String> {
    let snapshot = resolved.snapshot();
    let identity = Identity::of(caller, snapshot);
    let checks = resolved.checks();
    if checks.is_empty() {
        return Err(format!("User: {} is not authorized to perform this operation", caller.arn()));
    }
    looked_at.reserve_exact(checks.len());
    for check in &checks {
        let (grounds, refusal) = match &identity {
            Ok(identity) => judged(identity, check, snapshot, environment, rules),
            Err(NoIdentity::NotOfAws) => by_configuration(caller, check, &rules.operator),
            Err(NoIdentity::Gone) => refused(caller, check, Source::NoIdentity),
        };
        looked_at.push(grounds);
        if let Some(message) = refusal {
            return Err(message);
        }
    }
    Ok(())
}

type Judged = (CheckGrounds, Option<String>);

/// By the policies that bear on a caller of AWS's kind.
fn judged(
    identity: &Identity<'_>,
    check: &Check<'_>,
    snapshot: &Snapshot,
    environment: &Environment,
    rules: &Rules,
) -> Judged {
    let suffice = rules.grants_suffice_cross_account;
    let decided = with_question(identity, check, snapshot, environment, suffice, |question| {
        let verdict = evaluate(question);
        let refusal = (!verdict.allowed).then(|| told(&verdict, question, check.named, rules));
        (verdict, refusal)
    });
    match decided {
        Ok((verdict, None)) if verdict.allowed && managed::forbids(identity.caller, check) => {
            let refusal = managed::told(identity.caller, check.action, shown(&check.resource));
            (CheckGrounds::plain(check.action, shown(&check.resource), false, Source::ManagedKey), Some(refusal))
        }
        Ok((verdict, refusal)) => {
            let version = match check.resource {
                Resource::Key { record, .. } => Some(record.policy_version),
                _ => None,
            };
            (CheckGrounds::of(check.action, shown(&check.resource), verdict, version), refusal)
        }
        Err(NoQuestion::OwnIdentity) => (CheckGrounds::plain(check.action, "*", true, Source::OwnIdentity), None),
        Err(NoQuestion::Foreign) => {
            let grounds = CheckGrounds::plain(check.action, "*", false, Source::NoSuchResource);
            (grounds, Some(nothing_there(identity, check)))
        }
        Err(NoQuestion::UnreadablePolicy) => {
            tracing::error!(resource = shown(&check.resource), "the resource's policy cannot be read: all is denied");
            refused(identity.caller, check, Source::UnreadablePolicy)
        }
        Err(NoQuestion::TooCostly) => {
            tracing::warn!(resource = shown(&check.resource), "the policies' patterns cost too much: denied");
            let (grounds, mut told) = refused(identity.caller, check, Source::TooCostly);
            // Of a resource of another account its existence is not told: who asks may have made the policy to learn it.
            if owner(&check.resource).is_some_and(|owner| owner != identity.caller.account()) {
                told = Some(nothing_there(identity, check));
            }
            (grounds, told)
        }
        Err(NoQuestion::NotForPrincipals) => refused(identity.caller, check, Source::NotAsked),
    }
}

/// AWS's text for what is not there, or is another account's and closed to the caller.
fn nothing_there(identity: &Identity<'_>, check: &Check<'_>) -> String {
    let (arn, action) = (identity.arn(), check.action);
    let on = match check.named {
        Named::Directly => "this resource",
        Named::ByCiphertext => "the resource associated with this ciphertext",
    };
    format!(
        "User: {arn} is not authorized to perform: {action} on {on} because the resource does not exist in this Region, no \
         resource-based policies allow access, or a resource-based policy explicitly denies access"
    )
}

/// Whose a resource is that somebody of another account may ask for.
fn owner<'a>(resource: &'a Resource<'_>) -> Option<&'a AccountId> {
    match resource {
        Resource::Key { record, .. } => Some(&record.account),
        Resource::Role { record, .. } => Some(&record.account),
        Resource::Alias { account, .. } | Resource::OfTheLog { account, .. } => Some(account),
        Resource::Any | Resource::Foreign | Resource::Command(_) | Resource::Timer(_) | Resource::Identity => None,
    }
}

fn told(verdict: &Verdict, question: &Question<'_>, named: Named, rules: &Rules) -> String {
    let mut text = verdict.told(question, named);
    if rules.hide_policy_type {
        // What follows the resource says which policy it was; no ARN has a space.
        for tail in [" because no ", " with an explicit deny in "] {
            if let Some(at) = text.find(tail) {
                text.truncate(at);
            }
        }
    }
    text
}

/// The local operator has its list, the service its timers; neither is a principal of KMS.
fn by_configuration(caller: &Caller, check: &Check<'_>, operator: &OperatorCommands) -> Judged {
    let (action, on) = (check.action, shown(&check.resource));
    match (caller.principal(), &check.resource) {
        (Principal::Operator { .. }, Resource::Command(name)) => {
            let listed = operator.0.contains(*name);
            let refusal = (!listed).then(|| {
                format!("the operator may not use `{name}`: it is not in `operator.allow` of the configuration")
            });
            (CheckGrounds::plain(action, on, listed, Source::OperatorConfiguration), refusal)
        }
        (Principal::Bridge, Resource::Timer(_)) => (CheckGrounds::plain(action, on, true, Source::Service), None),
        _ => refused(caller, check, Source::NotAsked),
    }
}

fn refused(caller: &Caller, check: &Check<'_>, source: Source) -> Judged {
    let (action, on) = (check.action, shown(&check.resource));
    let message = format!("User: {} is not authorized to perform: {action} on resource: {on}", caller.arn());
    (CheckGrounds::plain(action, on, false, source), Some(message))
}

fn shown<'a>(resource: &'a Resource<'_>) -> &'a str {
    match resource {
        Resource::Key { arn, .. }
        | Resource::Alias { arn, .. }
        | Resource::Role { arn, .. }
        | Resource::OfTheLog { arn, .. } => arn,
        Resource::Any | Resource::Foreign | Resource::Identity => "*",
        Resource::Command(name) | Resource::Timer(name) => name,
    }
}

/// Why there is nothing to ask the evaluator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoQuestion {
    OwnIdentity,
    /// What is asked about does not exist, which is not told.
    Foreign,
    UnreadablePolicy,
    /// Comparing the patterns of the policies takes more than a decision may.
    TooCostly,
    /// A command or a timer.
    NotForPrincipals,
}

/// Puts a check as a question to the evaluator. `then` asks it: `evaluate`, its traced form, or the lockout check.
pub fn with_question<T>(
    identity: &Identity<'_>,
    check: &Check<'_>,
    snapshot: &Snapshot,
    environment: &Environment,
    grants_suffice_cross_account: bool,
    then: impl FnOnce(&Question<'_>) -> T,
) -> Result<T, NoQuestion> {
    let (policy, bound, grants);
    let target = match &check.resource {
        Resource::Any => Target::Account { account: identity.caller.account().as_str() },
        Resource::Alias { arn, account } | Resource::OfTheLog { arn, account } => {
            Target::OfIdentities { arn, account: account.as_str() }
        }
        Resource::Key { arn, record } => {
            policy = readable(&record.policy, PolicyKind::Key)?;
            bound = Bound(record.policy.principals());
            grants = KeyGrants { snapshot, key: record.id };
            let account = record.account.as_str();
            Target::Resource { arn, account, policy: &policy, bindings: &bound, grants: &grants }
        }
        Resource::Role { arn, record } => {
            policy = readable(&record.trust, PolicyKind::Trust)?;
            bound = Bound(record.trust.principals());
            let account = record.account.as_str();
            Target::Resource { arn, account, policy: &policy, bindings: &bound, grants: &NoGrants }
        }
        // The bearer of a token is nobody before it has assumed a role.
        Resource::Identity if matches!(identity.caller.principal(), Principal::WebIdentity(_)) => {
            return Err(NoQuestion::NotForPrincipals);
        }
        Resource::Identity => return Err(NoQuestion::OwnIdentity),
        Resource::Foreign => return Err(NoQuestion::Foreign),
        Resource::Command(_) | Resource::Timer(_) => return Err(NoQuestion::NotForPrincipals),
    };
    let keys = Keys::new(environment, identity, snapshot, check);
    let answer = then(&Question {
        actor: identity.actor(),
        attached: identity.attached(),
        action: check.action,
        target,
        keys: &keys,
        encryption_context: &check.encryption_context,
        asks: check.asks,
        grants_suffice_cross_account,
    });
    // A Deny that could not be compared did not apply: nothing of the answer holds.
    if keys.effort_is_spent() { Err(NoQuestion::TooCostly) } else { Ok(answer) }
}

fn readable(document: &PolicyDocument, kind: PolicyKind) -> Result<Arc<Policy>, NoQuestion> {
    identities::compiled(document, kind).ok_or(NoQuestion::UnreadablePolicy)
}

/// The unique ids that a policy's principals had when it was written.
pub struct Bound<'a>(pub &'a BTreeMap<String, String>);

impl Bindings for Bound<'_> {
    fn bound(&self, principal_arn: &str) -> Option<&str> {
        self.0.get(principal_arn).map(String::as_str)
    }
}

/// The grants of one key.
struct KeyGrants<'a> {
    snapshot: &'a Snapshot,
    key: KeyId,
}

impl Grants for KeyGrants<'_> {
    fn to<'s>(&'s self, grantee: &str) -> Box<dyn Iterator<Item = &'s GrantRecord> + 's> {
        Box::new(self.snapshot.grants_to(self.key, grantee).map(Arc::as_ref))
    }
}
