//! Grants.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::spec::GrantOperation;
use crate::ids::{AccountId, GrantId, KeyId, ServiceName};

/// Who is named in a grant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum GrantPrincipal {
    /// `id`: the unique id that the ARN meant when the grant was made; `None` for an account's root ARN.
    Aws {
        arn: String,
        id: Option<String>,
    },
    Service {
        name: ServiceName,
    },
}

impl GrantPrincipal {
    /// ARN or service name: what callers see, and what grants are found by.
    pub fn name(&self) -> &str {
        match self {
            GrantPrincipal::Aws { arn, .. } => arn,
            GrantPrincipal::Service { name } => name.as_str(),
        }
    }
}

/// What the encryption context, or `aws:SourceArn`, of a call must be. All that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantConstraints {
    /// EncryptionContextEquals
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<BTreeMap<String, String>>,
    /// EncryptionContextSubset
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_arn: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantRecord {
    pub id: GrantId,
    pub key: KeyId,
    pub issuing_account: AccountId,
    pub grantee: GrantPrincipal,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retiring: Option<GrantPrincipal>,
    /// Sorted, without doubles.
    pub operations: Vec<GrantOperation>,
    #[serde(default)]
    pub constraints: GrantConstraints,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub created: i64,
}
