//! The one table from an error to the STS wire.

use std::fmt::Write;

use super::{NAMESPACE, escape};
use crate::authn::AuthnError;
use crate::authn::federation::FederationError;
use crate::ops::{OpError, StsRefusal};

/// Why an STS request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StsError {
    #[error("the request names no action")]
    MissingAction,
    #[error("no action `{action}` in version `{version}`")]
    InvalidAction { action: String, version: String },
    /// An action of AWS STS that this version does not serve.
    #[error("action `{0}` is not served")]
    NotServed(&'static str),
    /// The form does not decode, or names a parameter twice.
    #[error("malformed query: {0}")]
    Malformed(&'static str),
    /// X-Amz-Kms-On-Behalf-Of: credentials are for whoever signs.
    #[error("on behalf of somebody")]
    NotOnBehalf,
    #[error("authentication: {0}")]
    Authn(AuthnError),
    /// An identity provider's token is not believed.
    #[error("web identity: {0}")]
    Federation(FederationError),
    #[error("{0}")]
    Refused(StsRefusal),
    #[error("throttled")]
    Throttled,
    /// Our fault; the text is for the log.
    #[error("internal: {0}")]
    Internal(String),
}

impl From<AuthnError> for StsError {
    fn from(error: AuthnError) -> Self {
        StsError::Authn(error)
    }
}

impl From<FederationError> for StsError {
    fn from(error: FederationError) -> Self {
        StsError::Federation(error)
    }
}

impl From<&OpError> for StsError {
    fn from(error: &OpError) -> Self {
        match error {
            OpError::Sts(refusal) => StsError::Refused(refusal.clone()),
            OpError::Throttled => StsError::Throttled,
            // Nothing of STS ends in these.
            other => StsError::Internal(other.to_string()),
        }
    }
}

impl StsError {
    pub fn validation(text: impl Into<String>) -> Self {
        StsError::Refused(StsRefusal::Validation(text.into()))
    }

    pub fn denied(text: String) -> Self {
        StsError::Refused(StsRefusal::Denied(text))
    }

    /// RULE authorization.md §3.1, error mapping, column STS.
    pub fn code(&self) -> &'static str {
        self.row().1
    }

    pub fn status(&self) -> u16 {
        self.row().0
    }

    fn row(&self) -> (u16, &'static str) {
        match self {
            StsError::MissingAction => (400, "MissingAction"),
            StsError::InvalidAction { .. } => (400, "InvalidAction"),
            StsError::NotServed(_) => (400, "UnsupportedOperation"),
            StsError::NotOnBehalf => (403, "AccessDenied"),
            StsError::Malformed(_) => (400, "MalformedQueryString"),
            StsError::Authn(AuthnError::MissingAuthenticationToken) => (403, "MissingAuthenticationToken"),
            StsError::Authn(AuthnError::IncompleteSignature(_)) => (400, "IncompleteSignature"),
            StsError::Authn(AuthnError::InvalidSignature(_) | AuthnError::WrongScope(_) | AuthnError::NotSigV4) => {
                (403, "SignatureDoesNotMatch")
            }
            StsError::Authn(AuthnError::UnrecognizedClient) => (403, "InvalidClientTokenId"),
            StsError::Authn(AuthnError::ExpiredToken) => (403, "ExpiredToken"),
            StsError::Federation(error) => (error.status(), error.code()),
            StsError::Refused(StsRefusal::Validation(_)) => (400, "ValidationError"),
            StsError::Refused(StsRefusal::MalformedPolicy(_)) => (400, "MalformedPolicyDocument"),
            StsError::Refused(StsRefusal::PackedPolicyTooLarge { .. }) => (400, "PackedPolicyTooLarge"),
            StsError::Refused(StsRefusal::Denied(_)) => (403, "AccessDenied"),
            StsError::Throttled => (400, "Throttling"),
            StsError::Authn(AuthnError::Internal(_)) | StsError::Internal(_) => (500, "InternalFailure"),
        }
    }

    /// What the caller is told. The cause of an internal error is not.
    pub fn message(&self) -> String {
        match self {
            StsError::MissingAction => "The request is missing the parameter Action.".to_owned(),
            StsError::InvalidAction { action, version } => {
                let version = if version.is_empty() { "NO_VERSION_SPECIFIED" } else { version };
                format!("Could not find operation {} for version {}", shown(action), shown(version))
            }
            StsError::NotServed(action) => format!("The action {action} is not served by this version of hsm-bridge."),
            StsError::NotOnBehalf => "STS serves whoever signs: X-Amz-Kms-On-Behalf-Of is for KMS.".to_owned(),
            StsError::Malformed(what) => format!("The query string is malformed: {what}."),
            StsError::Authn(AuthnError::Internal(_)) | StsError::Internal(_) => {
                "The request processing has failed because of an internal error.".to_owned()
            }
            StsError::Authn(error) => error.to_string(),
            StsError::Federation(error) => error.message(),
            StsError::Refused(refusal) => refusal.to_string(),
            StsError::Throttled => "Rate exceeded".to_owned(),
        }
    }
}

/// The body of an error answer; its status is [`StsError::status`].
pub fn error_xml(error: &StsError, request_id: &str) -> String {
    let fault = if error.status() < 500 { "Sender" } else { "Receiver" };
    let mut xml = String::with_capacity(480);
    let _ = write!(
        xml,
        "<ErrorResponse xmlns=\"{NAMESPACE}\">\n  <Error>\n    <Type>{fault}</Type>\n    <Code>{}</Code>\n    \
         <Message>{}</Message>\n  </Error>\n  <RequestId>{}</RequestId>\n</ErrorResponse>\n",
        error.code(),
        escape(&error.message()),
        escape(request_id),
    );
    xml
}

fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let text = || "text <1>".to_owned();
        for (error, status, code, message) in [
            (
                AuthnError::MissingAuthenticationToken.into(),
                403,
                "MissingAuthenticationToken",
                "Request is missing Authentication Token",
            ),
            (AuthnError::IncompleteSignature(text()).into(), 400, "IncompleteSignature", "text &lt;1&gt;"),
            (AuthnError::InvalidSignature(text()).into(), 403, "SignatureDoesNotMatch", "text &lt;1&gt;"),
            (
                AuthnError::UnrecognizedClient.into(),
                403,
                "InvalidClientTokenId",
                "The security token included in the request is invalid.",
            ),
            (
                AuthnError::ExpiredToken.into(),
                403,
                "ExpiredToken",
                "The security token included in the request is expired",
            ),
            (
                AuthnError::Internal("CKR_DEVICE_ERROR".to_owned()).into(),
                500,
                "InternalFailure",
                "The request processing has failed because of an internal error.",
            ),
            (StsError::MissingAction, 400, "MissingAction", "The request is missing the parameter Action."),
            (
                StsError::InvalidAction { action: "Get".to_owned(), version: String::new() },
                400,
                "InvalidAction",
                "Could not find operation Get for version NO_VERSION_SPECIFIED",
            ),
            (
                StsError::NotServed("AssumeRoleWithSAML"),
                400,
                "UnsupportedOperation",
                "The action AssumeRoleWithSAML is not served by this version of hsm-bridge.",
            ),
            (StsError::validation("text"), 400, "ValidationError", "text"),
            (StsError::denied("text".to_owned()), 403, "AccessDenied", "text"),
            (
                StsError::from(&OpError::Sts(StsRefusal::MalformedPolicy("text".to_owned()))),
                400,
                "MalformedPolicyDocument",
                "text",
            ),
            (
                StsError::Refused(StsRefusal::PackedPolicyTooLarge { percent: 114 }),
                400,
                "PackedPolicyTooLarge",
                "Packed policy consumes 114% of allotted space, please use smaller policy.",
            ),
            (
                StsError::from(FederationError::MissingClaim("sub")),
                400,
                "InvalidIdentityToken",
                "Missing a required claim: sub",
            ),
            (
                StsError::from(FederationError::NotYet { claim: "nbf", value: 5 }),
                403,
                "IDPRejectedClaim",
                "The identity provider (IDP) reported a claim that is not valid yet: nbf",
            ),
            (
                StsError::from(FederationError::Expired { now: 5, expiry: 4 }),
                400,
                "ExpiredTokenException",
                "Token expired: current date/time 5 must be before the expiration date/time 4",
            ),
            (StsError::from(&OpError::Throttled), 400, "Throttling", "Rate exceeded"),
            (
                StsError::from(&OpError::Token("CKR_DEVICE_ERROR".to_owned())),
                500,
                "InternalFailure",
                "The request processing has failed because of an internal error.",
            ),
        ] as [(StsError, u16, &str, &str); 18]
        {
            let xml = error_xml(&error, "id-1");
            let fault = if status == 500 { "Receiver" } else { "Sender" };
            assert_eq!((error.status(), error.code()), (status, code));
            assert_eq!(
                xml,
                format!(
                    "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n  <Error>\n    \
                     <Type>{fault}</Type>\n    <Code>{code}</Code>\n    <Message>{message}</Message>\n  </Error>\n  \
                     <RequestId>id-1</RequestId>\n</ErrorResponse>\n"
                )
            );
        }
    }
}
