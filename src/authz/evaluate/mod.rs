//! One decision: may this caller perform this action on this target? A pure function of what it is given: no HTTP, token,
//! clock or SQL. Source: authorization.md §1.3–1.9.

mod decide;
mod grant;
mod principal;
mod trace;
mod verdict;
mod weigh;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use trace::{GrantTrace, PolicyTrace, StatementTrace, Trace, evaluate_traced};
pub use verdict::{DecidedBy, Named, StatementRef, Verdict};

use super::language::{ConditionKeys, Policy};
use crate::ids::spec::GrantOperation;
use crate::store::{GrantConstraints, GrantRecord};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActorKind {
    User,
    Root,
    RoleSession,
    /// A session of GetFederationToken.
    FederatedSession,
    /// A service principal. Policies of identities, boundaries, sessions and organisations do not concern it.
    Service,
    /// The bearer of an OIDC or SAML token, in trust policies only.
    WebIdentity,
    Anonymous,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Actor<'a> {
    pub kind: ActorKind,
    /// The ARN as shown to callers. Service: its name; web identity: the provider's ARN.
    pub arn: &'a str,
    pub account: Option<&'a str>,
    /// `AIDA…` of a user or a federated session's user, `AROA…` of a role session's role. `None`: unknown, the ARN alone
    /// is compared.
    pub unique_id: Option<&'a str>,
    /// Role sessions: the role's ARN with its path, as the session records it.
    pub role_arn: Option<&'a str>,
    /// Federated sessions: the user that called GetFederationToken.
    pub federating_user_arn: Option<&'a str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachmentKind {
    UserInline,
    UserManaged,
    GroupInline,
    GroupManaged,
    RoleInline,
    RoleManaged,
    Boundary,
    Session,
    SessionManaged,
    ServiceControl,
}

impl AttachmentKind {
    pub fn as_str(self) -> &'static str {
        match self {
            AttachmentKind::UserInline => "user-inline",
            AttachmentKind::UserManaged => "user-managed",
            AttachmentKind::GroupInline => "group-inline",
            AttachmentKind::GroupManaged => "group-managed",
            AttachmentKind::RoleInline => "role-inline",
            AttachmentKind::RoleManaged => "role-managed",
            AttachmentKind::Boundary => "boundary",
            AttachmentKind::Session => "session",
            AttachmentKind::SessionManaged => "session-managed",
            AttachmentKind::ServiceControl => "service-control",
        }
    }
}

/// A policy and how it came to bear on the caller.
#[derive(Debug, Clone)]
pub struct Attachment {
    pub kind: AttachmentKind,
    /// The policy's name or ARN, with group or user where useful.
    pub name: String,
    pub policy: Arc<Policy>,
}

/// All policies that bear on the caller, the target's own apart.
#[derive(Debug, Clone, Default)]
pub struct Attached {
    /// Of the user with its groups, or of the role.
    pub identity: Vec<Attachment>,
    pub boundary: Option<Attachment>,
    /// `None`: no session policy was given. Some of nothing allows nothing.
    pub session: Option<Vec<Attachment>>,
    /// Levels of the caller's account, root first; empty: the account is in no organisation.
    pub service_control: Vec<Vec<Attachment>>,
}

/// What principal ARNs meant when a resource's policy was written.
pub trait Bindings {
    /// The unique id that `principal_arn` had. A user deleted and made again has another and does not inherit.
    fn bound(&self, principal_arn: &str) -> Option<&str>;
}

pub struct NoBindings;

impl Bindings for NoBindings {
    fn bound(&self, _: &str) -> Option<&str> {
        None
    }
}

/// The grants of one key.
pub trait Grants {
    /// Those whose grantee is exactly `grantee`: an ARN or a service name.
    fn to<'s>(&'s self, grantee: &str) -> Box<dyn Iterator<Item = &'s GrantRecord> + 's>;
}

pub struct NoGrants;

impl Grants for NoGrants {
    fn to<'s>(&'s self, _: &str) -> Box<dyn Iterator<Item = &'s GrantRecord> + 's> {
        Box::new(std::iter::empty())
    }
}

#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// `*`: operations on an account.
    Account { account: &'a str },
    /// An alias, or the log: it has no policy of its own.
    OfIdentities { arn: &'a str, account: &'a str },
    /// A KMS key with its key policy or, for sts:AssumeRole…, a role with its trust policy.
    Resource { arn: &'a str, account: &'a str, policy: &'a Policy, bindings: &'a dyn Bindings, grants: &'a dyn Grants },
}

impl<'a> Target<'a> {
    /// As AccessDenied's text names it.
    pub fn shown(&self) -> &'a str {
        match self {
            Target::Account { .. } => "*",
            Target::OfIdentities { arn, .. } | Target::Resource { arn, .. } => arn,
        }
    }

    pub fn account(&self) -> &'a str {
        match self {
            Target::Account { account } | Target::OfIdentities { account, .. } | Target::Resource { account, .. } => {
                account
            }
        }
    }
}

/// What some operations ask beyond their action.
#[derive(Debug, Clone, Copy)]
pub enum Asks<'a> {
    Plain,
    /// CreateGrant: the grant to be made; through a parent grant it may be no wider.
    CreateGrant {
        operations: &'a [GrantOperation],
        constraints: &'a GrantConstraints,
    },
    /// RetireGrant: its own rules, from the grant.
    RetireGrant {
        grant: &'a GrantRecord,
    },
}

/// One question.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    pub actor: Actor<'a>,
    pub attached: &'a Attached,
    /// `kms:Decrypt`
    pub action: &'a str,
    pub target: Target<'a>,
    pub keys: &'a dyn ConditionKeys,
    /// For the constraints of grants.
    pub encryption_context: &'a [(String, String)],
    pub asks: Asks<'a>,
    /// A grant to a principal of another account suffices (§1.5's switch; on unless configured otherwise).
    pub grants_suffice_cross_account: bool,
}

/// Decides.
pub fn evaluate(question: &Question<'_>) -> Verdict {
    decide::decide(question)
}

/// The lockout safety check (§1.9): may the same caller still call kms:PutKeyPolicy under `policy`, without grants? `question`
/// is the one that PutKeyPolicy or CreateKey asked.
pub fn lockout(
    question: &Question<'_>,
    key_arn: &str,
    account: &str,
    policy: &Policy,
    bindings: &dyn Bindings,
) -> Verdict {
    let target = Target::Resource { arn: key_arn, account, policy, bindings, grants: &NoGrants };
    evaluate(&Question { action: "kms:PutKeyPolicy", target, asks: Asks::Plain, ..*question })
}
