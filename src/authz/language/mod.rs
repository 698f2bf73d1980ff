//! The policy language: a text becomes a `Policy` whose patterns, dates, numbers and networks are compiled once. Knows
//! nothing of who asks. Source: authorization.md §2.

mod condition;
mod document;
mod json;
mod keys;
mod known;
mod operand;
mod pattern;
mod principal;
mod statement;
#[cfg(test)]
mod tests;

pub use condition::Condition;
pub use keys::{ConditionKeys, Effort, Listed, NoKeys, OwnedValues, Values};
pub use principal::{Principal, Principals};
pub use statement::{About, AboutResource, Mismatch, Statement};

use document::Reader;

/// What a policy is for: each kind has its own form and size (authorization.md §2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyKind {
    /// The policy of a KMS key.
    Key,
    /// An inline policy of a user (2,048), group (5,120) or role (10,240 characters, white space not counted). The limit
    /// is for all inline policies of the entity together: the caller adds up `Policy::size`.
    IdentityInline {
        max: usize,
    },
    IdentityManaged,
    /// A managed policy used as a permissions boundary.
    Boundary,
    Session,
    /// Who may assume a role.
    Trust,
    ServiceControl,
}

/// A policy that is refused. `text` is AWS's where AWS's is known, and safe to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Malformed {
    pub text: String,
    /// The policy is too long: KMS answers LimitExceededException, not MalformedPolicyDocumentException.
    pub too_long: bool,
}

/// A principal that a policy names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedPrincipal<'a> {
    /// `*` or `{"AWS": "*"}`
    Everyone,
    /// An account id or its root ARN.
    Account(&'a str),
    /// The ARN of a user, a role, an assumed-role session or a federated user.
    Arn(&'a str),
    Service(&'a str),
    /// The ARN of an OIDC or SAML provider.
    Federated(&'a str),
    /// The unique id of a principal that is gone, followed by `:session` where a session was named.
    UniqueId(&'a str),
}

/// A parsed policy, immutable.
#[derive(Debug)]
pub struct Policy {
    kind: PolicyKind,
    statements: Box<[Statement]>,
    warnings: Vec<String>,
    size: usize,
}

impl Policy {
    /// Parses and validates as a write does. Whether the principals exist is for the caller to check: `principals`.
    pub fn parse(text: &str, kind: PolicyKind) -> Result<Policy, Malformed> {
        Reader::new(kind, true).read(text)
    }

    /// Parses what was stored or comes from elsewhere: the form must be right, but what `parse` refuses for its content
    /// is kept so that it allows nothing: an invalid principal matches nobody.
    pub fn parse_stored(text: &str, kind: PolicyKind) -> Result<Policy, Malformed> {
        Reader::new(kind, false).read(text)
    }

    pub fn kind(&self) -> PolicyKind {
        self.kind
    }

    pub fn statements(&self) -> &[Statement] {
        &self.statements
    }

    /// Every principal of every statement, with repetitions.
    pub fn principals(&self) -> impl Iterator<Item = NamedPrincipal<'_>> {
        let lists = self.statements.iter().filter_map(|s| s.principals());
        lists.flat_map(|p| p.list.iter()).filter_map(Principal::named)
    }

    /// What is legal and probably not meant, for example a number operator with a value that is no number.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Characters without white space, as IAM counts them.
    pub fn size(&self) -> usize {
        self.size
    }
}
