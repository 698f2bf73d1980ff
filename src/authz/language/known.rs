//! Condition keys of KMS (kms-service-authorization, without the prefix `kms:`).

const EXACT: &[&str] = &[
    "BypassPolicyLockoutSafetyCheck",
    "CallerAccount",
    "CustomerMasterKeySpec",
    "CustomerMasterKeyUsage",
    "DataKeyPairSpec",
    "EncryptionAlgorithm",
    "EncryptionContextKeys",
    "ExpirationModel",
    "GrantConstraintSourceArn",
    "GrantConstraintType",
    "GrantIsForAWSResource",
    "GrantOperations",
    "GranteePrincipal",
    "GranteeServicePrincipal",
    "KeyAgreementAlgorithm",
    "KeyOrigin",
    "KeySpec",
    "KeyUsage",
    "MacAlgorithm",
    "MessageType",
    "MultiRegion",
    "MultiRegionKeyType",
    "PolicyName",
    "PrimaryRegion",
    "ReEncryptOnSameKey",
    "RecipientAttestation:ImageSha384",
    "ReplicaRegion",
    "RequestAlias",
    "ResourceAliases",
    "RetiringPrincipal",
    "RetiringServicePrincipal",
    "RotationPeriodInDays",
    "ScheduleKeyDeletionPendingWindowInDays",
    "SigningAlgorithm",
    "TrailingDaysWithoutKeyUsage",
    "ValidTo",
    "ViaService",
    "WrappingAlgorithm",
    "WrappingKeySpec",
];

const PREFIXES: &[&str] = &["EncryptionContext:", "RecipientAttestation:"];

pub fn is_known_kms_key(name: &str) -> bool {
    EXACT.iter().any(|known| known.eq_ignore_ascii_case(name))
        || PREFIXES.iter().any(|prefix| {
            name.len() > prefix.len() && name.get(..prefix.len()).is_some_and(|p| p.eq_ignore_ascii_case(prefix))
        })
}
