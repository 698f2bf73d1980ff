//! The 56 operations of KMS, and one of ours: which are served, which change anything, which take an alias as KeyId. One row each.
//! Source: the service model (botocore `kms/2014-11-01`) and the audit and authorization tables of AWS's guides.

/// An operation of KMS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    CancelKeyDeletion,
    ConnectCustomKeyStore,
    CreateAlias,
    CreateCustomKeyStore,
    CreateGrant,
    CreateKey,
    Decapsulate,
    Decrypt,
    DeleteAlias,
    DeleteCustomKeyStore,
    DeleteImportedKeyMaterial,
    DeriveSharedSecret,
    DescribeCustomKeyStores,
    DescribeKey,
    DisableKey,
    DisableKeyRotation,
    DisconnectCustomKeyStore,
    EnableKey,
    EnableKeyRotation,
    Encapsulate,
    Encrypt,
    GenerateDataKey,
    GenerateDataKeyPair,
    GenerateDataKeyPairWithoutPlaintext,
    GenerateDataKeyWithoutPlaintext,
    GenerateMac,
    GenerateRandom,
    GetKeyLastUsage,
    GetKeyPolicy,
    GetKeyRotationStatus,
    GetParametersForImport,
    GetPublicKey,
    ImportKeyMaterial,
    ListAliases,
    ListGrants,
    ListKeyPolicies,
    ListKeyRotations,
    ListKeys,
    ListResourceTags,
    ListRetirableGrants,
    PutKeyPolicy,
    ReEncrypt,
    ReplicateKey,
    RetireGrant,
    RevokeGrant,
    RotateKeyOnDemand,
    ScheduleKeyDeletion,
    Sign,
    TagResource,
    UntagResource,
    UpdateAlias,
    UpdateCustomKeyStore,
    UpdateKeyDescription,
    UpdatePrimaryRegion,
    Verify,
    VerifyMac,
    /// Ours, `HsmBridge.RotateAlias`: no operation of AWS.
    RotateAlias,
}

/// What this version does with an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Served,
    /// Answers UnsupportedOperationException with this reason, and is audited.
    Refused(&'static str),
    /// The same, once its key is resolved and the caller authorised: where the key's origin forbids it anyway, AWS's text
    /// says so.
    RefusedOnKey(&'static str),
}

impl Operation {
    pub const ALL: &'static [Operation] = &[
        Operation::CancelKeyDeletion,
        Operation::ConnectCustomKeyStore,
        Operation::CreateAlias,
        Operation::CreateCustomKeyStore,
        Operation::CreateGrant,
        Operation::CreateKey,
        Operation::Decapsulate,
        Operation::Decrypt,
        Operation::DeleteAlias,
        Operation::DeleteCustomKeyStore,
        Operation::DeleteImportedKeyMaterial,
        Operation::DeriveSharedSecret,
        Operation::DescribeCustomKeyStores,
        Operation::DescribeKey,
        Operation::DisableKey,
        Operation::DisableKeyRotation,
        Operation::DisconnectCustomKeyStore,
        Operation::EnableKey,
        Operation::EnableKeyRotation,
        Operation::Encapsulate,
        Operation::Encrypt,
        Operation::GenerateDataKey,
        Operation::GenerateDataKeyPair,
        Operation::GenerateDataKeyPairWithoutPlaintext,
        Operation::GenerateDataKeyWithoutPlaintext,
        Operation::GenerateMac,
        Operation::GenerateRandom,
        Operation::GetKeyLastUsage,
        Operation::GetKeyPolicy,
        Operation::GetKeyRotationStatus,
        Operation::GetParametersForImport,
        Operation::GetPublicKey,
        Operation::ImportKeyMaterial,
        Operation::ListAliases,
        Operation::ListGrants,
        Operation::ListKeyPolicies,
        Operation::ListKeyRotations,
        Operation::ListKeys,
        Operation::ListResourceTags,
        Operation::ListRetirableGrants,
        Operation::PutKeyPolicy,
        Operation::ReEncrypt,
        Operation::ReplicateKey,
        Operation::RetireGrant,
        Operation::RevokeGrant,
        Operation::RotateKeyOnDemand,
        Operation::ScheduleKeyDeletion,
        Operation::Sign,
        Operation::TagResource,
        Operation::UntagResource,
        Operation::UpdateAlias,
        Operation::UpdateCustomKeyStore,
        Operation::UpdateKeyDescription,
        Operation::UpdatePrimaryRegion,
        Operation::Verify,
        Operation::VerifyMac,
        Operation::RotateAlias,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Operation::CancelKeyDeletion => "CancelKeyDeletion",
            Operation::ConnectCustomKeyStore => "ConnectCustomKeyStore",
            Operation::CreateAlias => "CreateAlias",
            Operation::CreateCustomKeyStore => "CreateCustomKeyStore",
            Operation::CreateGrant => "CreateGrant",
            Operation::CreateKey => "CreateKey",
            Operation::Decapsulate => "Decapsulate",
            Operation::Decrypt => "Decrypt",
            Operation::DeleteAlias => "DeleteAlias",
            Operation::DeleteCustomKeyStore => "DeleteCustomKeyStore",
            Operation::DeleteImportedKeyMaterial => "DeleteImportedKeyMaterial",
            Operation::DeriveSharedSecret => "DeriveSharedSecret",
            Operation::DescribeCustomKeyStores => "DescribeCustomKeyStores",
            Operation::DescribeKey => "DescribeKey",
            Operation::DisableKey => "DisableKey",
            Operation::DisableKeyRotation => "DisableKeyRotation",
            Operation::DisconnectCustomKeyStore => "DisconnectCustomKeyStore",
            Operation::EnableKey => "EnableKey",
            Operation::EnableKeyRotation => "EnableKeyRotation",
            Operation::Encapsulate => "Encapsulate",
            Operation::Encrypt => "Encrypt",
            Operation::GenerateDataKey => "GenerateDataKey",
            Operation::GenerateDataKeyPair => "GenerateDataKeyPair",
            Operation::GenerateDataKeyPairWithoutPlaintext => "GenerateDataKeyPairWithoutPlaintext",
            Operation::GenerateDataKeyWithoutPlaintext => "GenerateDataKeyWithoutPlaintext",
            Operation::GenerateMac => "GenerateMac",
            Operation::GenerateRandom => "GenerateRandom",
            Operation::GetKeyLastUsage => "GetKeyLastUsage",
            Operation::GetKeyPolicy => "GetKeyPolicy",
            Operation::GetKeyRotationStatus => "GetKeyRotationStatus",
            Operation::GetParametersForImport => "GetParametersForImport",
            Operation::GetPublicKey => "GetPublicKey",
            Operation::ImportKeyMaterial => "ImportKeyMaterial",
            Operation::ListAliases => "ListAliases",
            Operation::ListGrants => "ListGrants",
            Operation::ListKeyPolicies => "ListKeyPolicies",
            Operation::ListKeyRotations => "ListKeyRotations",
            Operation::ListKeys => "ListKeys",
            Operation::ListResourceTags => "ListResourceTags",
            Operation::ListRetirableGrants => "ListRetirableGrants",
            Operation::PutKeyPolicy => "PutKeyPolicy",
            Operation::ReEncrypt => "ReEncrypt",
            Operation::ReplicateKey => "ReplicateKey",
            Operation::RetireGrant => "RetireGrant",
            Operation::RevokeGrant => "RevokeGrant",
            Operation::RotateKeyOnDemand => "RotateKeyOnDemand",
            Operation::ScheduleKeyDeletion => "ScheduleKeyDeletion",
            Operation::Sign => "Sign",
            Operation::TagResource => "TagResource",
            Operation::UntagResource => "UntagResource",
            Operation::UpdateAlias => "UpdateAlias",
            Operation::UpdateCustomKeyStore => "UpdateCustomKeyStore",
            Operation::UpdateKeyDescription => "UpdateKeyDescription",
            Operation::UpdatePrimaryRegion => "UpdatePrimaryRegion",
            Operation::Verify => "Verify",
            Operation::VerifyMac => "VerifyMac",
            Operation::RotateAlias => "RotateAlias",
        }
    }

    /// The IAM action of the operation's check on its key or on `*` (ReEncrypt has two of its own).
    pub fn action(self) -> &'static str {
        match self {
            Operation::CancelKeyDeletion => "kms:CancelKeyDeletion",
            Operation::ConnectCustomKeyStore => "kms:ConnectCustomKeyStore",
            Operation::CreateAlias => "kms:CreateAlias",
            Operation::CreateCustomKeyStore => "kms:CreateCustomKeyStore",
            Operation::CreateGrant => "kms:CreateGrant",
            Operation::CreateKey => "kms:CreateKey",
            Operation::Decapsulate => "kms:Decapsulate",
            Operation::Decrypt => "kms:Decrypt",
            Operation::DeleteAlias => "kms:DeleteAlias",
            Operation::DeleteCustomKeyStore => "kms:DeleteCustomKeyStore",
            Operation::DeleteImportedKeyMaterial => "kms:DeleteImportedKeyMaterial",
            Operation::DeriveSharedSecret => "kms:DeriveSharedSecret",
            Operation::DescribeCustomKeyStores => "kms:DescribeCustomKeyStores",
            Operation::DescribeKey => "kms:DescribeKey",
            Operation::DisableKey => "kms:DisableKey",
            Operation::DisableKeyRotation => "kms:DisableKeyRotation",
            Operation::DisconnectCustomKeyStore => "kms:DisconnectCustomKeyStore",
            Operation::EnableKey => "kms:EnableKey",
            Operation::EnableKeyRotation => "kms:EnableKeyRotation",
            Operation::Encapsulate => "kms:Encapsulate",
            Operation::Encrypt => "kms:Encrypt",
            Operation::GenerateDataKey => "kms:GenerateDataKey",
            Operation::GenerateDataKeyPair => "kms:GenerateDataKeyPair",
            Operation::GenerateDataKeyPairWithoutPlaintext => "kms:GenerateDataKeyPairWithoutPlaintext",
            Operation::GenerateDataKeyWithoutPlaintext => "kms:GenerateDataKeyWithoutPlaintext",
            Operation::GenerateMac => "kms:GenerateMac",
            Operation::GenerateRandom => "kms:GenerateRandom",
            Operation::GetKeyLastUsage => "kms:GetKeyLastUsage",
            Operation::GetKeyPolicy => "kms:GetKeyPolicy",
            Operation::GetKeyRotationStatus => "kms:GetKeyRotationStatus",
            Operation::GetParametersForImport => "kms:GetParametersForImport",
            Operation::GetPublicKey => "kms:GetPublicKey",
            Operation::ImportKeyMaterial => "kms:ImportKeyMaterial",
            Operation::ListAliases => "kms:ListAliases",
            Operation::ListGrants => "kms:ListGrants",
            Operation::ListKeyPolicies => "kms:ListKeyPolicies",
            Operation::ListKeyRotations => "kms:ListKeyRotations",
            Operation::ListKeys => "kms:ListKeys",
            Operation::ListResourceTags => "kms:ListResourceTags",
            Operation::ListRetirableGrants => "kms:ListRetirableGrants",
            Operation::PutKeyPolicy => "kms:PutKeyPolicy",
            Operation::ReEncrypt => "kms:ReEncryptFrom",
            Operation::ReplicateKey => "kms:ReplicateKey",
            Operation::RetireGrant => "kms:RetireGrant",
            Operation::RevokeGrant => "kms:RevokeGrant",
            Operation::RotateKeyOnDemand => "kms:RotateKeyOnDemand",
            Operation::ScheduleKeyDeletion => "kms:ScheduleKeyDeletion",
            Operation::Sign => "kms:Sign",
            Operation::TagResource => "kms:TagResource",
            Operation::UntagResource => "kms:UntagResource",
            Operation::UpdateAlias => "kms:UpdateAlias",
            Operation::UpdateCustomKeyStore => "kms:UpdateCustomKeyStore",
            Operation::UpdateKeyDescription => "kms:UpdateKeyDescription",
            Operation::UpdatePrimaryRegion => "kms:UpdatePrimaryRegion",
            Operation::Verify => "kms:Verify",
            Operation::VerifyMac => "kms:VerifyMac",
            // Beside kms:CreateKey and the same on alias, old and new key.
            Operation::RotateAlias => "kms:UpdateAlias",
        }
    }

    /// One of the model's operations by its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "CancelKeyDeletion" => Operation::CancelKeyDeletion,
            "ConnectCustomKeyStore" => Operation::ConnectCustomKeyStore,
            "CreateAlias" => Operation::CreateAlias,
            "CreateCustomKeyStore" => Operation::CreateCustomKeyStore,
            "CreateGrant" => Operation::CreateGrant,
            "CreateKey" => Operation::CreateKey,
            "Decapsulate" => Operation::Decapsulate,
            "Decrypt" => Operation::Decrypt,
            "DeleteAlias" => Operation::DeleteAlias,
            "DeleteCustomKeyStore" => Operation::DeleteCustomKeyStore,
            "DeleteImportedKeyMaterial" => Operation::DeleteImportedKeyMaterial,
            "DeriveSharedSecret" => Operation::DeriveSharedSecret,
            "DescribeCustomKeyStores" => Operation::DescribeCustomKeyStores,
            "DescribeKey" => Operation::DescribeKey,
            "DisableKey" => Operation::DisableKey,
            "DisableKeyRotation" => Operation::DisableKeyRotation,
            "DisconnectCustomKeyStore" => Operation::DisconnectCustomKeyStore,
            "EnableKey" => Operation::EnableKey,
            "EnableKeyRotation" => Operation::EnableKeyRotation,
            "Encapsulate" => Operation::Encapsulate,
            "Encrypt" => Operation::Encrypt,
            "GenerateDataKey" => Operation::GenerateDataKey,
            "GenerateDataKeyPair" => Operation::GenerateDataKeyPair,
            "GenerateDataKeyPairWithoutPlaintext" => Operation::GenerateDataKeyPairWithoutPlaintext,
            "GenerateDataKeyWithoutPlaintext" => Operation::GenerateDataKeyWithoutPlaintext,
            "GenerateMac" => Operation::GenerateMac,
            "GenerateRandom" => Operation::GenerateRandom,
            "GetKeyLastUsage" => Operation::GetKeyLastUsage,
            "GetKeyPolicy" => Operation::GetKeyPolicy,
            "GetKeyRotationStatus" => Operation::GetKeyRotationStatus,
            "GetParametersForImport" => Operation::GetParametersForImport,
            "GetPublicKey" => Operation::GetPublicKey,
            "ImportKeyMaterial" => Operation::ImportKeyMaterial,
            "ListAliases" => Operation::ListAliases,
            "ListGrants" => Operation::ListGrants,
            "ListKeyPolicies" => Operation::ListKeyPolicies,
            "ListKeyRotations" => Operation::ListKeyRotations,
            "ListKeys" => Operation::ListKeys,
            "ListResourceTags" => Operation::ListResourceTags,
            "ListRetirableGrants" => Operation::ListRetirableGrants,
            "PutKeyPolicy" => Operation::PutKeyPolicy,
            "ReEncrypt" => Operation::ReEncrypt,
            "ReplicateKey" => Operation::ReplicateKey,
            "RetireGrant" => Operation::RetireGrant,
            "RevokeGrant" => Operation::RevokeGrant,
            "RotateKeyOnDemand" => Operation::RotateKeyOnDemand,
            "ScheduleKeyDeletion" => Operation::ScheduleKeyDeletion,
            "Sign" => Operation::Sign,
            "TagResource" => Operation::TagResource,
            "UntagResource" => Operation::UntagResource,
            "UpdateAlias" => Operation::UpdateAlias,
            "UpdateCustomKeyStore" => Operation::UpdateCustomKeyStore,
            "UpdateKeyDescription" => Operation::UpdateKeyDescription,
            "UpdatePrimaryRegion" => Operation::UpdatePrimaryRegion,
            "Verify" => Operation::Verify,
            "VerifyMac" => Operation::VerifyMac,
            _ => return None,
        })
    }

    /// AWS's cryptographic operations: those that use a key, or the token's randomness, for a caller.
    pub fn is_cryptographic(self) -> bool {
        matches!(
            self,
            Operation::Decapsulate
                | Operation::Decrypt
                | Operation::DeriveSharedSecret
                | Operation::Encapsulate
                | Operation::Encrypt
                | Operation::GenerateDataKey
                | Operation::GenerateDataKeyPair
                | Operation::GenerateDataKeyPairWithoutPlaintext
                | Operation::GenerateDataKeyWithoutPlaintext
                | Operation::GenerateMac
                | Operation::GenerateRandom
                | Operation::ReEncrypt
                | Operation::Sign
                | Operation::Verify
                | Operation::VerifyMac
        )
    }

    /// CloudTrail's `readOnly`: true for cryptographic operations too.
    pub fn is_read_only(self) -> bool {
        matches!(
            self,
            Operation::Decapsulate
                | Operation::Decrypt
                | Operation::DeriveSharedSecret
                | Operation::DescribeCustomKeyStores
                | Operation::DescribeKey
                | Operation::Encapsulate
                | Operation::Encrypt
                | Operation::GenerateDataKey
                | Operation::GenerateDataKeyPair
                | Operation::GenerateDataKeyPairWithoutPlaintext
                | Operation::GenerateDataKeyWithoutPlaintext
                | Operation::GenerateMac
                | Operation::GenerateRandom
                | Operation::GetKeyLastUsage
                | Operation::GetKeyPolicy
                | Operation::GetKeyRotationStatus
                | Operation::GetParametersForImport
                | Operation::GetPublicKey
                | Operation::ListAliases
                | Operation::ListGrants
                | Operation::ListKeyPolicies
                | Operation::ListKeyRotations
                | Operation::ListKeys
                | Operation::ListResourceTags
                | Operation::ListRetirableGrants
                | Operation::ReEncrypt
                | Operation::Sign
                | Operation::Verify
                | Operation::VerifyMac
        )
    }

    /// Whether it changes anything that outlives the request: such an operation has an intent record.
    pub fn changes(self) -> bool {
        matches!(
            self,
            Operation::CancelKeyDeletion
                | Operation::CreateAlias
                | Operation::ConnectCustomKeyStore
                | Operation::CreateCustomKeyStore
                | Operation::CreateGrant
                | Operation::CreateKey
                | Operation::DeleteAlias
                | Operation::DeleteCustomKeyStore
                | Operation::DisableKey
                | Operation::DisconnectCustomKeyStore
                | Operation::EnableKey
                | Operation::PutKeyPolicy
                | Operation::RetireGrant
                | Operation::RevokeGrant
                | Operation::RotateAlias
                | Operation::ScheduleKeyDeletion
                | Operation::TagResource
                | Operation::UntagResource
                | Operation::UpdateAlias
                | Operation::UpdateCustomKeyStore
                | Operation::UpdateKeyDescription
        )
    }

    /// Whether KeyId may be an alias name or alias ARN; elsewhere an alias is NotFoundException.
    pub fn takes_alias(self) -> bool {
        matches!(
            self,
            Operation::Decrypt
                | Operation::DescribeKey
                | Operation::Encrypt
                | Operation::GenerateDataKey
                | Operation::GenerateDataKeyWithoutPlaintext
                | Operation::GenerateMac
                | Operation::GetPublicKey
                | Operation::ReEncrypt
                | Operation::Sign
                | Operation::Verify
                | Operation::VerifyMac
        )
    }

    pub fn service(self) -> Service {
        match self {
            Operation::Decapsulate | Operation::Encapsulate => {
                Service::Refused("key encapsulation is not served by this version")
            }
            Operation::DeriveSharedSecret => Service::Refused("key agreement is not served by this version"),
            Operation::GenerateDataKeyPair | Operation::GenerateDataKeyPairWithoutPlaintext => {
                Service::Refused("data key pairs are not served by this version")
            }
            Operation::ReplicateKey | Operation::UpdatePrimaryRegion => {
                Service::RefusedOnKey("multi-Region keys are not served: key material never leaves the token")
            }
            Operation::DeleteImportedKeyMaterial | Operation::GetParametersForImport | Operation::ImportKeyMaterial => {
                Service::RefusedOnKey("import of key material is not served by this version")
            }
            Operation::DisableKeyRotation
            | Operation::EnableKeyRotation
            | Operation::ListKeyRotations
            | Operation::RotateKeyOnDemand => Service::RefusedOnKey(
                "rotation under one key id is not served by this version: `hsm-bridge rotate` and HsmBridge.RotateAlias make \
                 a new key and point the alias to it",
            ),
            Operation::ConnectCustomKeyStore
            | Operation::CreateCustomKeyStore
            | Operation::DeleteCustomKeyStore
            | Operation::DescribeCustomKeyStores
            | Operation::DisconnectCustomKeyStore
            | Operation::UpdateCustomKeyStore
            | Operation::GetKeyLastUsage
            | Operation::RotateAlias
            | Operation::CreateKey
            | Operation::DescribeKey
            | Operation::ListKeys
            | Operation::EnableKey
            | Operation::DisableKey
            | Operation::ScheduleKeyDeletion
            | Operation::CancelKeyDeletion
            | Operation::UpdateKeyDescription
            | Operation::TagResource
            | Operation::UntagResource
            | Operation::ListResourceTags
            | Operation::CreateAlias
            | Operation::UpdateAlias
            | Operation::DeleteAlias
            | Operation::ListAliases
            | Operation::Encrypt
            | Operation::Decrypt
            | Operation::ReEncrypt
            | Operation::GenerateDataKey
            | Operation::GenerateDataKeyWithoutPlaintext
            | Operation::GenerateRandom
            | Operation::Sign
            | Operation::Verify
            | Operation::GetPublicKey
            | Operation::GenerateMac
            | Operation::VerifyMac
            | Operation::GetKeyPolicy
            | Operation::PutKeyPolicy
            | Operation::ListKeyPolicies
            | Operation::GetKeyRotationStatus
            | Operation::CreateGrant
            | Operation::ListGrants
            | Operation::ListRetirableGrants
            | Operation::RetireGrant
            | Operation::RevokeGrant => Service::Served,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        assert_eq!(Operation::ALL.len(), 57);
        for op in Operation::ALL {
            let of_the_model = (*op != Operation::RotateAlias).then_some(*op);
            assert_eq!(Operation::from_name(op.name()), of_the_model);
            assert!(!(op.changes() && op.is_read_only()), "{op:?}");
        }
        let served = Operation::ALL.iter().filter(|op| op.service() == Service::Served).count();
        assert_eq!(served, 43);
    }
}
