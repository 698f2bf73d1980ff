//! Who asks: SigV4 verification, credentials, callers. Knows no axum, no operation and no token: it is handed a plain
//! request, a view of the access keys and an `OpenSecret`. Source: authorization.md §3.1.

mod access_key;
mod authenticator;
mod behalf;
pub mod federation;
mod opened;
pub mod query;
pub mod session_token;
pub mod sigv4;
mod still;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use access_key::{new_access_key_id, new_secret, new_temporary_key_id, new_unique_id, new_user_id, seal_aad};
pub use authenticator::{Authenticator, claimed_access_key};
pub use behalf::{EndCaller, NotForThem, NotOnBehalf, Source, is_on_behalf};
pub use session_token::{Holder, SealError, SessionClaims, SessionKey, SessionKeyId};
pub use still::still_valid;

use crate::ids::{AccessKeyId, AccountId, IamPath, PolicyArn, PolicyDocument, RoleName, ServiceName, UserName};
use crate::secret::SecretString;

/// The service that a request is for; part of the credential scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    Kms,
    Sts,
    /// The trail: CloudTrail's calls, and the stream.
    CloudTrail,
    /// The bucket of sealed files.
    S3,
}

impl Service {
    pub fn scope_name(self) -> &'static str {
        match self {
            Service::Kms => "kms",
            Service::Sts => "sts",
            Service::CloudTrail => "cloudtrail",
            Service::S3 => "s3",
        }
    }
}

/// A request as bytes. `headers` in the order received; names lower case. On HTTP/2 `host` is made from `:authority`.
#[derive(Clone, Copy)]
pub struct PlainRequest<'a> {
    pub method: &'a str,
    /// As received, percent-encoded.
    pub path: &'a str,
    /// Without `?`; empty where there is none.
    pub query: &'a str,
    pub headers: &'a [(&'a str, &'a [u8])],
    pub body: &'a [u8],
}

/// Shows no header, query or body: they carry signatures and plaintexts.
impl fmt::Debug for PlainRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainRequest").field("method", &self.method).field("path", &self.path).finish_non_exhaustive()
    }
}

/// One access key as the snapshot has it now.
#[derive(Debug, Clone)]
pub struct Credential {
    pub id: AccessKeyId,
    pub account: AccountId,
    pub active: bool,
    pub principal: Principal,
    pub wrapped_secret: Arc<[u8]>,
    /// Changes when the secret does: part of the signing-key cache's key.
    pub created: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// Root user of the account.
    Root,
    User {
        name: UserName,
        path: IamPath,
        user_id: String,
    },
    /// A session of a role: AssumeRole and its kin.
    AssumedRole {
        role: RoleName,
        path: IamPath,
        role_id: String,
        session_name: String,
    },
    /// A session of GetFederationToken; the user is who asked for it.
    FederatedUser {
        name: String,
        user: UserName,
        user_path: IamPath,
        user_id: String,
    },
    /// A registered service, as itself.
    Service {
        name: ServiceName,
        service_id: String,
    },
    /// The bearer of an identity provider's token. It may ask for AssumeRoleWithWebIdentity and nothing else.
    WebIdentity(Arc<WebIdentity>),
    /// The local operator over the Unix socket or with no server running.
    Operator {
        os_user_id: u32,
    },
    /// The service itself: sweeper, start-up, aggregation.
    Bridge,
}

/// What a verified token of an identity provider says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WebIdentity {
    /// ARN of the provider: what trust policies name as `Federated`.
    pub provider_arn: String,
    /// The issuer.
    pub issuer: String,
    pub subject: String,
    pub audience: String,
    /// Condition keys: `issuer.example/path:sub` and so on.
    pub claims: Vec<(String, Vec<String>)>,
}

impl Principal {
    /// The owner as it stands in the associated data of a sealed secret: `root`, or the owner's unique id, which is never
    /// used again, as a name may be.
    pub fn owner(&self) -> &str {
        match self {
            Principal::User { user_id, .. } | Principal::FederatedUser { user_id, .. } => user_id,
            Principal::AssumedRole { role_id, .. } => role_id,
            Principal::Service { service_id, .. } => service_id,
            Principal::Root => "root",
            Principal::WebIdentity(_) => "web-identity",
            Principal::Operator { .. } => "operator",
            Principal::Bridge => "bridge",
        }
    }
}

/// What temporary credentials carry beside their principal. Times are seconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub issued: i64,
    pub expires: i64,
    /// When a second factor was shown.
    pub mfa_at: Option<i64>,
    pub source_identity: Option<String>,
    /// Session tags; those in `transitive` go on to the next role of a chain.
    pub tags: Vec<(String, String)>,
    pub transitive: Vec<String>,
    /// `None`: no session policy was given, neither inline nor by ARN.
    pub policies: Option<SessionPolicies>,
    /// `aws:FederatedProvider`
    pub federated_provider: Option<String>,
    /// Condition keys of the identity provider's token.
    pub claims: Vec<(String, Vec<String>)>,
    /// Got with credentials that were temporary themselves.
    pub chained: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPolicies {
    pub inline: Option<PolicyDocument>,
    pub arns: Vec<PolicyArn>,
}

/// The view of the access keys at this moment.
pub trait Directory: Send + Sync {
    fn credential(&self, id: &AccessKeyId) -> Option<Credential>;

    /// For whom a service calls, by ARN.
    fn end_caller(&self, _service: &ServiceName, _named: &str) -> Result<EndCaller, NotForThem> {
        Err(NotForThem::NotRegistered)
    }

    /// Whether a service may call for a principal of this account that has one of these ARNs.
    fn acts_for(&self, _service: &ServiceName, _account: &AccountId, _arns: &[&str]) -> bool {
        false
    }

    /// Whose session it is, as that is now. `None`: gone, or the session was revoked.
    fn holder(&self, _claims: &SessionClaims) -> Option<Principal> {
        None
    }

    /// Whether tokens of this key count: a key that is removed takes its sessions with it.
    fn has_session_key(&self, _id: SessionKeyId) -> bool {
        false
    }
}

/// What `OpenSecret::session_key` gives.
pub type OpenedSessionKey<'a> = Pin<Box<dyn Future<Output = Result<Option<Arc<SessionKey>>, String>> + Send + 'a>>;

/// Opens what a token key sealed: secrets of access keys, and keys of session tokens.
pub trait OpenSecret: Send + Sync {
    fn open<'a>(
        &'a self,
        credential: &'a Credential,
    ) -> Pin<Box<dyn Future<Output = Result<SecretString, String>> + Send + 'a>>;

    /// `None`: there is no such key, or it was made with another token. Errors are for the log.
    fn session_key<'a>(&'a self, _id: SessionKeyId) -> OpenedSessionKey<'a> {
        Box::pin(async { Ok(None) })
    }
}

/// Who asks. Only this module makes it.
#[derive(Debug, Clone)]
pub struct Caller {
    principal: Principal,
    account: AccountId,
    access_key: Option<AccessKeyId>,
    /// Temporary credentials.
    session: Option<Arc<Session>>,
    /// The registered service that signed on behalf of the principal.
    via: Option<ServiceName>,
    /// What the service said of its own resource.
    source: Option<Arc<Source>>,
}

impl Caller {
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    pub fn account(&self) -> &AccountId {
        &self.account
    }

    pub fn access_key(&self) -> Option<&AccessKeyId> {
        self.access_key.as_ref()
    }

    pub fn session(&self) -> Option<&Arc<Session>> {
        self.session.as_ref()
    }

    pub fn via(&self) -> Option<&ServiceName> {
        self.via.as_ref()
    }

    /// Only requests that a registered service signed have one.
    pub fn source(&self) -> Option<&Source> {
        self.source.as_deref()
    }

    /// The caller's ARN as AWS shows it.
    pub fn arn(&self) -> String {
        let account = &self.account;
        match &self.principal {
            Principal::Root => format!("arn:aws:iam::{account}:root"),
            Principal::User { name, path, .. } => format!("arn:aws:iam::{account}:user{path}{name}"),
            Principal::AssumedRole { role, session_name, .. } => {
                format!("arn:aws:sts::{account}:assumed-role/{role}/{session_name}")
            }
            Principal::FederatedUser { name, .. } => format!("arn:aws:sts::{account}:federated-user/{name}"),
            Principal::Service { name, .. } => name.to_string(),
            Principal::WebIdentity(identity) => identity.provider_arn.clone(),
            Principal::Operator { os_user_id } => format!("hsm-bridge:operator/{os_user_id}"),
            Principal::Bridge => "hsm-bridge:service".to_owned(),
        }
    }

    /// `aws:PrincipalArn`: as `arn`, but the role's for its sessions.
    pub fn principal_arn(&self) -> String {
        match &self.principal {
            Principal::AssumedRole { role, path, .. } => format!("arn:aws:iam::{}:role{path}{role}", self.account),
            _ => self.arn(),
        }
    }

    /// `AIDA…`, `AROA…:session`, `account:name` of a federated user, the account id for root.
    pub fn unique_id(&self) -> String {
        match &self.principal {
            Principal::User { user_id, .. } => user_id.clone(),
            Principal::AssumedRole { role_id, session_name, .. } => format!("{role_id}:{session_name}"),
            Principal::FederatedUser { name, .. } => format!("{}:{name}", self.account),
            Principal::Service { service_id, .. } => service_id.clone(),
            Principal::WebIdentity(identity) => {
                format!("{}:{}:{}", identity.provider_arn, identity.audience, identity.subject)
            }
            _ => self.account.to_string(),
        }
    }

    /// The local operator. The caller of this has checked the peer's user id against the owner of the socket.
    pub fn operator(account: AccountId, os_user_id: u32) -> Caller {
        Caller::plain(Principal::Operator { os_user_id }, account)
    }

    /// A caller for `policy simulate`, which asks what would be decided and does nothing. No request is made with it: those that
    /// are made come from a signature.
    pub fn simulated(principal: Principal, account: AccountId, session: Option<Session>) -> Caller {
        Caller { session: session.map(Arc::new), ..Caller::plain(principal, account) }
    }

    /// The bearer of a verified token of an identity provider of `account`.
    pub fn web_identity(assertion: &federation::Assertion, account: AccountId) -> Caller {
        let identity = WebIdentity {
            provider_arn: assertion.provider_arn().to_owned(),
            issuer: assertion.issuer().to_owned(),
            subject: assertion.subject().to_owned(),
            audience: assertion.client().unwrap_or_default().to_owned(),
            claims: assertion.claims().to_vec(),
        };
        Caller::plain(Principal::WebIdentity(Arc::new(identity)), account)
    }

    /// A caller without a signature, for the unit tests of the steps that come after.
    #[cfg(test)]
    pub(crate) fn in_test(principal: Principal, account: AccountId) -> Caller {
        Caller::plain(principal, account)
    }

    #[cfg(test)]
    pub(crate) fn in_test_session(
        principal: Principal,
        account: AccountId,
        id: AccessKeyId,
        session: Session,
    ) -> Caller {
        Caller { access_key: Some(id), session: Some(Arc::new(session)), ..Caller::plain(principal, account) }
    }

    #[cfg(test)]
    pub(crate) fn in_test_via(principal: Principal, account: AccountId, via: ServiceName) -> Caller {
        Caller { via: Some(via), ..Caller::plain(principal, account) }
    }

    /// Somebody whom a question to the evaluator is about: nobody signed. The pipeline takes callers from fronts only.
    pub fn supposed(principal: Principal, account: AccountId) -> Caller {
        Caller::plain(principal, account)
    }

    /// The service itself.
    pub fn bridge(account: AccountId) -> Caller {
        Caller::plain(Principal::Bridge, account)
    }

    fn plain(principal: Principal, account: AccountId) -> Caller {
        Caller { principal, account, access_key: None, session: None, via: None, source: None }
    }
}

/// Why a request has no caller. The texts are AWS's and safe to show (authorization.md §3.1).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthnError {
    #[error("Request is missing Authentication Token")]
    MissingAuthenticationToken,
    #[error("{0}")]
    IncompleteSignature(String),
    #[error("{0}")]
    InvalidSignature(String),
    /// S3 alone tells a scope of another Region or service from a wrong signature.
    #[error("{0}")]
    WrongScope(String),
    /// S3 alone: signed as before SigV4.
    #[error("The authorization mechanism you have provided is not supported. Please use {}.", sigv4::ALGORITHM)]
    NotSigV4,
    #[error("The security token included in the request is invalid.")]
    UnrecognizedClient,
    #[error("The security token included in the request is expired")]
    ExpiredToken,
    /// The secret could not be opened: the token is away. The text is for the log.
    #[error("internal: {0}")]
    Internal(String),
}

impl AuthnError {
    /// `__type` of the KMS answer. RULE authorization.md §3.1, error mapping.
    pub fn kms_code(&self) -> &'static str {
        match self {
            AuthnError::MissingAuthenticationToken => "MissingAuthenticationTokenException",
            AuthnError::IncompleteSignature(_) => "IncompleteSignatureException",
            AuthnError::InvalidSignature(_) | AuthnError::WrongScope(_) | AuthnError::NotSigV4 => {
                "InvalidSignatureException"
            }
            AuthnError::UnrecognizedClient => "UnrecognizedClientException",
            AuthnError::ExpiredToken => "ExpiredTokenException",
            AuthnError::Internal(_) => "KMSInternalException",
        }
    }

    /// Under which `errorCode` the audit log counts callers that could not be told: the same names for both services.
    pub fn stranger_code(&self) -> &'static str {
        self.kms_code()
    }
}

#[derive(Debug, Clone)]
pub struct Settings {
    /// Regions that a credential scope may name; STS takes `us-east-1` as well.
    pub accepted_regions: Vec<String>,
    /// Appends canonical request and string to sign to the mismatch text.
    pub debug_signature_errors: bool,
}
