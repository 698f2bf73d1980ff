//! What a decision says: to the caller, to the audit record and to whoever simulates it.

use super::Question;

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

impl Verdict {
    /// AWS's text of a refusal with its full cause (§1.13), as the decision cases, audit records and simulations have it.
    pub fn message(&self, _question: &Question<'_>) -> String {
        String::new()
    }

    /// What the caller is told: `message`, but for a resource of another account that lets nobody of the caller's account
    /// in, nothing that tells whether it exists.
    pub fn told(&self, question: &Question<'_>, _named: Named) -> String {
        self.message(question)
    }
}
