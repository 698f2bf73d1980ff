//! Requests and responses of every operation, for the tests of this folder. Secret members hold `CANARY`.

use std::sync::Arc;

use crate::ids::spec::*;
use crate::ops::{
    AliasEntry, GrantConstraints, GrantEntry, GrantPrincipal, GrantRecord, KeyLastUsage, KeyMetadata, KeyStoreEntry,
    LastUse, Operation, Response, RotationDone, Tag,
};
use crate::secret::SecretBytes;

/// 24 bytes, so that its base64 has no padding and is found wherever it begins a member.
pub const CANARY: &[u8] = b"canary-of-a-secret-value";
pub const KEY: &str = "5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11";
pub const ARN: &str = "arn:aws:kms:eu-central-1:111122223333:key/5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11";
pub const MATERIAL: &str = "9d2f4b7c0e1a3d5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7";
/// 2026-03-04T09:31:22.550Z
pub const TIME: i64 = 1_772_616_682_550;
pub const STORE: &str = "cks-1234567890abcdef0";
pub const CLUSTER: &str = "cluster-abcDEF23456";

/// The secret as base64, as it stands in bodies.
pub const BASE64: &str = "Y2FuYXJ5LW9mLWEtc2VjcmV0LXZhbHVl";

/// A body for each served operation in the form of boto3 (`{"KeyId": "…", "Plaintext": "…"}`), all members that we serve.
pub const BODIES: &[(Operation, &str)] = &[
    (
        Operation::CreateKey,
        r#"{"Policy": "{\"Version\":\"2012-10-17\"}", "Description": "payments", "KeyUsage": "SIGN_VERIFY", "KeySpec": "RSA_2048", "Origin": "AWS_KMS", "BypassPolicyLockoutSafetyCheck": true, "Tags": [{"TagKey": "custodian", "TagValue": "team-crypto"}], "MultiRegion": false}"#,
    ),
    (Operation::DescribeKey, r#"{"KeyId": "alias/payments", "GrantTokens": ["abc"]}"#),
    (Operation::ListKeys, r#"{"Limit": 10, "Marker": "m"}"#),
    (Operation::EnableKey, r#"{"KeyId": "k"}"#),
    (Operation::DisableKey, r#"{"KeyId": "k"}"#),
    (Operation::ScheduleKeyDeletion, r#"{"KeyId": "k", "PendingWindowInDays": 7}"#),
    (Operation::CancelKeyDeletion, r#"{"KeyId": "k"}"#),
    (Operation::UpdateKeyDescription, r#"{"KeyId": "k", "Description": "new"}"#),
    (Operation::TagResource, r#"{"KeyId": "k", "Tags": [{"TagKey": "a", "TagValue": ""}]}"#),
    (Operation::UntagResource, r#"{"KeyId": "k", "TagKeys": ["a", "b"]}"#),
    (Operation::ListResourceTags, r#"{"KeyId": "k", "Limit": 50}"#),
    (Operation::CreateAlias, r#"{"AliasName": "alias/payments", "TargetKeyId": "k"}"#),
    (Operation::UpdateAlias, r#"{"AliasName": "alias/payments", "TargetKeyId": "k"}"#),
    (Operation::DeleteAlias, r#"{"AliasName": "alias/payments"}"#),
    (Operation::ListAliases, r#"{"KeyId": "k", "Limit": 100}"#),
    (
        Operation::Encrypt,
        r#"{"KeyId": "k", "Plaintext": "Y2FuYXJ5LW9mLWEtc2VjcmV0LXZhbHVl", "EncryptionContext": {"tenant": "acme", "purpose": "vault"}}"#,
    ),
    (
        Operation::Decrypt,
        r#"{"CiphertextBlob": "Y2FuYXJ5LW9mLWEtc2VjcmV0LXZhbHVl", "KeyId": "k", "EncryptionContext": {"tenant": "acme"}, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}"#,
    ),
    (
        Operation::ReEncrypt,
        r#"{"CiphertextBlob": "Y2FuYXJ5LW9mLWEtc2VjcmV0LXZhbHVl", "SourceKeyId": "s", "SourceEncryptionContext": {"a": "1"}, "DestinationKeyId": "d", "DestinationEncryptionContext": {"b": "2"}}"#,
    ),
    (Operation::GenerateDataKey, r#"{"KeyId": "k", "KeySpec": "AES_256", "EncryptionContext": {"tenant": "acme"}}"#),
    (Operation::GenerateDataKeyWithoutPlaintext, r#"{"KeyId": "k", "NumberOfBytes": 64}"#),
    (Operation::GenerateRandom, r#"{"NumberOfBytes": 32}"#),
    (
        Operation::Sign,
        r#"{"KeyId": "k", "Message": "Y2FuYXJ5LW9mLWEtc2VjcmV0LXZhbHVl", "MessageType": "DIGEST", "SigningAlgorithm": "ECDSA_SHA_256"}"#,
    ),
    (
        Operation::Verify,
        r#"{"KeyId": "k", "Message": "Y2FuYXJ5LW9mLWEtc2VjcmV0LXZhbHVl", "Signature": "Y2FuYXJ5LW9mLWEtc2VjcmV0LXZhbHVl", "SigningAlgorithm": "RSASSA_PSS_SHA_256"}"#,
    ),
    (Operation::GetPublicKey, r#"{"KeyId": "k"}"#),
    (
        Operation::GenerateMac,
        r#"{"Message": "Y2FuYXJ5LW9mLWEtc2VjcmV0LXZhbHVl", "KeyId": "k", "MacAlgorithm": "HMAC_SHA_256", "DryRun": true}"#,
    ),
    (
        Operation::VerifyMac,
        r#"{"Message": "Y2FuYXJ5LW9mLWEtc2VjcmV0LXZhbHVl", "KeyId": "k", "MacAlgorithm": "HMAC_SHA_256", "Mac": "Y2FuYXJ5LW9mLWEtc2VjcmV0LXZhbHVl"}"#,
    ),
    (Operation::GetKeyPolicy, r#"{"KeyId": "k", "PolicyName": "default"}"#),
    (Operation::PutKeyPolicy, r#"{"KeyId": "k", "PolicyName": "default", "Policy": "{}"}"#),
    (Operation::ListKeyPolicies, r#"{"KeyId": "k"}"#),
    (Operation::GetKeyRotationStatus, r#"{"KeyId": "k"}"#),
    (Operation::ListGrants, r#"{"KeyId": "k", "GrantId": "g", "GranteePrincipal": "arn:aws:iam::111122223333:root"}"#),
    (
        Operation::CreateGrant,
        r#"{"KeyId": "k", "GranteePrincipal": "arn:aws:iam::111122223333:user/a", "RetiringPrincipal": "arn:aws:iam::111122223333:root", "Operations": ["Decrypt", "RetireGrant"], "Constraints": {"EncryptionContextSubset": {"tenant": "acme"}}, "GrantTokens": ["canary-of-a-secret-value"], "Name": "nightly"}"#,
    ),
    (
        Operation::ListRetirableGrants,
        r#"{"RetiringPrincipal": "arn:aws:iam::111122223333:root", "Limit": 100, "Marker": "m"}"#,
    ),
    (Operation::RetireGrant, r#"{"GrantToken": "canary-of-a-secret-value"}"#),
    (Operation::RevokeGrant, r#"{"KeyId": "k", "GrantId": "g", "DryRun": true}"#),
    (Operation::GetKeyLastUsage, r#"{"KeyId": "k"}"#),
    (
        Operation::CreateCustomKeyStore,
        r#"{"CustomKeyStoreName": "payments", "CloudHsmClusterId": "cluster-abcDEF23456", "TrustAnchorCertificate": "-----BEGIN", "KeyStorePassword": "canary-of-a-secret-value", "CustomKeyStoreType": "AWS_CLOUDHSM"}"#,
    ),
    (
        Operation::UpdateCustomKeyStore,
        r#"{"CustomKeyStoreId": "cks-1234567890abcdef0", "NewCustomKeyStoreName": "new", "KeyStorePassword": "canary-of-a-secret-value", "CloudHsmClusterId": "cluster-abcDEF23456"}"#,
    ),
    (Operation::DescribeCustomKeyStores, r#"{"CustomKeyStoreName": "payments", "Limit": 10, "Marker": "m"}"#),
    (Operation::ConnectCustomKeyStore, r#"{"CustomKeyStoreId": "cks-1234567890abcdef0"}"#),
    (Operation::DisconnectCustomKeyStore, r#"{"CustomKeyStoreId": "cks-1234567890abcdef0"}"#),
    (Operation::DeleteCustomKeyStore, r#"{"CustomKeyStoreId": "cks-1234567890abcdef0"}"#),
    (
        Operation::RotateAlias,
        r#"{"AliasName": "alias/payments", "KeySpec": "RSA_3072", "Reason": "yearly", "Grants": "CARRY", "ClientToken": "t-1"}"#,
    ),
];

pub fn metadata() -> KeyMetadata {
    KeyMetadata {
        account: "111122223333".into(),
        key_id: KEY.parse().unwrap(),
        arn: ARN.into(),
        creation_date: TIME,
        description: String::new(),
        enabled: true,
        spec: KeySpec::SymmetricDefault,
        usage: KeyUsage::EncryptDecrypt,
        state: KeyState::Enabled,
        deletion_date: None,
        current_key_material_id: Some(MATERIAL.into()),
        encryption_algorithms: vec![EncryptionAlgorithm::SymmetricDefault],
        signing_algorithms: vec![],
        mac_algorithms: vec![],
        custom_store: None,
        managed: false,
    }
}

/// Each kind of response, and the JSON that AWS's clients expect of it.
pub fn responses() -> Vec<(Response, serde_json::Value)> {
    use serde_json::json;
    let secret = || SecretBytes::new(CANARY.to_vec());
    let arn = || ARN.to_owned();
    let material: Arc<str> = MATERIAL.into();
    let symmetric = json!({
        "AWSAccountId": "111122223333", "Arn": ARN, "CreationDate": 1_772_616_682.55, "CurrentKeyMaterialId": MATERIAL,
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT", "Description": "", "Enabled": true,
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"], "KeyId": KEY, "KeyManager": "CUSTOMER",
        "KeySpec": "SYMMETRIC_DEFAULT", "KeyState": "Enabled", "KeyUsage": "ENCRYPT_DECRYPT", "MultiRegion": false,
        "Origin": "AWS_KMS",
    });
    let deleted = KeyMetadata {
        spec: KeySpec::Hmac256,
        usage: KeyUsage::GenerateVerifyMac,
        state: KeyState::PendingDeletion,
        enabled: false,
        description: "quote \" and \\ and \n and é and \u{1}".into(),
        deletion_date: Some(TIME + 450),
        current_key_material_id: None,
        encryption_algorithms: vec![],
        mac_algorithms: vec![MacAlgorithm::HmacSha256],
        ..metadata()
    };
    let deleted_json = json!({
        "AWSAccountId": "111122223333", "Arn": ARN, "CreationDate": 1_772_616_682.55,
        "CustomerMasterKeySpec": "HMAC_256", "DeletionDate": 1_772_616_683,
        "Description": "quote \" and \\ and \n and é and \u{1}", "Enabled": false, "KeyId": KEY,
        "KeyManager": "CUSTOMER", "KeySpec": "HMAC_256", "KeyState": "PendingDeletion",
        "KeyUsage": "GENERATE_VERIFY_MAC", "MacAlgorithms": ["HMAC_SHA_256"], "MultiRegion": false,
        "Origin": "AWS_KMS",
    });
    let in_store = KeyMetadata {
        current_key_material_id: None,
        custom_store: Some((STORE.parse().unwrap(), CLUSTER.parse().unwrap())),
        ..metadata()
    };
    let in_store_json = json!({
        "AWSAccountId": "111122223333", "Arn": ARN, "CloudHsmClusterId": CLUSTER, "CreationDate": 1_772_616_682.55,
        "CustomKeyStoreId": STORE, "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT", "Description": "", "Enabled": true,
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"], "KeyId": KEY, "KeyManager": "CUSTOMER",
        "KeySpec": "SYMMETRIC_DEFAULT", "KeyState": "Enabled", "KeyUsage": "ENCRYPT_DECRYPT", "MultiRegion": false,
        "Origin": "AWS_CLOUDHSM",
    });
    let connected = KeyStoreEntry {
        id: STORE.parse().unwrap(),
        name: "payments".into(),
        cluster: CLUSTER.parse().unwrap(),
        trust_anchor: Some("-----BEGIN".into()),
        connection_state: "CONNECTED",
        // Of an earlier attempt: told with FAILED only.
        connection_error_code: Some("INVALID_CREDENTIALS".into()),
        creation_date: TIME,
    };
    let failed = KeyStoreEntry { trust_anchor: None, connection_state: "FAILED", ..connected.clone() };
    let unused = KeyLastUsage { key_arn: arn(), last: None, tracking_start: TIME, key_creation: 1000 };
    let used = KeyLastUsage {
        last: Some(LastUse { operation: "Decrypt".into(), at: TIME, event_id: "e".into(), request_id: "r".into() }),
        ..unused.clone()
    };
    let rotated = RotationDone {
        aliases: vec!["alias/a".parse().unwrap(), "alias/b".parse().unwrap()],
        old_key_arn: "old".into(),
        new_key_arn: arn(),
        at: TIME,
    };
    let user = GrantPrincipal::Aws { arn: "arn:aws:iam::111122223333:user/a".into(), id: Some("AIDA1".into()) };
    let service = GrantPrincipal::Service { name: "backup.internal.example".parse().unwrap() };
    let grant = GrantRecord {
        id: "ab".repeat(32).parse().unwrap(),
        key: KEY.parse().unwrap(),
        issuing_account: "111122223333".parse().unwrap(),
        grantee: user,
        retiring: None,
        operations: vec![GrantOperation::Decrypt, GrantOperation::CreateGrant],
        constraints: GrantConstraints {
            subset: Some([("a\"".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())].into()),
            ..GrantConstraints::default()
        },
        name: Some("n".into()),
        created: TIME,
    };
    let for_service = GrantRecord {
        grantee: service.clone(),
        retiring: Some(service),
        operations: vec![GrantOperation::Encrypt],
        constraints: GrantConstraints { equals: Some([].into()), subset: None, source_arn: Some("s".into()) },
        name: None,
        ..grant.clone()
    };
    let name = || "backup.internal.example".to_owned();
    let constrained = GrantEntry { key_arn: arn(), grantee: "AIDA1".into(), retiring: None, grant: Arc::new(grant) };
    let to_service =
        GrantEntry { key_arn: arn(), grantee: name(), retiring: Some(name()), grant: Arc::new(for_service) };
    vec![
        (Response::DescribeKey(Box::new(in_store)), json!({ "KeyMetadata": in_store_json })),
        (Response::CreateCustomKeyStore { id: STORE.parse().unwrap() }, json!({ "CustomKeyStoreId": STORE })),
        (
            Response::DescribeCustomKeyStores { stores: vec![connected, failed], next_marker: Some("m".into()) },
            json!({"CustomKeyStores": [
                {"CloudHsmClusterId": CLUSTER, "ConnectionState": "CONNECTED", "CreationDate": 1_772_616_682.55,
                    "CustomKeyStoreId": STORE, "CustomKeyStoreName": "payments", "CustomKeyStoreType": "AWS_CLOUDHSM",
                    "TrustAnchorCertificate": "-----BEGIN"},
                {"CloudHsmClusterId": CLUSTER, "ConnectionErrorCode": "INVALID_CREDENTIALS", "ConnectionState": "FAILED",
                    "CreationDate": 1_772_616_682.55, "CustomKeyStoreId": STORE, "CustomKeyStoreName": "payments",
                    "CustomKeyStoreType": "AWS_CLOUDHSM"},
            ], "NextMarker": "m", "Truncated": true}),
        ),
        (
            Response::DescribeCustomKeyStores { stores: vec![], next_marker: None },
            json!({"CustomKeyStores": [], "Truncated": false}),
        ),
        (
            Response::GetKeyLastUsage(Box::new(unused)),
            json!({"KeyCreationDate": 1, "KeyId": ARN, "KeyLastUsage": {}, "TrackingStartDate": 1_772_616_682.55}),
        ),
        (
            Response::GetKeyLastUsage(Box::new(used)),
            json!({"KeyCreationDate": 1, "KeyId": ARN, "KeyLastUsage": {"CloudTrailEventId": "e", "KmsRequestId": "r",
                "Operation": "Decrypt", "Timestamp": 1_772_616_682.55}, "TrackingStartDate": 1_772_616_682.55}),
        ),
        (
            Response::RotateAlias(Box::new(rotated)),
            json!({"AliasNames": ["alias/a", "alias/b"], "NewKeyId": ARN, "OldKeyId": "old",
                "RotationDate": 1_772_616_682.55}),
        ),
        // Keys in custom key stores have no KeyMaterialId.
        (
            Response::Decrypt { key_arn: arn(), plaintext: secret(), key_material_id: None },
            json!({"EncryptionAlgorithm": "SYMMETRIC_DEFAULT", "KeyId": ARN, "Plaintext": BASE64}),
        ),
        (
            Response::ReEncrypt {
                source_key_arn: "source".into(),
                key_arn: arn(),
                ciphertext: CANARY.to_vec(),
                source_key_material_id: None,
                destination_key_material_id: Some("d".into()),
            },
            json!({"CiphertextBlob": BASE64, "DestinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
                "DestinationKeyMaterialId": "d", "KeyId": ARN, "SourceEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
                "SourceKeyId": "source"}),
        ),
        (
            Response::GenerateDataKey {
                key_arn: arn(),
                ciphertext: vec![1],
                plaintext: Some(secret()),
                key_material_id: None,
            },
            json!({"CiphertextBlob": "AQ==", "KeyId": ARN, "Plaintext": BASE64}),
        ),
        (Response::CreateKey(Box::new(metadata())), json!({ "KeyMetadata": symmetric })),
        (Response::DescribeKey(Box::new(metadata())), json!({ "KeyMetadata": symmetric })),
        (Response::DescribeKey(Box::new(deleted)), json!({ "KeyMetadata": deleted_json })),
        (
            Response::ListKeys { keys: vec![(KEY.parse().unwrap(), arn())], next_marker: Some("m".into()) },
            json!({"Keys": [{"KeyArn": ARN, "KeyId": KEY}], "NextMarker": "m", "Truncated": true}),
        ),
        (Response::ListKeys { keys: vec![], next_marker: None }, json!({"Keys": [], "Truncated": false})),
        (
            Response::ScheduleKeyDeletion { key_arn: arn(), deletion_date: TIME, pending_window_in_days: 7 },
            json!({"DeletionDate": 1_772_616_682.55, "KeyId": ARN, "KeyState": "PendingDeletion", "PendingWindowInDays": 7}),
        ),
        (Response::CancelKeyDeletion { key_arn: arn() }, json!({ "KeyId": ARN })),
        (
            Response::ListResourceTags {
                tags: vec![Tag { key: "a".into(), value: "1".into() }, Tag { key: "b".into(), value: String::new() }],
                next_marker: None,
            },
            json!({"Tags": [{"TagKey": "a", "TagValue": "1"}, {"TagKey": "b", "TagValue": ""}], "Truncated": false}),
        ),
        (
            Response::ListAliases {
                aliases: vec![AliasEntry {
                    name: "alias/a".parse().unwrap(),
                    arn: "arn:aws:kms:eu-central-1:111122223333:alias/a".into(),
                    target: KEY.parse().unwrap(),
                    creation_date: 1000,
                    last_updated_date: 1001,
                }],
                next_marker: None,
            },
            json!({"Aliases": [{"AliasArn": "arn:aws:kms:eu-central-1:111122223333:alias/a", "AliasName": "alias/a",
                "CreationDate": 1, "LastUpdatedDate": 1.001, "TargetKeyId": KEY}], "Truncated": false}),
        ),
        (
            Response::Encrypt { key_arn: arn(), ciphertext: CANARY.to_vec() },
            json!({"CiphertextBlob": BASE64, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT", "KeyId": ARN}),
        ),
        (
            Response::Decrypt { key_arn: arn(), plaintext: secret(), key_material_id: Some(material.clone()) },
            json!({"EncryptionAlgorithm": "SYMMETRIC_DEFAULT", "KeyId": ARN, "KeyMaterialId": MATERIAL, "Plaintext": BASE64}),
        ),
        (
            Response::ReEncrypt {
                source_key_arn: "source".into(),
                key_arn: arn(),
                ciphertext: CANARY.to_vec(),
                source_key_material_id: Some("s".into()),
                destination_key_material_id: Some("d".into()),
            },
            json!({"CiphertextBlob": BASE64, "DestinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
                "DestinationKeyMaterialId": "d", "KeyId": ARN, "SourceEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
                "SourceKeyId": "source", "SourceKeyMaterialId": "s"}),
        ),
        (
            Response::GenerateDataKey {
                key_arn: arn(),
                ciphertext: vec![1],
                plaintext: Some(secret()),
                key_material_id: Some(material.clone()),
            },
            json!({"CiphertextBlob": "AQ==", "KeyId": ARN, "KeyMaterialId": MATERIAL, "Plaintext": BASE64}),
        ),
        (
            Response::GenerateDataKey {
                key_arn: arn(),
                ciphertext: vec![1, 2],
                plaintext: None,
                key_material_id: Some(material),
            },
            json!({"CiphertextBlob": "AQI=", "KeyId": ARN, "KeyMaterialId": MATERIAL}),
        ),
        (Response::GenerateRandom { plaintext: secret() }, json!({ "Plaintext": BASE64 })),
        (
            Response::Sign { key_arn: arn(), signature: CANARY.to_vec(), algorithm: SigningAlgorithm::EcdsaSha256 },
            json!({"KeyId": ARN, "Signature": BASE64, "SigningAlgorithm": "ECDSA_SHA_256"}),
        ),
        (
            Response::Verify { key_arn: arn(), algorithm: SigningAlgorithm::EcdsaSha256 },
            json!({"KeyId": ARN, "SignatureValid": true, "SigningAlgorithm": "ECDSA_SHA_256"}),
        ),
        (
            Response::GetPublicKey {
                key_arn: arn(),
                spki: CANARY.into(),
                spec: KeySpec::EccNistP256,
                usage: KeyUsage::SignVerify,
                signing_algorithms: vec![SigningAlgorithm::EcdsaSha256],
            },
            json!({"CustomerMasterKeySpec": "ECC_NIST_P256", "KeyId": ARN, "KeySpec": "ECC_NIST_P256",
                "KeyUsage": "SIGN_VERIFY", "PublicKey": BASE64, "SigningAlgorithms": ["ECDSA_SHA_256"]}),
        ),
        (
            Response::GenerateMac { key_arn: arn(), mac: secret(), algorithm: MacAlgorithm::HmacSha256 },
            json!({"KeyId": ARN, "Mac": BASE64, "MacAlgorithm": "HMAC_SHA_256"}),
        ),
        (
            Response::VerifyMac { key_arn: arn(), algorithm: MacAlgorithm::HmacSha256 },
            json!({"KeyId": ARN, "MacAlgorithm": "HMAC_SHA_256", "MacValid": true}),
        ),
        (
            Response::GetKeyPolicy { policy: r#"{"Version":"2012-10-17"}"#.into() },
            json!({"Policy": r#"{"Version":"2012-10-17"}"#, "PolicyName": "default"}),
        ),
        (Response::ListKeyPolicies, json!({"PolicyNames": ["default"], "Truncated": false})),
        (Response::GetKeyRotationStatus { key_arn: arn() }, json!({"KeyId": ARN, "KeyRotationEnabled": false})),
        (Response::ListGrants { grants: Vec::new(), next_marker: None }, json!({"Grants": [], "Truncated": false})),
        (
            Response::CreateGrant { grant: "ab".repeat(32).parse().unwrap(), token: "t".into() },
            json!({"GrantId": "ab".repeat(32), "GrantToken": "t"}),
        ),
        (
            Response::ListGrants { grants: vec![constrained, to_service], next_marker: Some("m".into()) },
            json!({"Grants": [
                {"Constraints": {"EncryptionContextSubset": {"a\"": "1", "b": ""}}, "CreationDate": 1_772_616_682.55,
                    "GrantId": "ab".repeat(32), "GranteePrincipal": "AIDA1", "IssuingAccount": "arn:aws:iam::111122223333:root",
                    "KeyId": ARN, "Name": "n", "Operations": ["Decrypt", "CreateGrant"]},
                {"Constraints": {"EncryptionContextEquals": {}, "SourceArn": "s"}, "CreationDate": 1_772_616_682.55,
                    "GrantId": "ab".repeat(32), "GranteeServicePrincipal": "backup.internal.example",
                    "IssuingAccount": "arn:aws:iam::111122223333:root", "KeyId": ARN, "Operations": ["Encrypt"],
                    "RetiringServicePrincipal": "backup.internal.example"},
            ], "NextMarker": "m", "Truncated": true}),
        ),
    ]
}
