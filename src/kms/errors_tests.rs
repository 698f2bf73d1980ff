use super::*;
use crate::ids::spec::{KeySpec, KeyUsage, MacAlgorithm, SigningAlgorithm};

const ARN: &str = "arn:aws:kms:eu-central-1:111122223333:key/5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11";

/// kms-api.md §1, other codes and texts.
fn rows() -> Vec<(OpError, u16, &'static str, Option<String>)> {
    use OpError as E;
    let arn = || ARN.to_owned();
    let alias = || "arn:aws:kms:eu-central-1:111122223333:alias/x".to_owned();
    let text = |t: &str| Some(t.to_owned());
    vec![
        (E::InvalidKeyId("fake-key-id".into()), 400, "NotFoundException", text("Invalid keyId 'fake-key-id'")),
        (E::InvalidArn("us-west-2".into()), 400, "NotFoundException", text("Invalid arn us-west-2")),
        (E::MalformedArn("arn:aws".into()), 400, "InvalidArnException", text("Invalid arn 'arn:aws'")),
        (E::KeyNotFound { arn: arn() }, 400, "NotFoundException", Some(format!("Key '{ARN}' does not exist"))),
        (E::AliasNotFound { arn: alias() }, 400, "NotFoundException", Some(format!("Alias {} is not found.", alias()))),
        (
            E::AliasExists { arn: alias() },
            400,
            "AlreadyExistsException",
            Some(format!("An alias with the name {} already exists", alias())),
        ),
        (
            E::ReservedAlias("alias/aws/s3".into()),
            400,
            "ValidationException",
            Some("Aliases that begin with alias/aws/ are reserved for AWS managed keys.".into()),
        ),
        (E::Disabled { arn: arn() }, 400, "DisabledException", Some(format!("{ARN} is disabled."))),
        (
            E::PendingDeletion { arn: arn() },
            400,
            "KMSInvalidStateException",
            Some(format!("{ARN} is pending deletion.")),
        ),
        (
            E::NotPendingDeletion { arn: arn() },
            400,
            "KMSInvalidStateException",
            Some(format!("{ARN} is not pending deletion.")),
        ),
        (E::KeyUnavailable { arn: arn() }, 500, "KeyUnavailableException", Some(format!("{ARN} is unavailable."))),
        (
            E::KeyStoreDisconnected { arn: arn() },
            400,
            "KMSInvalidStateException",
            Some(format!("{ARN} is unavailable because its custom key store is not connected.")),
        ),
        (
            E::KeyStoreNotFound("cks-1".into()),
            400,
            "CustomKeyStoreNotFoundException",
            text("Custom key store cks-1 is not found."),
        ),
        (
            E::KeyStoreNameInUse("n".into()),
            400,
            "CustomKeyStoreNameInUseException",
            text("The custom key store name n is used by another custom key store."),
        ),
        (E::KeyStoreInvalidState("i".into()), 400, "CustomKeyStoreInvalidStateException", text("i")),
        (
            E::KeyStoreHasKeys("cks-1".into()),
            400,
            "CustomKeyStoreHasCMKsException",
            text("Custom key store cks-1 contains KMS keys."),
        ),
        (
            E::ClusterNotFound("cluster-1".into()),
            400,
            "CloudHsmClusterNotFoundException",
            text("Cluster cluster-1 is not found."),
        ),
        (
            E::ClusterInUse("cluster-1".into()),
            400,
            "CloudHsmClusterInUseException",
            text("Cluster cluster-1 is already associated with a key store."),
        ),
        (E::ClusterNotActive("a".into()), 400, "CloudHsmClusterNotActiveException", text("a")),
        (E::ClusterInvalidConfiguration("c".into()), 400, "CloudHsmClusterInvalidConfigurationException", text("c")),
        (E::ClusterNotRelated("r".into()), 400, "CloudHsmClusterNotRelatedException", text("r")),
        (E::IncorrectTrustAnchor("t".into()), 400, "IncorrectTrustAnchorException", text("t")),
        (
            E::WrongOrigin { arn: arn(), origin: "AWS_CLOUDHSM" },
            400,
            "UnsupportedOperationException",
            Some(format!("{ARN} origin is AWS_CLOUDHSM which is not valid for this operation.")),
        ),
        (E::InvalidState("s".into()), 400, "KMSInvalidStateException", text("s")),
        (
            E::Unsettled { arn: arn() },
            400,
            "KMSInvalidStateException",
            Some(format!("{ARN} has a change of unknown outcome that is being settled.")),
        ),
        (
            E::EncryptionLimit { arn: arn() },
            400,
            "KMSInvalidStateException",
            Some(format!("{ARN} has reached its encryption limit; rotate it")),
        ),
        (
            E::InvalidKeyUsage { arn: arn(), usage: KeyUsage::EncryptDecrypt, operation: "GenerateMac" },
            400,
            "InvalidKeyUsageException",
            Some(format!("{ARN} key usage is ENCRYPT_DECRYPT which is not valid for GenerateMac.")),
        ),
        (
            E::IncompatibleMacAlgorithm { algorithm: MacAlgorithm::HmacSha256, spec: KeySpec::Hmac224 },
            400,
            "InvalidKeyUsageException",
            text("Algorithm HMAC_SHA_256 is incompatible with key spec HMAC_224."),
        ),
        (
            E::IncompatibleSigningAlgorithm { algorithm: SigningAlgorithm::EcdsaSha256, spec: KeySpec::Rsa2048 },
            400,
            "InvalidKeyUsageException",
            text("Algorithm ECDSA_SHA_256 is incompatible with key spec RSA_2048."),
        ),
        (
            E::IncompatibleEncryptionAlgorithm { algorithm: "SM2PKE".into(), spec: KeySpec::SymmetricDefault },
            400,
            "InvalidKeyUsageException",
            text("Algorithm SM2PKE is incompatible with key spec SYMMETRIC_DEFAULT."),
        ),
        (
            E::IncorrectKey,
            400,
            "IncorrectKeyException",
            text("The key ID in the request does not identify a CMK that can perform this operation."),
        ),
        (E::InvalidCiphertext, 400, "InvalidCiphertextException", None),
        (E::InvalidSignature, 400, "KMSInvalidSignatureException", None),
        (E::InvalidMac, 400, "KMSInvalidMacException", None),
        (
            E::DigestLength(SigningAlgorithm::RsassaPssSha256),
            400,
            "ValidationException",
            text("Digest is invalid length for algorithm RSASSA_PSS_SHA_256."),
        ),
        (E::InvalidMarker, 400, "InvalidMarkerException", text("The marker is not valid.")),
        (E::InvalidGrantId("g".into()), 400, "InvalidGrantIdException", text("Invalid grant id 'g'")),
        (E::InvalidGrantToken, 400, "InvalidGrantTokenException", text("The grant token is not valid.")),
        (E::GrantNotFound("0a".into()), 400, "NotFoundException", text("Grant ID 0a not found")),
        (E::Tag("Too many tags"), 400, "TagException", text("Too many tags")),
        (E::Validation("v".into()), 400, "ValidationException", text("v")),
        (E::MalformedPolicy("p".into()), 400, "MalformedPolicyDocumentException", text("p")),
        (E::LimitExceeded("l".into()), 400, "LimitExceededException", text("l")),
        (E::Unsupported("u".into()), 400, "UnsupportedOperationException", text("u")),
        (
            E::DryRun,
            400,
            "DryRunOperationException",
            text("The request would have succeeded, but the DryRun option is set."),
        ),
        (E::Throttled, 400, "ThrottlingException", text("Rate exceeded")),
        (
            E::DependencyTimeout("C_Encrypt".into()),
            503,
            "DependencyTimeoutException",
            text("The token did not answer in time. The request can be retried."),
        ),
        (E::Token("CKR_DEVICE_ERROR".into()), 500, "KMSInternalException", text(INTERNAL)),
        (E::Internal("/var/lib/x".into()), 500, "KMSInternalException", text(INTERNAL)),
        (E::Sts(crate::ops::StsRefusal::Denied("text".into())), 500, "KMSInternalException", text(INTERNAL)),
        (E::Trail(crate::ops::TrailRefusal::BucketIsReadOnly), 500, "KMSInternalException", text(INTERNAL)),
    ]
}

/// Each error of `ops/error.rs` has its row above.
#[test]
fn no_error_is_without_a_row() {
    let source = include_str!("../ops/error.rs");
    let variants: Vec<&str> = source
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .filter_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric()).next())
        .collect();
    assert!(variants.len() > 40, "{variants:?}");
    let rows: Vec<String> = rows().iter().map(|(error, ..)| format!("{error:?}")).collect();
    for variant in variants {
        let named =
            |row: &String| row.strip_prefix(variant).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric));
        assert!(rows.iter().any(named), "{variant}");
    }
}

#[test]
fn operation_errors() {
    for (error, status, code, message) in rows() {
        let expected = WireError { status, code, message, capital_message: false };
        assert_eq!(wire_error(&error), expected, "{error:?}");
    }
}

#[test]
fn each_code_is_listed_once() {
    for (error, ..) in rows() {
        let code = wire_error(&error).code;
        assert!(ALL_CODES.contains(&code), "{code}");
    }
    for error in [unknown_operation(), serialization("x"), access_denied("x"), audit_unavailable(None), internal()] {
        assert!(ALL_CODES.contains(&error.code), "{}", error.code);
    }
    assert!(ALL_CODES.is_sorted());
}

#[test]
fn causes_stay_in_the_log() {
    for error in [
        OpError::Token("CKR_PIN_LOCKED in /run/token".into()),
        OpError::Internal("CKR_PIN_LOCKED in /run/token".into()),
        OpError::DependencyTimeout("CKR_PIN_LOCKED in /run/token".into()),
    ] {
        let told = wire_error(&error).message.unwrap();
        assert!(!told.contains("CKR_") && !told.contains('/'), "{told}");
    }
    let told = authn_error(&AuthnError::Internal("CKR_PIN_LOCKED".into()));
    assert_eq!((told.status, told.message.as_deref()), (500, Some(INTERNAL)));
}

/// authorization.md §3.1, error mapping.
#[test]
fn callers_that_are_not_known() {
    for (error, code, message) in [
        (
            AuthnError::MissingAuthenticationToken,
            "MissingAuthenticationTokenException",
            "Request is missing Authentication Token",
        ),
        (AuthnError::IncompleteSignature("i".into()), "IncompleteSignatureException", "i"),
        (AuthnError::InvalidSignature("s".into()), "InvalidSignatureException", "s"),
        (
            AuthnError::UnrecognizedClient,
            "UnrecognizedClientException",
            "The security token included in the request is invalid.",
        ),
        (AuthnError::ExpiredToken, "ExpiredTokenException", "The security token included in the request is expired"),
    ] {
        let told = authn_error(&error);
        assert_eq!((told.status, told.code, told.message.as_deref()), (400, code, Some(message)));
        assert!(!told.capital_message);
    }
}

#[test]
fn only_access_denied_has_a_capital_message() {
    assert!(access_denied("x").capital_message);
    assert_eq!(unknown_operation().message, None);
    assert!(audit_unavailable(Some("/a/b")).message.unwrap().ends_with("in /a/b."));
}
