//! STS: who asks, and temporary credentials.

use crate::authn::Caller;
use crate::ids::AccessKeyId;
use crate::ops::{Context, Effects, OpError, Ops, Resolved};
use crate::secret::SecretString;

/// A call of STS, parsed and valid in form.
#[derive(Debug, Clone)]
pub enum StsRequest {
    GetCallerIdentity,
    AssumeRole(Box<AssumeRole>),
    AssumeRoleWithWebIdentity(Box<AssumeRoleWithWebIdentity>),
    GetSessionToken { duration_seconds: Option<u32> },
    GetFederationToken(Box<GetFederationToken>),
    GetAccessKeyInfo { access_key: String },
}

/// Inline session policy and policy ARNs.
#[derive(Debug, Clone, Default)]
pub struct SessionPolicyInput {
    pub policy: Option<String>,
    pub policy_arns: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct AssumeRole {
    pub role_arn: String,
    pub session_name: String,
    pub duration_seconds: Option<u32>,
    pub external_id: Option<String>,
    pub policies: SessionPolicyInput,
    pub tags: Vec<(String, String)>,
    pub transitive_tag_keys: Vec<String>,
    pub source_identity: Option<String>,
}

/// The token itself was verified before: the caller is `Principal::WebIdentity`.
#[derive(Debug, Clone)]
pub struct AssumeRoleWithWebIdentity {
    pub role_arn: String,
    pub session_name: String,
    pub duration_seconds: Option<u32>,
    pub policies: SessionPolicyInput,
}

#[derive(Debug, Clone)]
pub struct GetFederationToken {
    pub name: String,
    pub duration_seconds: Option<u32>,
    pub policies: SessionPolicyInput,
    pub tags: Vec<(String, String)>,
}

/// Temporary credentials on their way to the caller.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub access_key: AccessKeyId,
    pub secret: SecretString,
    pub session_token: SecretString,
    /// Seconds since the epoch.
    pub expiration: i64,
}

#[derive(Debug, Clone)]
pub enum StsResponse {
    CallerIdentity,
    Role(Box<RoleCredentials>),
    Session(Box<Credentials>),
    Federated { credentials: Box<Credentials>, arn: String, id: String, packed_policy_size: u32 },
    AccessKeyInfo { account: String },
}

#[derive(Debug, Clone)]
pub struct RoleCredentials {
    pub credentials: Credentials,
    /// Session ARN, and `AROA…:session`.
    pub arn: String,
    pub id: String,
    pub packed_policy_size: u32,
    pub source_identity: Option<String>,
    /// AssumeRoleWithWebIdentity: subject, audience, provider.
    pub web_identity: Option<(String, String, String)>,
}

impl StsRequest {
    pub fn name(&self) -> &'static str {
        match self {
            StsRequest::GetCallerIdentity => "GetCallerIdentity",
            StsRequest::AssumeRole(_) => "AssumeRole",
            StsRequest::AssumeRoleWithWebIdentity(_) => "AssumeRoleWithWebIdentity",
            StsRequest::GetSessionToken { .. } => "GetSessionToken",
            StsRequest::GetFederationToken(_) => "GetFederationToken",
            StsRequest::GetAccessKeyInfo { .. } => "GetAccessKeyInfo",
        }
    }
}

impl Ops {
    pub(super) async fn sts(
        &self,
        request: &StsRequest,
        _caller: &Caller,
        _resolved: &Resolved,
        _ctx: &Context,
        _effects: &mut Effects,
    ) -> Result<StsResponse, OpError> {
        match request {
            StsRequest::GetCallerIdentity => Ok(StsResponse::CallerIdentity),
            _ => Err(OpError::Unsupported(format!("{}: not built", request.name()))),
        }
    }
}
