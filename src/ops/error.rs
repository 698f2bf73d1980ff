//! What can go wrong in an operation, in the domain's words. Each front has one table from here to its wire.
//!
//! Members are safe to tell a caller: ARNs, names and numbers. Causes (return values of the token, paths) stay in
//! `Internal` and `Token` as text for the log and never reach a caller.

use crate::ids::spec::{KeySpec, KeyUsage, MacAlgorithm, SigningAlgorithm};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// KeyId is no key id in any form.
    #[error("`{0}` is no key id")]
    InvalidKeyId(String),
    /// An ARN of another Region or service; the argument is what AWS names (`us-west-2`).
    #[error("invalid ARN part `{0}`")]
    InvalidArn(String),
    /// An ARN that does not parse.
    #[error("malformed ARN `{0}`")]
    MalformedArn(String),
    #[error("key `{arn}` does not exist")]
    KeyNotFound { arn: String },
    #[error("alias `{arn}` does not exist")]
    AliasNotFound { arn: String },
    #[error("alias `{arn}` exists")]
    AliasExists { arn: String },
    #[error("alias `{0}` is reserved")]
    ReservedAlias(String),
    #[error("`{arn}` is disabled")]
    Disabled { arn: String },
    #[error("`{arn}` is pending deletion")]
    PendingDeletion { arn: String },
    /// CancelKeyDeletion on a key that is not pending deletion.
    #[error("`{arn}` is not pending deletion")]
    NotPendingDeletion { arn: String },
    /// The token does not hold the key, or it is away.
    #[error("`{arn}` is unavailable")]
    KeyUnavailable { arn: String },
    /// The key's custom key store is not connected.
    #[error("`{arn}` is unavailable: its key store is not connected")]
    KeyStoreDisconnected { arn: String },
    #[error("custom key store `{0}` does not exist")]
    KeyStoreNotFound(String),
    #[error("custom key store name `{0}` is in use")]
    KeyStoreNameInUse(String),
    /// CustomKeyStoreInvalidStateException with its text.
    #[error("{0}")]
    KeyStoreInvalidState(String),
    #[error("custom key store `{0}` has keys")]
    KeyStoreHasKeys(String),
    #[error("cluster `{0}` is not known")]
    ClusterNotFound(String),
    #[error("cluster `{0}` is in use")]
    ClusterInUse(String),
    /// CloudHsmClusterNotActiveException, CloudHsmClusterInvalidConfigurationException and
    /// CloudHsmClusterNotRelatedException with their texts.
    #[error("{0}")]
    ClusterNotActive(String),
    #[error("{0}")]
    ClusterInvalidConfiguration(String),
    #[error("{0}")]
    ClusterNotRelated(String),
    #[error("{0}")]
    IncorrectTrustAnchor(String),
    /// AWS's text for an operation that the key's origin does not allow.
    #[error("`{arn}` has origin {origin}")]
    WrongOrigin { arn: String, origin: &'static str },
    /// KMSInvalidStateException with its text.
    #[error("{0}")]
    InvalidState(String),
    /// A change of unknown outcome is being settled.
    #[error("`{arn}` has an unsettled change")]
    Unsettled { arn: String },
    #[error("`{arn}` has reached its encryption limit")]
    EncryptionLimit { arn: String },
    #[error("`{arn}` has usage {usage}, not valid for {operation}")]
    InvalidKeyUsage { arn: String, usage: KeyUsage, operation: &'static str },
    #[error("algorithm {algorithm} does not fit {spec}")]
    IncompatibleSigningAlgorithm { algorithm: SigningAlgorithm, spec: KeySpec },
    #[error("algorithm {algorithm} does not fit {spec}")]
    IncompatibleMacAlgorithm { algorithm: MacAlgorithm, spec: KeySpec },
    #[error("algorithm {algorithm} does not fit {spec}")]
    IncompatibleEncryptionAlgorithm { algorithm: String, spec: KeySpec },
    /// The key named in the request is not the one that made the ciphertext.
    #[error("incorrect key")]
    IncorrectKey,
    #[error("invalid ciphertext")]
    InvalidCiphertext,
    #[error("invalid signature")]
    InvalidSignature,
    #[error("invalid MAC")]
    InvalidMac,
    #[error("digest has a wrong length for {0}")]
    DigestLength(SigningAlgorithm),
    #[error("marker does not open")]
    InvalidMarker,
    /// GrantId has not the form of one.
    #[error("`{0}` is no grant id")]
    InvalidGrantId(String),
    /// A grant token that is not ours, was changed, or whose grant is gone.
    #[error("grant token is not valid")]
    InvalidGrantToken,
    #[error("grant `{0}` does not exist")]
    GrantNotFound(String),
    /// TagException with its text.
    #[error("{0}")]
    Tag(&'static str),
    /// ValidationException with its text.
    #[error("{0}")]
    Validation(String),
    #[error("{0}")]
    MalformedPolicy(String),
    #[error("{0}")]
    LimitExceeded(String),
    #[error("{0}")]
    Unsupported(String),
    /// What only STS refuses.
    #[error("{0}")]
    Sts(crate::ops::StsRefusal),
    /// What only the readers of the log are refused.
    #[error("{0}")]
    Trail(crate::ops::TrailRefusal),
    #[error("dry run would have succeeded")]
    DryRun,
    /// The queue is full or the deadline passed in it.
    #[error("throttled")]
    Throttled,
    /// The token did not answer in time.
    #[error("dependency timed out: {0}")]
    DependencyTimeout(String),
    /// The token failed; the text is for the log.
    #[error("token: {0}")]
    Token(String),
    /// Anything else that is our fault; the text is for the log.
    #[error("internal: {0}")]
    Internal(String),
}
