//! The one table from an error to S3's wire.

use super::escape;
use crate::authn::AuthnError;
use crate::ops::{OpError, TrailRefusal};

/// Why a request has no answer: safe to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Error {
    pub status: u16,
    pub code: &'static str,
    pub message: String,
    /// A member of its own in the answer: `BucketName`, `Key`.
    pub about: Option<(&'static str, String)>,
}

impl S3Error {
    fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        S3Error { status, code, message: message.into(), about: None }
    }

    pub fn denied(message: impl Into<String>) -> Self {
        S3Error::new(403, "AccessDenied", message)
    }

    pub fn internal() -> Self {
        S3Error::new(500, "InternalError", "We encountered an internal error. Please try again.")
    }

    pub(super) fn method_not_allowed() -> Self {
        S3Error::new(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")
    }

    pub(super) fn not_implemented() -> Self {
        S3Error::new(
            501,
            "NotImplemented",
            "A header or query you provided implies functionality that is not implemented.",
        )
    }

    pub(super) fn invalid_argument(message: &str) -> Self {
        S3Error::new(400, "InvalidArgument", message)
    }

    pub(super) fn invalid_uri() -> Self {
        S3Error::new(400, "InvalidURI", "Couldn't parse the specified URI.")
    }

    pub(super) fn key_too_long() -> Self {
        S3Error::new(400, "KeyTooLongError", "Your key is too long")
    }
}

impl From<&AuthnError> for S3Error {
    /// RULE audit.md §2.7: what is unsigned, or signed as before SigV4, is refused with S3's texts.
    fn from(error: &AuthnError) -> Self {
        match error {
            AuthnError::MissingAuthenticationToken => S3Error::denied("Access Denied"),
            AuthnError::NotSigV4 => S3Error::new(400, "InvalidRequest", error.to_string()),
            // RULE audit.md §2.8 item 1: another Region is an error that nobody overlooks. S3's member `Region` is left out: clients
            // would follow it in silence, and an auditor's mistake would stay one.
            AuthnError::WrongScope(text) => S3Error::new(
                400,
                "AuthorizationHeaderMalformed",
                format!("The authorization header is malformed. {text}"),
            ),
            AuthnError::IncompleteSignature(text) => S3Error::new(400, "AuthorizationHeaderMalformed", text),
            AuthnError::InvalidSignature(text) => S3Error::new(403, "SignatureDoesNotMatch", text),
            AuthnError::UnrecognizedClient => S3Error::new(
                403,
                "InvalidAccessKeyId",
                "The AWS Access Key Id you provided does not exist in our records.",
            ),
            AuthnError::ExpiredToken => S3Error::new(400, "ExpiredToken", "The provided token has expired."),
            AuthnError::Internal(_) => S3Error::internal(),
        }
    }
}

impl From<&OpError> for S3Error {
    fn from(error: &OpError) -> Self {
        match error {
            OpError::Trail(TrailRefusal::NoSuchBucket(bucket)) => S3Error {
                about: Some(("BucketName", bucket.clone())),
                ..S3Error::new(404, "NoSuchBucket", "The specified bucket does not exist")
            },
            OpError::Trail(TrailRefusal::NoSuchKey(key)) => S3Error {
                about: Some(("Key", key.clone())),
                ..S3Error::new(404, "NoSuchKey", "The specified key does not exist.")
            },
            OpError::Trail(TrailRefusal::InvalidRange(size)) => S3Error {
                about: Some(("ActualObjectSize", size.to_string())),
                ..S3Error::new(416, "InvalidRange", "The requested range is not satisfiable")
            },
            OpError::Trail(TrailRefusal::BucketIsReadOnly) => S3Error::denied("Access Denied"),
            OpError::Unsupported(text) => S3Error::new(501, "NotImplemented", text),
            OpError::Throttled => S3Error::new(503, "SlowDown", "Please reduce your request rate."),
            // Nothing of the bucket ends in these.
            _ => S3Error::internal(),
        }
    }
}

/// The body of an error answer.
pub fn error_xml(error: &S3Error, resource: &str, request_id: &str) -> String {
    let about = error.about.as_ref().map_or(String::new(), |(name, text)| format!("<{name}>{}</{name}>", escape(text)));
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{}</Code><Message>{}</Message>{about}<Resource>{}</Resource>\
         <RequestId>{}</RequestId></Error>\n",
        error.code,
        escape(&error.message),
        escape(resource),
        escape(request_id),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let trail = |refusal: TrailRefusal| S3Error::from(&OpError::Trail(refusal));
        for (error, status, code) in [
            (S3Error::from(&AuthnError::MissingAuthenticationToken), 403, "AccessDenied"),
            (S3Error::from(&AuthnError::NotSigV4), 400, "InvalidRequest"),
            (S3Error::from(&AuthnError::WrongScope("t".into())), 400, "AuthorizationHeaderMalformed"),
            (S3Error::from(&AuthnError::InvalidSignature("t".into())), 403, "SignatureDoesNotMatch"),
            (S3Error::from(&AuthnError::UnrecognizedClient), 403, "InvalidAccessKeyId"),
            (S3Error::from(&AuthnError::Internal("CKR_DEVICE_ERROR".into())), 500, "InternalError"),
            (trail(TrailRefusal::NoSuchBucket("b".into())), 404, "NoSuchBucket"),
            (trail(TrailRefusal::NoSuchKey("<k>".into())), 404, "NoSuchKey"),
            (trail(TrailRefusal::InvalidRange(7)), 416, "InvalidRange"),
            (trail(TrailRefusal::BucketIsReadOnly), 403, "AccessDenied"),
            (S3Error::from(&OpError::Internal("/secret/path".into())), 500, "InternalError"),
        ] {
            assert_eq!((error.status, error.code), (status, code));
            let xml = error_xml(&error, "/b/<k>", "id");
            assert!(xml.contains(&format!("<Code>{code}</Code>")) && !xml.contains("<k>"), "{xml}");
            assert!(!xml.contains("secret") && !xml.contains("CKR_"), "{xml}");
        }
        assert!(
            AuthnError::NotSigV4.to_string().ends_with("not supported. Please use AWS4-HMAC-SHA256."),
            "{}",
            AuthnError::NotSigV4
        );
    }
}
