//! STS: who asks, and temporary credentials. Source: authorization.md §4.2 and §4.3.

mod federated;
mod keys;
mod role;
mod session;

pub use federated::FederatedUserSubject;
pub use keys::{SessionKeys, TokenSecrets};
pub use role::{RoleSubject, account_of_role};

use crate::authn::{Caller, Holder, Principal};
use crate::authz::{Check, Resource};
use crate::ids::AccessKeyId;
use crate::ops::{Context, OpError, Ops, Resolved, Subject};
use crate::secret::SecretString;
use session::{CheckedPolicies, NewSession};

/// Without DurationSeconds: of roles, and of GetSessionToken and GetFederationToken.
pub const ROLE_SECONDS: u32 = 3600;
const USER_SECONDS: u32 = 43_200;
/// Role chaining, and the root user's sessions: an hour.
const HOUR_SECONDS: u32 = 3600;
const MOST_TAGS: usize = 50;

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

/// What a session hands on to the next role of a chain.
#[derive(Debug, Clone, Default)]
pub struct Inherited {
    pub tags: Vec<(String, String)>,
    pub source_identity: Option<String>,
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
    /// Of the caller's own session: tags that go on along a chain, and a source identity that stays.
    pub inherited: Inherited,
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

/// Refusals that only STS has, with their texts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StsRefusal {
    #[error("{0}")]
    Validation(String),
    #[error("{0}")]
    MalformedPolicy(String),
    #[error("Packed policy consumes {percent}% of allotted space, please use smaller policy.")]
    PackedPolicyTooLarge { percent: u32 },
    #[error("{0}")]
    Denied(String),
}

fn invalid(text: impl Into<String>) -> OpError {
    OpError::Sts(StsRefusal::Validation(text.into()))
}

fn denied(text: impl Into<String>) -> OpError {
    OpError::Sts(StsRefusal::Denied(text.into()))
}

impl StsRequest {
    /// What the caller's session brings along. It can be added to, never changed.
    pub fn asked_by(self, caller: &Caller) -> Result<Self, OpError> {
        // RULE AWS, GetFederationToken: its sessions call nothing of STS that gives credentials.
        if let (StsRequest::AssumeRole(_), Principal::FederatedUser { .. }) = (&self, caller.principal()) {
            return Err(denied("Cannot call AssumeRole with federated user credentials"));
        }
        let (StsRequest::AssumeRole(mut request), Some(session)) = (self.clone(), caller.session()) else {
            return Ok(self);
        };
        if let (Some(set), Some(wanted)) = (&session.source_identity, &request.source_identity)
            && set != wanted
        {
            return Err(denied("The source identity of a session cannot be changed."));
        }
        let handed_on = session.tags.iter().filter(|(key, _)| session.transitive.contains(key));
        request.inherited =
            Inherited { tags: handed_on.cloned().collect(), source_identity: session.source_identity.clone() };
        let mut keys = request.inherited.tags.iter().map(|(key, _)| key.to_lowercase());
        if keys.any(|inherited| request.tags.iter().any(|(key, _)| key.to_lowercase() == inherited)) {
            return Err(invalid(
                "One or more session tags are inherited from the role chain and cannot be overridden.",
            ));
        }
        if request.inherited.tags.len() + request.tags.len() > MOST_TAGS {
            return Err(invalid(format!("A session has at most {MOST_TAGS} tags, inherited ones included.")));
        }
        Ok(StsRequest::AssumeRole(request))
    }
}

impl StsRequest {
    /// What has to be allowed.
    pub(super) fn checks<'a>(&'a self, subject: &'a Subject) -> Vec<Check<'a>> {
        match (self, subject) {
            (StsRequest::AssumeRole(request), Subject::Role(role)) => {
                let tagged = request.effective_tags().next().is_some();
                role.checks("sts:AssumeRole", tagged, request.effective_source_identity().is_some())
            }
            (StsRequest::AssumeRoleWithWebIdentity(_), Subject::Role(role)) => {
                role.checks("sts:AssumeRoleWithWebIdentity", false, false)
            }
            (StsRequest::GetFederationToken(request), Subject::FederatedUser(user)) => user.checks(request),
            // RULE AWS: who is told apart may know who they are, and may have a session that can do what they can.
            (StsRequest::GetCallerIdentity, _) => vec![Check::new("sts:GetCallerIdentity", Resource::Identity)],
            (StsRequest::GetSessionToken { .. }, _) => vec![Check::new("sts:GetSessionToken", Resource::Identity)],
            (StsRequest::GetAccessKeyInfo { .. }, _) => vec![Check::new("sts:GetAccessKeyInfo", Resource::Any)],
            // No check is a refusal.
            _ => Vec::new(),
        }
    }
}

impl AssumeRole {
    pub fn effective_source_identity(&self) -> Option<&String> {
        self.inherited.source_identity.as_ref().or(self.source_identity.as_ref())
    }

    /// Inherited ones first.
    pub fn effective_tags(&self) -> impl Iterator<Item = &(String, String)> {
        self.inherited.tags.iter().chain(&self.tags)
    }
}

impl Ops {
    pub(super) async fn sts(
        &self,
        request: &StsRequest,
        caller: &Caller,
        resolved: &Resolved,
        ctx: &Context,
    ) -> Result<StsResponse, OpError> {
        let name = request.name();
        match (request, resolved.subject()) {
            (StsRequest::GetCallerIdentity, _) => Ok(StsResponse::CallerIdentity),
            (StsRequest::AssumeRole(request), Subject::Role(role)) => {
                self.assume_role(request, role, caller, resolved, ctx).await
            }
            (StsRequest::AssumeRoleWithWebIdentity(request), Subject::Role(role)) => {
                self.assume_role_with_web_identity(request, role, caller, resolved, ctx).await
            }
            (StsRequest::GetSessionToken { duration_seconds }, _) => {
                long_term(caller, name)?;
                self.session_token(*duration_seconds, caller, ctx).await
            }
            (StsRequest::GetFederationToken(request), Subject::FederatedUser(user)) => {
                long_term(caller, name)?;
                self.federation_token(request, user, caller, resolved, ctx).await
            }
            (StsRequest::GetAccessKeyInfo { access_key }, _) => account_of(access_key, caller, resolved),
            (_, subject) => Err(OpError::Internal(format!("{name} was resolved to {subject:?}"))),
        }
    }

    async fn assume_role(
        &self,
        request: &AssumeRole,
        role: &RoleSubject,
        caller: &Caller,
        resolved: &Resolved,
        ctx: &Context,
    ) -> Result<StsResponse, OpError> {
        let chains = matches!(caller.principal(), Principal::AssumedRole { .. });
        let seconds = request.duration_seconds.unwrap_or(ROLE_SECONDS);
        if chains && seconds > HOUR_SECONDS {
            return Err(invalid(
                "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.",
            ));
        }
        let transitive = request.inherited.tags.iter().map(|(key, _)| key).chain(&request.transitive_tag_keys);
        let new = NewSession {
            source_identity: request.effective_source_identity().cloned(),
            tags: request.effective_tags().cloned().collect(),
            transitive: transitive.cloned().collect(),
            chained: caller.session().is_some(),
            ..role.session(&request.session_name, seconds, &request.policies, resolved.snapshot())?
        };
        let source_identity = new.source_identity.clone();
        self.role_credentials(new, role, &request.session_name, source_identity, None, ctx).await
    }

    async fn assume_role_with_web_identity(
        &self,
        request: &AssumeRoleWithWebIdentity,
        role: &RoleSubject,
        caller: &Caller,
        resolved: &Resolved,
        ctx: &Context,
    ) -> Result<StsResponse, OpError> {
        let Principal::WebIdentity(identity) = caller.principal() else {
            return Err(OpError::Internal("AssumeRoleWithWebIdentity without a web identity".to_owned()));
        };
        let seconds = request.duration_seconds.unwrap_or(ROLE_SECONDS);
        // RULE AWS: of an identity provider's claims these stay with the session; the trust policy saw all of them.
        let kept = |name: &str| {
            let claim = name.rsplit_once(':').map_or(name, |(_, claim)| claim);
            matches!(claim, "sub" | "aud" | "oaud" | "azp" | "amr")
        };
        let new = NewSession {
            federated_provider: Some(identity.provider_arn.clone()),
            claims: identity.claims.iter().filter(|(name, _)| kept(name)).cloned().collect(),
            ..role.session(&request.session_name, seconds, &request.policies, resolved.snapshot())?
        };
        let told = (identity.subject.clone(), identity.audience.clone(), identity.issuer.clone());
        self.role_credentials(new, role, &request.session_name, None, Some(told), ctx).await
    }

    async fn role_credentials(
        &self,
        new: NewSession,
        role: &RoleSubject,
        session_name: &str,
        source_identity: Option<String>,
        web_identity: Option<(String, String, String)>,
        ctx: &Context,
    ) -> Result<StsResponse, OpError> {
        let record = role.record()?;
        let arn = format!("arn:aws:sts::{}:assumed-role/{}/{session_name}", record.account, record.name);
        let id = format!("{}:{session_name}", record.role_id);
        let (credentials, packed_policy_size) = self.issue(new, ctx).await?;
        Ok(StsResponse::Role(Box::new(RoleCredentials {
            credentials,
            arn,
            id,
            packed_policy_size,
            source_identity,
            web_identity,
        })))
    }

    /// RULE AWS: needs no permission, and what the user may do is what the session may.
    async fn session_token(
        &self,
        seconds: Option<u32>,
        caller: &Caller,
        ctx: &Context,
    ) -> Result<StsResponse, OpError> {
        let (holder, seconds) = match caller.principal() {
            // RULE AWS: the root user's sessions last an hour at most, whatever was asked.
            Principal::Root => (Holder::Root, seconds.unwrap_or(HOUR_SECONDS).min(HOUR_SECONDS)),
            Principal::User { name, user_id, .. } => {
                (Holder::User { id: user_id.clone(), name: name.clone() }, seconds.unwrap_or(USER_SECONDS))
            }
            _ => return Err(denied("Cannot call GetSessionToken with these credentials")),
        };
        let new = NewSession::of(caller.account().clone(), holder, seconds);
        let (credentials, _) = self.issue(new, ctx).await?;
        Ok(StsResponse::Session(Box::new(credentials)))
    }

    async fn federation_token(
        &self,
        request: &GetFederationToken,
        federated: &FederatedUserSubject,
        caller: &Caller,
        resolved: &Resolved,
        ctx: &Context,
    ) -> Result<StsResponse, OpError> {
        let Principal::User { name: user, user_id, .. } = caller.principal() else {
            return Err(denied("GetFederationToken is for users"));
        };
        let account = caller.account();
        let holder = Holder::Federated { name: request.name.clone(), id: user_id.clone(), user: user.clone() };
        let new = NewSession {
            tags: request.tags.clone(),
            policies: CheckedPolicies::check(&request.policies, account, resolved.snapshot())?,
            ..NewSession::of(account.clone(), holder, request.duration_seconds.unwrap_or(USER_SECONDS))
        };
        let arn = federated.arn.clone();
        let id = format!("{account}:{}", request.name);
        let (credentials, packed_policy_size) = self.issue(new, ctx).await?;
        Ok(StsResponse::Federated { credentials: Box::new(credentials), arn, id, packed_policy_size })
    }
}

/// RULE AWS: who has temporary credentials cannot get other ones of a user by them.
fn long_term(caller: &Caller, name: &str) -> Result<(), OpError> {
    match caller.session() {
        Some(_) => Err(denied(format!("Cannot call {name} with session credentials"))),
        None => Ok(()),
    }
}

/// Sessions are not listed: of temporary ids only the caller's own is known.
fn account_of(access_key: &str, caller: &Caller, resolved: &Resolved) -> Result<StsResponse, OpError> {
    let id = access_key.parse::<AccessKeyId>().ok();
    let known = id.as_ref().and_then(|id| resolved.snapshot().access_keys.get(id)).map(|record| &record.account);
    let own = || (caller.access_key() == id.as_ref()).then(|| caller.account());
    match known.or_else(own) {
        Some(account) => Ok(StsResponse::AccessKeyInfo { account: account.to_string() }),
        None => Err(invalid("The access key ID is not one that this service knows.")),
    }
}

#[cfg(test)]
mod tests;
