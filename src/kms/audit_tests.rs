use base64::Engine;

use super::*;
use crate::kms::parse;
use crate::kms::samples::{ARN, BODIES, CANARY, CLUSTER, KEY, MATERIAL, STORE, TIME, metadata, responses};
use crate::ops::Operation as O;

fn parameters(operation: O) -> serde_json::Value {
    let (_, body) = BODIES.iter().find(|(o, _)| *o == operation).unwrap();
    let request = parse(operation, body.as_bytes()).unwrap();
    audit_parameters(&request).map_or(serde_json::Value::Null, |raw| serde_json::from_str(raw.get()).unwrap())
}

/// audit.md §1.3, column requestParameters.
#[test]
fn each_operation_shows_its_parameters() {
    use serde_json::json;
    let k = || json!({"keyId": "k"});
    let rows = [
        (
            O::CreateKey,
            json!({"description": "payments", "keySpec": "RSA_2048", "customerMasterKeySpec": "RSA_2048",
                "keyUsage": "SIGN_VERIFY", "origin": "AWS_KMS", "multiRegion": false,
                "bypassPolicyLockoutSafetyCheck": true,
                "tags": [{"tagKey": "custodian", "tagValue": "team-crypto"}],
                "policy": "{\"Version\":\"2012-10-17\"}"}),
        ),
        (O::DescribeKey, json!({"keyId": "alias/payments"})),
        (O::ListKeys, json!({"limit": 10, "marker": "m"})),
        (O::EnableKey, k()),
        (O::DisableKey, k()),
        (O::ScheduleKeyDeletion, json!({"keyId": "k", "pendingWindowInDays": 7})),
        (O::CancelKeyDeletion, k()),
        (O::UpdateKeyDescription, json!({"keyId": "k", "description": "new"})),
        (O::TagResource, json!({"keyId": "k", "tags": [{"tagKey": "a", "tagValue": ""}]})),
        (O::UntagResource, json!({"keyId": "k", "tagKeys": ["a", "b"]})),
        (O::ListResourceTags, json!({"keyId": "k", "limit": 50})),
        (O::CreateAlias, json!({"aliasName": "alias/payments", "targetKeyId": "k"})),
        (O::UpdateAlias, json!({"aliasName": "alias/payments", "targetKeyId": "k"})),
        (O::DeleteAlias, json!({"aliasName": "alias/payments"})),
        (O::ListAliases, json!({"keyId": "k", "limit": 100})),
        (
            O::Encrypt,
            json!({"keyId": "k", "encryptionAlgorithm": "SYMMETRIC_DEFAULT",
                "encryptionContext": {"tenant": "acme", "purpose": "vault"}}),
        ),
        (
            O::Decrypt,
            json!({"keyId": "k", "encryptionAlgorithm": "SYMMETRIC_DEFAULT", "encryptionContext": {"tenant": "acme"}}),
        ),
        (
            O::ReEncrypt,
            json!({"sourceEncryptionAlgorithm": "SYMMETRIC_DEFAULT", "sourceEncryptionContext": {"a": "1"},
                "sourceKeyId": "s", "destinationKeyId": "d", "destinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
                "destinationEncryptionContext": {"b": "2"}}),
        ),
        (O::GenerateDataKey, json!({"keyId": "k", "keySpec": "AES_256", "encryptionContext": {"tenant": "acme"}})),
        (O::GenerateDataKeyWithoutPlaintext, json!({"keyId": "k", "numberOfBytes": 64})),
        (O::GenerateRandom, json!(null)),
        (O::Sign, json!({"keyId": "k", "messageType": "DIGEST", "signingAlgorithm": "ECDSA_SHA_256"})),
        (O::Verify, json!({"keyId": "k", "messageType": "RAW", "signingAlgorithm": "RSASSA_PSS_SHA_256"})),
        (O::GetPublicKey, k()),
        (O::GenerateMac, json!({"keyId": "k", "macAlgorithm": "HMAC_SHA_256"})),
        (O::VerifyMac, json!({"keyId": "k", "macAlgorithm": "HMAC_SHA_256"})),
        (O::GetKeyPolicy, json!({"keyId": "k", "policyName": "default"})),
        (
            O::PutKeyPolicy,
            json!({"keyId": "k", "policyName": "default", "policy": "{}", "bypassPolicyLockoutSafetyCheck": false}),
        ),
        (O::ListKeyPolicies, k()),
        (O::GetKeyRotationStatus, k()),
        (O::ListGrants, json!({"keyId": "k", "grantId": "g", "granteePrincipal": "arn:aws:iam::111122223333:root"})),
        (
            O::CreateGrant,
            json!({"keyId": "k", "granteePrincipal": "arn:aws:iam::111122223333:user/a",
                "retiringPrincipal": "arn:aws:iam::111122223333:root", "operations": ["Decrypt", "RetireGrant"],
                "constraints": {"encryptionContextSubset": {"tenant": "acme"}}, "name": "nightly"}),
        ),
        (
            O::ListRetirableGrants,
            json!({"retiringPrincipal": "arn:aws:iam::111122223333:root", "limit": 100, "marker": "m"}),
        ),
        // A token says nothing to a reader.
        (O::RetireGrant, json!(null)),
        (O::RevokeGrant, json!({"keyId": "k", "grantId": "g"})),
        (O::GetKeyLastUsage, k()),
        (O::CreateCustomKeyStore, json!({"customKeyStoreName": "payments", "clusterId": CLUSTER})),
        (
            O::UpdateCustomKeyStore,
            json!({"customKeyStoreId": STORE, "newCustomKeyStoreName": "new", "clusterId": CLUSTER}),
        ),
        (O::DescribeCustomKeyStores, json!({"customKeyStoreName": "payments", "limit": 10, "marker": "m"})),
        (O::ConnectCustomKeyStore, json!({"customKeyStoreId": STORE})),
        (O::DisconnectCustomKeyStore, json!({"customKeyStoreId": STORE})),
        (O::DeleteCustomKeyStore, json!({"customKeyStoreId": STORE})),
        (
            O::RotateAlias,
            json!({"aliasName": "alias/payments", "keySpec": "RSA_3072", "reason": "yearly", "grants": "CARRY",
                "clientToken": "t-1"}),
        ),
    ];
    assert_eq!(rows.len(), BODIES.len());
    for (operation, expected) in rows {
        assert_eq!(parameters(operation), expected, "{operation:?}");
    }
    let in_store = br#"{"Origin":"AWS_CLOUDHSM","CustomKeyStoreId":"cks-1234567890abcdef0"}"#;
    let shown = audit_parameters(&parse(O::CreateKey, in_store).unwrap()).unwrap();
    let shown: serde_json::Value = serde_json::from_str(shown.get()).unwrap();
    assert_eq!((&shown["origin"], &shown["customKeyStoreId"]), (&json!("AWS_CLOUDHSM"), &json!(STORE)));
    assert_eq!(
        audit_parameters(&parse(O::EnableKeyRotation, br#"{"KeyId":"k"}"#).unwrap()).unwrap().get(),
        r#"{"keyId":"k"}"#
    );
    for operation in [O::ListKeys, O::ListAliases, O::DescribeCustomKeyStores] {
        assert!(audit_parameters(&parse(operation, b"{}").unwrap()).is_none());
    }
    let bare = parse(O::Decrypt, br#"{"CiphertextBlob":"AQ=="}"#).unwrap();
    assert_eq!(audit_parameters(&bare).unwrap().get(), r#"{"encryptionAlgorithm":"SYMMETRIC_DEFAULT"}"#);
}

#[test]
fn changes_show_their_result() {
    use serde_json::json;
    let body = |operation: O| BODIES.iter().find(|(o, _)| *o == operation).unwrap().1.as_bytes();
    let shown = |operation: O, response: &Response| {
        let request = parse(operation, body(operation)).unwrap();
        audit_response(&request, response, Some(ARN))
            .map_or(serde_json::Value::Null, |raw| serde_json::from_str(raw.get()).unwrap())
    };
    for operation in [
        O::EnableKey,
        O::DisableKey,
        O::UpdateKeyDescription,
        O::TagResource,
        O::UntagResource,
        O::CreateAlias,
        O::UpdateAlias,
        O::PutKeyPolicy,
    ] {
        assert_eq!(shown(operation, &Response::Empty), json!({"keyId": ARN}), "{operation:?}");
    }
    for operation in [
        O::DeleteAlias,
        O::UpdateCustomKeyStore,
        O::ConnectCustomKeyStore,
        O::DisconnectCustomKeyStore,
        O::DeleteCustomKeyStore,
        O::RetireGrant,
        O::RevokeGrant,
    ] {
        assert_eq!(shown(operation, &Response::Empty), json!(null), "{operation:?}");
    }
    assert_eq!(
        shown(O::CreateCustomKeyStore, &Response::CreateCustomKeyStore { id: STORE.parse().unwrap() }),
        json!({"customKeyStoreId": STORE})
    );
    let id = "ab".repeat(32);
    let granted = Response::CreateGrant { grant: id.parse().unwrap(), token: "t".into() };
    assert_eq!(shown(O::CreateGrant, &granted), json!({"grantId": id, "keyId": ARN}));
    let done = crate::ops::RotationDone {
        aliases: vec!["alias/a".parse().unwrap()],
        old_key_arn: "old".into(),
        new_key_arn: ARN.into(),
        at: TIME,
    };
    assert_eq!(
        shown(O::RotateAlias, &Response::RotateAlias(Box::new(done))),
        json!({"aliasNames": ["alias/a"], "oldKeyId": "old", "newKeyId": ARN,
            "rotationDate": "Mar 4, 2026, 9:31:22 AM"})
    );
    let in_store = KeyMetadata {
        custom_store: Some((STORE.parse().unwrap(), CLUSTER.parse().unwrap())),
        current_key_material_id: None,
        ..metadata()
    };
    let created = shown(O::CreateKey, &Response::CreateKey(Box::new(in_store)));
    assert_eq!(
        [&created["keyMetadata"]["origin"], &created["keyMetadata"]["customKeyStoreId"]],
        [&json!("AWS_CLOUDHSM"), &json!(STORE)]
    );
    assert_eq!(created["keyMetadata"]["cloudHsmClusterId"], json!(CLUSTER));
    assert_eq!(
        shown(O::CancelKeyDeletion, &Response::CancelKeyDeletion { key_arn: ARN.into() }),
        json!({"keyId": ARN})
    );
    assert_eq!(
        shown(
            O::ScheduleKeyDeletion,
            &Response::ScheduleKeyDeletion { key_arn: ARN.into(), deletion_date: TIME, pending_window_in_days: 7 }
        ),
        json!({"keyId": ARN, "keyState": "PendingDeletion", "deletionDate": "Mar 4, 2026, 9:31:22 AM",
            "pendingWindowInDays": 7})
    );
    assert_eq!(
        shown(O::CreateKey, &Response::CreateKey(Box::new(metadata()))),
        json!({"keyMetadata": {"aWSAccountId": "111122223333", "keyId": KEY, "arn": ARN,
            "creationDate": "Mar 4, 2026, 9:31:22 AM", "enabled": true, "description": "",
            "keyUsage": "ENCRYPT_DECRYPT", "keyState": "Enabled", "origin": "AWS_KMS", "keyManager": "CUSTOMER",
            "customerMasterKeySpec": "SYMMETRIC_DEFAULT", "keySpec": "SYMMETRIC_DEFAULT",
            "encryptionAlgorithms": ["SYMMETRIC_DEFAULT"], "multiRegion": false, "currentKeyMaterialId": MATERIAL}})
    );
}

#[test]
fn java_dates() {
    for (milliseconds, text) in [
        (TIME, "Mar 4, 2026, 9:31:22 AM"),
        (0, "Jan 1, 1970, 12:00:00 AM"),
        (12 * 3_600_000 + 59_999, "Jan 1, 1970, 12:00:59 PM"),
        (23 * 3_600_000, "Jan 1, 1970, 11:00:00 PM"),
        (i64::MAX, "9223372036854775807"),
    ] {
        assert_eq!(JavaDate(milliseconds).to_string(), text);
    }
}

/// Each secret member of each request and response holds the canary; none may come through, in no usual spelling.
#[test]
fn no_secret_reaches_a_record() {
    let spellings = [
        String::from_utf8(CANARY.to_vec()).unwrap(),
        hex::encode(CANARY),
        base64::engine::general_purpose::STANDARD.encode(CANARY),
        format!("{CANARY:?}").trim_matches(['[', ']']).replace(' ', ""),
    ];
    let check = |shown: Option<Box<RawValue>>| {
        let shown = shown.map(|raw| raw.get().to_owned()).unwrap_or_default();
        for spelling in &spellings {
            assert!(!shown.to_lowercase().contains(&spelling.to_lowercase()), "{shown}");
        }
    };
    let mut with_canary = 0;
    for (operation, body) in BODIES {
        let request = parse(*operation, body.as_bytes()).unwrap();
        with_canary += usize::from(body.contains(&spellings[2]) || body.contains(&spellings[0]));
        check(audit_parameters(&request));
        for (response, _) in responses() {
            check(audit_response(&request, &response, Some(ARN)));
        }
    }
    assert_eq!(
        with_canary, 11,
        "Encrypt, Decrypt, ReEncrypt, Sign, Verify, GenerateMac, VerifyMac, CreateCustomKeyStore, UpdateCustomKeyStore, \
         CreateGrant, RetireGrant"
    );
}
