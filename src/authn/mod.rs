//! Who asks: SigV4 verification, credentials, callers. Knows no axum, no operation and no token: it is handed a plain
//! request, a view of the access keys and an `OpenSecret`. Source: authorization.md §3.1.

mod access_key;
mod authenticator;
pub mod federation;
pub mod query;
pub mod sigv4;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use access_key::{new_access_key_id, new_secret, new_user_id, seal_aad};
pub use authenticator::{Authenticator, claimed_access_key};

use crate::ids::{AccessKeyId, AccountId, UserName};
use crate::secret::SecretString;

/// The service that a request is for; part of the credential scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    Kms,
    Sts,
}

impl Service {
    pub fn scope_name(self) -> &'static str {
        match self {
            Service::Kms => "kms",
            Service::Sts => "sts",
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
        user_id: String,
    },
    /// The local operator over the Unix socket or with no server running.
    Operator {
        os_user_id: u32,
    },
    /// The service itself: sweeper, start-up, aggregation.
    Bridge,
}

impl Principal {
    /// The owner as it stands in the associated data of a sealed secret: `root`, or the user's `AIDA…` id, which is never
    /// used again, as a name may be.
    pub fn owner(&self) -> &str {
        match self {
            Principal::User { user_id, .. } => user_id,
            Principal::Root => "root",
            Principal::Operator { .. } => "operator",
            Principal::Bridge => "bridge",
        }
    }
}

/// The view of the access keys at this moment.
pub trait Directory: Send + Sync {
    fn credential(&self, id: &AccessKeyId) -> Option<Credential>;
}

/// Opens the sealed secret of an access key with a token key.
pub trait OpenSecret: Send + Sync {
    fn open<'a>(
        &'a self,
        credential: &'a Credential,
    ) -> Pin<Box<dyn Future<Output = Result<SecretString, String>> + Send + 'a>>;
}

/// Who asks. Only this module makes it.
#[derive(Debug, Clone)]
pub struct Caller {
    principal: Principal,
    account: AccountId,
    access_key: Option<AccessKeyId>,
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

    /// The caller's ARN as AWS shows it.
    pub fn arn(&self) -> String {
        match &self.principal {
            Principal::Root => format!("arn:aws:iam::{}:root", self.account),
            Principal::User { name, .. } => format!("arn:aws:iam::{}:user/{name}", self.account),
            Principal::Operator { os_user_id } => format!("hsm-bridge:operator/{os_user_id}"),
            Principal::Bridge => "hsm-bridge:service".to_owned(),
        }
    }

    /// `AIDA…`, the account id for root.
    pub fn unique_id(&self) -> String {
        match &self.principal {
            Principal::User { user_id, .. } => user_id.clone(),
            _ => self.account.to_string(),
        }
    }

    /// The local operator. The caller of this has checked the peer's user id against the owner of the socket.
    pub fn operator(account: AccountId, os_user_id: u32) -> Caller {
        Caller { principal: Principal::Operator { os_user_id }, account, access_key: None }
    }

    /// A caller without a signature, for the unit tests of the steps that come after.
    #[cfg(test)]
    pub(crate) fn in_test(principal: Principal, account: AccountId) -> Caller {
        Caller { principal, account, access_key: None }
    }

    /// The service itself.
    pub fn bridge(account: AccountId) -> Caller {
        Caller { principal: Principal::Bridge, account, access_key: None }
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
            AuthnError::InvalidSignature(_) => "InvalidSignatureException",
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
