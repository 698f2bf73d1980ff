//! The form of a file of decision cases. Unknown members are refused: a misspelt one would test nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    #[serde(rename = "_about")]
    _about: Option<Value>,
    #[serde(rename = "vocabulary")]
    _vocabulary: Option<Value>,
    pub cases: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    #[serde(rename = "id")]
    _id: String,
    #[serde(rename = "title", default)]
    _title: String,
    /// The document that the case follows.
    #[serde(rename = "rule", default)]
    _rule: Option<String>,
    pub principal: CasePrincipal,
    #[serde(default, deserialize_with = "or_default")]
    pub identity_policies: Vec<NamedPolicy>,
    #[serde(default)]
    pub boundary: Option<Value>,
    /// Without any, or with `null` or `[]`, no session policy was given.
    #[serde(default, deserialize_with = "or_default")]
    pub session_policies: Vec<Value>,
    #[serde(default, deserialize_with = "or_default")]
    pub scps: Vec<Vec<Value>>,
    #[serde(default, deserialize_with = "or_default")]
    pub keys: BTreeMap<String, CaseKey>,
    pub request: Request,
    pub expect: Expect,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum PrincipalType {
    User,
    Root,
    RoleSession,
    FederatedSession,
    Service,
    Anonymous,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CasePrincipal {
    #[serde(rename = "type")]
    pub kind: PrincipalType,
    #[serde(default, deserialize_with = "or_default")]
    pub arn: String,
    #[serde(default)]
    pub account: Option<String>,
    #[serde(default)]
    pub role_arn: Option<String>,
    #[serde(default)]
    pub federating_user_arn: Option<String>,
    /// `AIDA…` or `AROA…`
    #[serde(default)]
    pub unique_id: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub tags: BTreeMap<String, String>,
    /// Of a session: they override `tags`.
    #[serde(default, deserialize_with = "or_default")]
    pub session_tags: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedPolicy {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub kind: Option<String>,
    pub document: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseKey {
    pub policy: Value,
    #[serde(default, deserialize_with = "or_default")]
    pub grants: Vec<CaseGrant>,
    #[serde(default, deserialize_with = "or_default")]
    pub tags: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub aliases: Vec<String>,
    #[serde(default)]
    pub spec: Option<String>,
    #[serde(default)]
    pub usage: Option<String>,
    #[serde(default)]
    pub origin: Option<String>,
    #[serde(default)]
    pub multi_region: Option<bool>,
    /// What principal ARNs of the policy meant when it was written.
    #[serde(default, deserialize_with = "or_default")]
    pub bindings: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub struct CaseGrant {
    pub grant_id: String,
    #[serde(default)]
    pub grantee_principal: Option<String>,
    #[serde(default)]
    pub grantee_service_principal: Option<String>,
    #[serde(default)]
    pub retiring_principal: Option<String>,
    #[serde(default)]
    pub retiring_service_principal: Option<String>,
    #[serde(default)]
    pub operations: Vec<String>,
    #[serde(default)]
    pub constraints: Option<Constraints>,
    #[serde(default)]
    pub issuing_account: Option<String>,
    #[serde(rename = "KeyId", default)]
    pub _key_id: Option<String>,
    #[serde(rename = "Name", default)]
    pub _name: Option<String>,
    /// `false`: usable only with its token.
    #[serde(rename = "visible")]
    pub visible: Option<bool>,
    #[serde(rename = "token")]
    pub token: Option<String>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub struct Constraints {
    #[serde(default)]
    pub encryption_context_equals: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub encryption_context_subset: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub source_arn: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub operation: String,
    pub checks: Vec<CaseCheck>,
    /// Condition keys beyond those that follow from the rest of the case.
    #[serde(default, deserialize_with = "or_default")]
    pub context: BTreeMap<String, Value>,
    #[serde(default)]
    pub encryption_context: Option<BTreeMap<String, String>>,
    /// ReEncrypt: of ReEncryptFrom and ReEncryptTo.
    #[serde(default)]
    pub source_encryption_context: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub destination_encryption_context: Option<BTreeMap<String, String>>,
    #[serde(default, deserialize_with = "or_default")]
    pub grant_tokens: Vec<String>,
    /// RetireGrant, RevokeGrant.
    #[serde(default)]
    pub grant_id: Option<String>,
    #[serde(default)]
    pub new_grant: Option<NewGrant>,
    #[serde(default)]
    pub new_policy: Option<Value>,
    #[serde(default, deserialize_with = "or_default")]
    pub bypass_lockout_check: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseCheck {
    pub action: String,
    pub resource: String,
    /// Of this check alone.
    #[serde(default, deserialize_with = "or_default")]
    pub context: BTreeMap<String, Value>,
    #[serde(default)]
    pub encryption_context: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub struct NewGrant {
    #[serde(default)]
    pub operations: Vec<String>,
    #[serde(default)]
    pub constraints: Option<Constraints>,
    #[serde(default)]
    pub grantee_principal: Option<String>,
    #[serde(default)]
    pub grantee_service_principal: Option<String>,
    #[serde(default)]
    pub retiring_principal: Option<String>,
    #[serde(default)]
    pub retiring_service_principal: Option<String>,
    #[serde(rename = "Name", default)]
    pub _name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    pub decision: String,
    /// Not given: not compared. `null`: none.
    #[serde(default, deserialize_with = "given")]
    pub deny_type: Option<Option<String>>,
    #[serde(default)]
    pub decided_by: Option<String>,
    #[serde(default)]
    pub message: Option<String>,
}

/// `null` is the same as nothing.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(from).map(Some)
}
