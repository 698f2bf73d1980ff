//! Why a decision was what it was: for the audit record, always.

use super::evaluate::{DecidedBy, StatementRef, Verdict};

/// What an operation was decided by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grounds {
    /// `Allow` or `Deny`.
    pub decision: &'static str,
    /// In the order asked; the last is the one that refused, if any did.
    pub checks: Vec<CheckGrounds>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckGrounds {
    /// `kms:Decrypt`
    pub action: &'static str,
    /// ARN, `*`, or the name of a command or timer.
    pub resource: String,
    pub decision: &'static str,
    pub source: Source,
    /// A Deny statement said no.
    pub explicit: bool,
    pub statement: Option<StatementRef>,
    pub grant: Option<String>,
    /// Of the key policy, where that decided.
    pub policy_version: Option<u64>,
}

/// What decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Policy(DecidedBy),
    /// `operator.allow`
    OperatorConfiguration,
    /// A timer of the service.
    Service,
    /// Everybody may ask who they are.
    OwnIdentity,
    /// There is no such resource of the other account.
    NoSuchResource,
    /// The caller is gone, replaced or revoked since its credentials were issued.
    NoIdentity,
    /// An AWS managed key: only its service uses it, nobody manages it.
    ManagedKey,
    /// The resource's policy cannot be read.
    UnreadablePolicy,
    /// The policies' patterns take more comparing than a decision may.
    TooCostly,
    /// No check was asked, or by somebody who may not ask it.
    NotAsked,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Policy(by) => match by {
                DecidedBy::KeyPolicy => "KeyPolicy",
                DecidedBy::Identity => "IdentityPolicy",
                DecidedBy::IdentityAndKeyPolicy => "IdentityAndKeyPolicy",
                DecidedBy::Grant => "Grant",
                DecidedBy::Root => "Root",
                DecidedBy::Scp => "ServiceControlPolicy",
                DecidedBy::Boundary => "PermissionsBoundary",
                DecidedBy::Session => "SessionPolicy",
                DecidedBy::CrossAccountNotSupported => "CrossAccountNotSupported",
                DecidedBy::Anonymous => "Anonymous",
            },
            Source::OperatorConfiguration => "OperatorConfiguration",
            Source::Service => "Service",
            Source::OwnIdentity => "OwnIdentity",
            Source::NoSuchResource => "NoSuchResource",
            Source::NoIdentity => "NoIdentity",
            Source::ManagedKey => "ManagedKey",
            Source::UnreadablePolicy => "UnreadablePolicy",
            Source::TooCostly => "TooCostly",
            Source::NotAsked => "NotAsked",
        }
    }
}

pub fn word(allowed: bool) -> &'static str {
    if allowed { "Allow" } else { "Deny" }
}

impl CheckGrounds {
    pub(super) fn plain(action: &'static str, resource: &str, allowed: bool, source: Source) -> Self {
        Self {
            action,
            resource: resource.to_owned(),
            decision: word(allowed),
            source,
            explicit: false,
            statement: None,
            grant: None,
            policy_version: None,
        }
    }

    pub(super) fn of(action: &'static str, resource: &str, verdict: Verdict, policy_version: Option<u64>) -> Self {
        let by_key_policy = verdict.statement.as_ref().is_some_and(|s| s.kind == "key-policy");
        Self {
            explicit: verdict.explicit,
            policy_version: policy_version.filter(|_| {
                by_key_policy || matches!(verdict.by, DecidedBy::KeyPolicy | DecidedBy::IdentityAndKeyPolicy)
            }),
            statement: verdict.statement,
            grant: verdict.grant,
            ..Self::plain(action, resource, verdict.allowed, Source::Policy(verdict.by))
        }
    }
}
