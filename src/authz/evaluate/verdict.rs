//! What a decision says: to the caller, to the audit record and to whoever simulates it.

use super::{ActorKind, Question};

/// What decided, in the words of the decision cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecidedBy {
    KeyPolicy,
    Identity,
    IdentityAndKeyPolicy,
    Grant,
    Root,
    Scp,
    Boundary,
    Session,
    CrossAccountNotSupported,
    Anonymous,
}

impl DecidedBy {
    pub fn as_str(self) -> &'static str {
        match self {
            DecidedBy::KeyPolicy => "key_policy",
            DecidedBy::Identity => "identity",
            DecidedBy::IdentityAndKeyPolicy => "identity+key_policy",
            DecidedBy::Grant => "grant",
            DecidedBy::Root => "root",
            DecidedBy::Scp => "scp",
            DecidedBy::Boundary => "boundary",
            DecidedBy::Session => "session",
            DecidedBy::CrossAccountNotSupported => "cross_account_not_supported",
            DecidedBy::Anonymous => "anonymous",
        }
    }
}

/// The statement that decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementRef {
    /// The policy's name or ARN; a key's is `default`.
    pub policy: String,
    /// `key-policy`, or as the attachment's kind.
    pub kind: &'static str,
    pub sid: Option<String>,
    /// From 0, in the policy's order.
    pub index: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    /// A refusal by a Deny statement.
    pub explicit: bool,
    pub by: DecidedBy,
    pub statement: Option<StatementRef>,
    /// The grant that allowed.
    pub grant: Option<String>,
    /// The target's own policy, or a grant, would let the caller or its account in: to a caller of another account only
    /// then the text may say more than that nothing is accessible.
    pub resource_side: bool,
}

/// How the caller named the resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// By id, ARN or alias.
    Directly,
    /// Not at all: Decrypt and ReEncrypt of a ciphertext that names its key.
    ByCiphertext,
}

const NOT_THERE: &str = "because the resource does not exist in this Region, no resource-based policies allow access, or \
     a resource-based policy explicitly denies access";

impl Verdict {
    /// AWS's text of a refusal with its full cause (§1.13), as the decision cases, audit records and simulations have it.
    pub fn message(&self, question: &Question<'_>) -> String {
        let (arn, action, resource) = (question.actor.arn, question.action, question.target.shown());
        if question.actor.kind == ActorKind::WebIdentity {
            return format!("Not authorized to perform {action}");
        }
        let base = format!("User: {arn} is not authorized to perform: {action}");
        if action.starts_with("sts:") {
            return format!("{base} on resource: {resource}");
        }
        let policy = match (self.explicit, self.by) {
            (_, DecidedBy::CrossAccountNotSupported) => return format!("{base} on this resource {NOT_THERE}"),
            // RULE §1.13: an organisation policy that merely does not allow is told as one that denies.
            (_, DecidedBy::Scp) => {
                return format!("{base} on resource: {resource} with an explicit deny in a service control policy");
            }
            (true, DecidedBy::Identity) => "an identity-based policy",
            (true, DecidedBy::Boundary) => "a permissions boundary",
            (true, DecidedBy::Session) => "a session policy",
            (true, _) => "a resource-based policy",
            (false, DecidedBy::Identity) => "identity-based policy",
            (false, DecidedBy::Boundary) => "permissions boundary",
            (false, DecidedBy::Session) => "session policy",
            (false, _) => "resource-based policy",
        };
        match self.explicit {
            true => format!("{base} on resource: {resource} with an explicit deny in {policy}"),
            false => format!("{base} on resource: {resource} because no {policy} allows the {action} action"),
        }
    }

    /// What the caller is told: `message`, but for a resource of another account that lets nobody of the caller's account
    /// in, nothing that tells whether it exists.
    pub fn told(&self, question: &Question<'_>, named: Named) -> String {
        let Question { actor, action, target, .. } = question;
        if action.starts_with("sts:") {
            return self.message(question);
        }
        let foreign = actor.account.is_some_and(|own| own != target.account());
        let by_resource = matches!(self.by, DecidedBy::KeyPolicy | DecidedBy::CrossAccountNotSupported);
        let hidden = foreign && (by_resource || !self.resource_side);
        let base = format!("User: {} is not authorized to perform: {action}", actor.arn);
        match named {
            Named::ByCiphertext if hidden || by_resource => {
                format!("{base} on the resource associated with this ciphertext {NOT_THERE}")
            }
            Named::Directly if hidden => format!("{base} on this resource {NOT_THERE}"),
            Named::Directly | Named::ByCiphertext => self.message(question),
        }
    }
}
