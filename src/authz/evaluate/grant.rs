//! What the evaluator sees of a grant.

use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrantPrincipal {
    Aws { arn: String, id: Option<String> },
    Service { name: String },
}

impl GrantPrincipal {
    pub fn name(&self) -> &str {
        match self {
            GrantPrincipal::Aws { arn, .. } => arn,
            GrantPrincipal::Service { name } => name,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrantConstraints {
    pub equals: Option<BTreeMap<String, String>>,
    pub subset: Option<BTreeMap<String, String>>,
    pub source_arn: Option<String>,
}

/// Stands in until the store has grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantView {
    pub id: String,
    pub issuing_account: String,
    pub grantee: GrantPrincipal,
    pub retiring: Option<GrantPrincipal>,
    /// Names of actions without `kms:`.
    pub operations: Vec<String>,
    pub constraints: GrantConstraints,
}
