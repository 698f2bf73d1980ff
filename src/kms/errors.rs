//! The one table from domain errors to the wire, with AWS's texts (kms-api.md §1 and §2, authorization.md §1.13 and
//! §3.1), and the errors that the front itself answers. Texts of `Internal` and `Token` never leave this service.

use super::WireError;
use crate::authn::AuthnError;
use crate::ops::OpError;

/// Each code that can stand in an answer, for labels of metrics.
pub const ALL_CODES: &[&str] = &[
    "AccessDeniedException",
    "AlreadyExistsException",
    "CloudHsmClusterInUseException",
    "CloudHsmClusterInvalidConfigurationException",
    "CloudHsmClusterNotActiveException",
    "CloudHsmClusterNotFoundException",
    "CloudHsmClusterNotRelatedException",
    "CustomKeyStoreHasCMKsException",
    "CustomKeyStoreInvalidStateException",
    "CustomKeyStoreNameInUseException",
    "CustomKeyStoreNotFoundException",
    "DependencyTimeoutException",
    "DisabledException",
    "DryRunOperationException",
    "ExpiredTokenException",
    "IncompleteSignatureException",
    "IncorrectKeyException",
    "IncorrectTrustAnchorException",
    "InvalidAliasNameException",
    "InvalidArnException",
    "InvalidCiphertextException",
    "InvalidGrantIdException",
    "InvalidGrantTokenException",
    "InvalidKeyUsageException",
    "InvalidMarkerException",
    "InvalidSignatureException",
    "KMSInternalException",
    "KMSInvalidMacException",
    "KMSInvalidSignatureException",
    "KMSInvalidStateException",
    "KeyUnavailableException",
    "LimitExceededException",
    "MalformedPolicyDocumentException",
    "MissingAuthenticationTokenException",
    "NotFoundException",
    "SerializationException",
    "TagException",
    "ThrottlingException",
    "UnknownOperationException",
    "UnrecognizedClientException",
    "UnsupportedOperationException",
    "ValidationException",
];

/// What a caller is told of a fault of ours; the cause is in the log under the request id.
const INTERNAL: &str = "An internal error occurred. The request can be retried.";

/// The one table from an operation's errors to the wire. No `_` arm.
pub fn wire_error(error: &OpError) -> WireError {
    match error {
        OpError::InvalidKeyId(text) => client("NotFoundException", format!("Invalid keyId '{text}'")),
        OpError::InvalidArn(part) => client("NotFoundException", format!("Invalid arn {part}")),
        OpError::MalformedArn(text) => client("InvalidArnException", format!("Invalid arn '{text}'")),
        OpError::KeyNotFound { arn } => client("NotFoundException", format!("Key '{arn}' does not exist")),
        OpError::AliasNotFound { arn } => client("NotFoundException", format!("Alias {arn} is not found.")),
        OpError::AliasExists { arn } => {
            client("AlreadyExistsException", format!("An alias with the name {arn} already exists"))
        }
        // authorization.md §1.6: a ValidationException; the text is ours.
        OpError::ReservedAlias(_) => {
            validation("Aliases that begin with alias/aws/ are reserved for AWS managed keys.")
        }
        OpError::Disabled { arn } => client("DisabledException", format!("{arn} is disabled.")),
        OpError::PendingDeletion { arn } => invalid_state(format!("{arn} is pending deletion.")),
        OpError::NotPendingDeletion { arn } => invalid_state(format!("{arn} is not pending deletion.")),
        OpError::KeyUnavailable { arn } => server(500, "KeyUnavailableException", format!("{arn} is unavailable.")),
        OpError::KeyStoreDisconnected { arn } => {
            invalid_state(format!("{arn} is unavailable because its custom key store is not connected."))
        }
        OpError::KeyStoreNotFound(id) => {
            client("CustomKeyStoreNotFoundException", format!("Custom key store {id} is not found."))
        }
        OpError::KeyStoreNameInUse(name) => client(
            "CustomKeyStoreNameInUseException",
            format!("The custom key store name {name} is used by another custom key store."),
        ),
        OpError::KeyStoreInvalidState(text) => client("CustomKeyStoreInvalidStateException", text),
        OpError::KeyStoreHasKeys(id) => {
            client("CustomKeyStoreHasCMKsException", format!("Custom key store {id} contains KMS keys."))
        }
        OpError::ClusterNotFound(id) => {
            client("CloudHsmClusterNotFoundException", format!("Cluster {id} is not found."))
        }
        OpError::ClusterInUse(id) => {
            client("CloudHsmClusterInUseException", format!("Cluster {id} is already associated with a key store."))
        }
        OpError::ClusterNotActive(text) => client("CloudHsmClusterNotActiveException", text),
        OpError::ClusterInvalidConfiguration(text) => client("CloudHsmClusterInvalidConfigurationException", text),
        OpError::ClusterNotRelated(text) => client("CloudHsmClusterNotRelatedException", text),
        OpError::IncorrectTrustAnchor(text) => client("IncorrectTrustAnchorException", text),
        OpError::WrongOrigin { arn, origin } => {
            unsupported(format!("{arn} origin is {origin} which is not valid for this operation."))
        }
        OpError::InvalidState(text) => invalid_state(text.clone()),
        // KMS asks for no session, and not for the trail.
        OpError::Sts(_) | OpError::Trail(_) => internal(),
        OpError::Unsettled { arn } => {
            invalid_state(format!("{arn} has a change of unknown outcome that is being settled."))
        }
        OpError::EncryptionLimit { arn } => invalid_state(format!("{arn} has reached its encryption limit; rotate it")),
        OpError::InvalidKeyUsage { arn, usage, operation } => client(
            "InvalidKeyUsageException",
            format!("{arn} key usage is {usage} which is not valid for {operation}."),
        ),
        OpError::IncompatibleSigningAlgorithm { algorithm, spec } => incompatible(algorithm.as_str(), spec.as_str()),
        OpError::IncompatibleMacAlgorithm { algorithm, spec } => incompatible(algorithm.as_str(), spec.as_str()),
        OpError::IncompatibleEncryptionAlgorithm { algorithm, spec } => incompatible(algorithm, spec.as_str()),
        OpError::IncorrectKey => client(
            "IncorrectKeyException",
            "The key ID in the request does not identify a CMK that can perform this operation.",
        ),
        OpError::InvalidCiphertext => silent("InvalidCiphertextException"),
        OpError::InvalidSignature => silent("KMSInvalidSignatureException"),
        OpError::InvalidMac => silent("KMSInvalidMacException"),
        OpError::DigestLength(algorithm) => validation(format!("Digest is invalid length for algorithm {algorithm}.")),
        OpError::InvalidMarker => client("InvalidMarkerException", "The marker is not valid."),
        OpError::InvalidGrantId(id) => client("InvalidGrantIdException", format!("Invalid grant id '{id}'")),
        OpError::InvalidGrantToken => client("InvalidGrantTokenException", "The grant token is not valid."),
        OpError::GrantNotFound(id) => client("NotFoundException", format!("Grant ID {id} not found")),
        OpError::Tag(text) => client("TagException", *text),
        OpError::Validation(text) => validation(text),
        OpError::MalformedPolicy(text) => client("MalformedPolicyDocumentException", text),
        OpError::LimitExceeded(text) => limit_exceeded(text),
        OpError::Unsupported(text) => unsupported(text),
        OpError::DryRun => {
            client("DryRunOperationException", "The request would have succeeded, but the DryRun option is set.")
        }
        OpError::Throttled => client("ThrottlingException", "Rate exceeded"),
        OpError::DependencyTimeout(_) => {
            server(503, "DependencyTimeoutException", "The token did not answer in time. The request can be retried.")
        }
        OpError::Token(_) | OpError::Internal(_) => internal(),
    }
}

/// Requests without a caller (authorization.md §3.1, error mapping, column KMS).
pub fn authn_error(error: &AuthnError) -> WireError {
    let code = match error {
        AuthnError::MissingAuthenticationToken => "MissingAuthenticationTokenException",
        AuthnError::IncompleteSignature(_) => "IncompleteSignatureException",
        AuthnError::InvalidSignature(_) | AuthnError::WrongScope(_) | AuthnError::NotSigV4 => {
            "InvalidSignatureException"
        }
        AuthnError::UnrecognizedClient => "UnrecognizedClientException",
        AuthnError::ExpiredToken => "ExpiredTokenException",
        AuthnError::Internal(_) => return internal(),
    };
    client(code, error.to_string())
}

/// The text is built by the authorisation step (authorization.md §1.13); this one error spells `Message` with a capital.
pub fn access_denied(message: impl Into<String>) -> WireError {
    WireError { capital_message: true, ..client("AccessDeniedException", message) }
}

pub fn unknown_operation() -> WireError {
    silent("UnknownOperationException")
}

pub fn serialization(text: impl Into<String>) -> WireError {
    client("SerializationException", text)
}

pub fn validation(text: impl Into<String>) -> WireError {
    client("ValidationException", text)
}

pub fn unsupported(text: impl Into<String>) -> WireError {
    client("UnsupportedOperationException", text)
}

pub fn limit_exceeded(text: impl Into<String>) -> WireError {
    client("LimitExceededException", text)
}

pub fn throttled() -> WireError {
    wire_error(&OpError::Throttled)
}

/// A fault of ours; its cause goes to the log.
pub fn internal() -> WireError {
    server(500, "KMSInternalException", INTERNAL)
}

/// Before the service: the token is away, and nobody can be authenticated without it.
pub fn token_away() -> WireError {
    server(503, "DependencyTimeoutException", "The token is away, and the service starts when it is back. Try again.")
}

/// No unaudited use: the audit log cannot take the record. `directory` is named where it is short of space, because
/// that is what the operator has to mend.
pub fn audit_unavailable(directory: Option<&str>) -> WireError {
    let text = match directory {
        Some(directory) => format!("The audit log cannot be written: too little free space in {directory}."),
        None => "The audit log cannot be written. The request can be retried.".to_owned(),
    };
    server(500, "KMSInternalException", text)
}

/// AWS has no text for these: `message` is left out, neither empty nor null.
fn silent(code: &'static str) -> WireError {
    WireError { status: 400, code, message: None, capital_message: false }
}

pub(super) fn client(code: &'static str, message: impl Into<String>) -> WireError {
    server(400, code, message)
}

fn server(status: u16, code: &'static str, message: impl Into<String>) -> WireError {
    debug_assert!(ALL_CODES.contains(&code), "{code} is missing in ALL_CODES");
    WireError { status, code, message: Some(message.into()), capital_message: false }
}

fn invalid_state(message: String) -> WireError {
    client("KMSInvalidStateException", message)
}

fn incompatible(algorithm: &str, spec: &str) -> WireError {
    client("InvalidKeyUsageException", format!("Algorithm {algorithm} is incompatible with key spec {spec}."))
}

#[cfg(test)]
#[path = "errors_tests.rs"]
mod tests;
