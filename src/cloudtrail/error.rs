//! The one table from an error to CloudTrail's wire.

use crate::authn::AuthnError;
use crate::ops::{OpError, TrailRefusal};

/// Why a request has no answer: safe to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrailError {
    pub status: u16,
    pub code: &'static str,
    pub message: String,
}

impl TrailError {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        TrailError { status: 400, code, message: message.into() }
    }

    pub fn serialization(what: &str) -> Self {
        TrailError::new("SerializationException", format!("{what} has not the form of the service model"))
    }

    pub fn not_served(operation: &str) -> Self {
        let text = format!("The operation {operation} is not served by this version of hsm-bridge.");
        TrailError::new("UnsupportedOperationException", text)
    }

    pub fn unknown_operation() -> Self {
        TrailError::new("UnknownOperationException", "There is no such operation of CloudTrail.")
    }

    pub fn denied(message: String) -> Self {
        TrailError::new("AccessDeniedException", message)
    }

    /// A fault of ours; its cause is in the log under the request id.
    pub fn internal() -> Self {
        TrailError {
            status: 500,
            code: "InternalServiceErrorException",
            message: "An internal error occurred. The request can be retried.".to_owned(),
        }
    }

    fn unavailable(message: &str) -> Self {
        TrailError { status: 503, code: "ServiceUnavailableException", message: message.to_owned() }
    }
}

impl From<&AuthnError> for TrailError {
    /// RULE authorization.md §3.1, error mapping, column KMS: CloudTrail speaks the same protocol.
    fn from(error: &AuthnError) -> Self {
        match error {
            AuthnError::Internal(_) => TrailError::internal(),
            AuthnError::MissingAuthenticationToken
            | AuthnError::IncompleteSignature(_)
            | AuthnError::InvalidSignature(_)
            | AuthnError::WrongScope(_)
            | AuthnError::NotSigV4
            | AuthnError::UnrecognizedClient
            | AuthnError::ExpiredToken => TrailError::new(error.kms_code(), error.to_string()),
        }
    }
}

impl From<&TrailRefusal> for TrailError {
    fn from(refusal: &TrailRefusal) -> Self {
        match refusal {
            TrailRefusal::TrailNotFound(name) => {
                TrailError::new("TrailNotFoundException", format!("Unknown trail: {name}"))
            }
            TrailRefusal::InvalidTrailName(name) => TrailError::new(
                "InvalidTrailNameException",
                format!(
                    "Trail name or ARN can only contain uppercase letters, lowercase letters, numbers, periods (.), hyphens (-), and underscores (_): {name}"
                ),
            ),
            TrailRefusal::InvalidTrailArn(name) => {
                TrailError::new("CloudTrailARNInvalidException", format!("Invalid trail ARN: {name}"))
            }
            TrailRefusal::InvalidNextToken => {
                TrailError::new("InvalidNextTokenException", "The specified next token is not valid.")
            }
            TrailRefusal::IndexNotReady => {
                TrailError::unavailable("The index of the log is being built. The request can be retried.")
            }
            TrailRefusal::CannotBeStopped => {
                TrailError::new("OperationNotPermittedException", "Audit logging cannot be stopped.")
            }
            // Of the bucket: S3's front has the words.
            TrailRefusal::NoSuchBucket(_)
            | TrailRefusal::NoSuchKey(_)
            | TrailRefusal::InvalidRange(_)
            | TrailRefusal::BucketIsReadOnly => TrailError::internal(),
        }
    }
}

impl From<&OpError> for TrailError {
    fn from(error: &OpError) -> Self {
        match error {
            OpError::Trail(refusal) => refusal.into(),
            OpError::Unsupported(text) => TrailError::new("UnsupportedOperationException", text),
            OpError::Validation(text) => TrailError::new("ValidationException", text),
            OpError::Throttled => TrailError::new("ThrottlingException", "Rate exceeded"),
            OpError::DependencyTimeout(_) => TrailError::unavailable("The request can be retried."),
            // Nothing of the trail ends in these.
            _ => TrailError::internal(),
        }
    }
}

/// The body of an error answer.
pub fn error_body(error: &TrailError) -> Vec<u8> {
    serde_json::json!({ "__type": error.code, "message": error.message }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let trail = |refusal: TrailRefusal| TrailError::from(&OpError::Trail(refusal));
        for (error, status, code) in [
            (trail(TrailRefusal::TrailNotFound("a".into())), 400, "TrailNotFoundException"),
            (trail(TrailRefusal::InvalidTrailName("a".into())), 400, "InvalidTrailNameException"),
            (trail(TrailRefusal::InvalidTrailArn("a".into())), 400, "CloudTrailARNInvalidException"),
            (trail(TrailRefusal::InvalidNextToken), 400, "InvalidNextTokenException"),
            (trail(TrailRefusal::CannotBeStopped), 400, "OperationNotPermittedException"),
            (trail(TrailRefusal::IndexNotReady), 503, "ServiceUnavailableException"),
            (TrailError::from(&OpError::Unsupported("t".into())), 400, "UnsupportedOperationException"),
            (TrailError::from(&OpError::Internal("/secret/path".into())), 500, "InternalServiceErrorException"),
            (TrailError::from(&AuthnError::Internal("CKR_DEVICE_ERROR".into())), 500, "InternalServiceErrorException"),
            (TrailError::from(&AuthnError::InvalidSignature("t".into())), 400, "InvalidSignatureException"),
        ] {
            assert_eq!((error.status, error.code), (status, code));
            let body = String::from_utf8(error_body(&error)).unwrap();
            assert!(body.contains(code) && !body.contains("secret") && !body.contains("CKR_"), "{body}");
        }
    }
}
