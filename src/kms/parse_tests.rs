use super::*;
use crate::ids::spec::{KeySpec, KeyUsage};
use crate::kms::samples::{BODIES, CANARY, CLUSTER, STORE};
use Operation as O;

fn refused(operation: Operation, body: &str) -> (&'static str, String) {
    let error = parse(operation, body.as_bytes()).unwrap_err();
    assert_eq!(error.status, 400);
    (error.code, error.message.unwrap())
}

fn key(text: &str) -> KeyIdText {
    KeyIdText(text.into())
}

#[test]
fn targets() {
    assert_eq!(target(Some(b"TrentService.Encrypt")), Ok(Operation::Encrypt));
    assert_eq!(target(Some(b"HsmBridge.RotateAlias")), Ok(Operation::RotateAlias));
    // Ours is not AWS's, and the other way round.
    for wrong in [
        Some(&b"TrentService.RotateAlias"[..]),
        Some(b"HsmBridge.Encrypt"),
        None,
        Some(b"Encrypt"),
        Some(b"TrentService.encrypt"),
        Some(b"TrentService."),
        Some(b"\xff"),
    ] {
        let error = target(wrong).unwrap_err();
        assert_eq!((error.status, error.code, error.message), (400, "UnknownOperationException", None));
    }
}

#[test]
fn each_served_operation_parses() {
    let mut served: Vec<_> = BODIES.iter().map(|(operation, _)| *operation).collect();
    for (operation, body) in BODIES {
        assert_eq!(parse(*operation, body.as_bytes()).unwrap().operation(), *operation);
    }
    served.sort();
    let all: Vec<_> = O::ALL.iter().copied().filter(|o| o.service() == Service::Served).collect();
    assert_eq!(served, all);
}

#[test]
fn each_other_operation_is_unsupported_after_its_syntax() {
    for operation in O::ALL.iter().filter(|o| matches!(o.service(), Service::Refused(_))) {
        match parse(*operation, br#"{"KeyId": 3}"#).unwrap() {
            Request::Unsupported { operation: named, reason } => {
                assert_eq!((named, Service::Refused(reason)), (*operation, operation.service()));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(parse(*operation, b"{").unwrap_err().code, "SerializationException");
    }
}

#[test]
fn members_arrive() {
    let of = |operation: O| {
        let (_, body) = BODIES.iter().find(|(o, _)| *o == operation).unwrap();
        parse(operation, body.as_bytes()).unwrap()
    };
    match of(O::Encrypt) {
        Request::Encrypt { key: k, plaintext, context, algorithm, dry_run, .. } => {
            assert_eq!((k, plaintext.expose()), (key("k"), CANARY));
            assert_eq!(context, [("tenant".into(), "acme".into()), ("purpose".into(), "vault".into())]);
            assert_eq!((algorithm, dry_run), (EncryptionAlgorithm::SymmetricDefault, false));
        }
        other => panic!("{other:?}"),
    }
    match of(O::ReEncrypt) {
        Request::ReEncrypt(r) => {
            assert_eq!((r.ciphertext.as_slice(), r.source_key, r.destination_key), (CANARY, Some(key("s")), key("d")));
            assert_eq!(r.source_context, [("a".into(), "1".into())]);
            assert_eq!(r.destination_context, [("b".into(), "2".into())]);
        }
        other => panic!("{other:?}"),
    }
    match of(O::CreateKey) {
        Request::CreateKey(r) => {
            assert_eq!((r.spec, r.usage), (KeySpec::Rsa2048, KeyUsage::SignVerify));
            assert_eq!(
                (r.description.as_str(), r.policy.as_deref()),
                ("payments", Some(r#"{"Version":"2012-10-17"}"#))
            );
            assert_eq!(r.tags, [Tag { key: "custodian".into(), value: "team-crypto".into() }]);
            assert_eq!(r.bypass_policy_lockout_safety_check, Some(true));
        }
        other => panic!("{other:?}"),
    }
    match of(O::VerifyMac) {
        Request::VerifyMac { message, mac, algorithm, .. } => {
            assert_eq!((message.expose(), mac.expose()), (CANARY, CANARY));
            assert_eq!(algorithm, MacAlgorithm::HmacSha256);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(of(O::Sign), Request::Sign { message_type: MessageType::Digest, .. }));
    assert!(matches!(of(O::Verify), Request::Verify { message_type: MessageType::Raw, .. }));
    assert!(matches!(of(O::GenerateMac), Request::GenerateMac { dry_run: true, .. }));
    assert!(matches!(of(O::ListKeys), Request::ListKeys { page: Page { limit: Some(10), marker: Some(_) } }));
    assert!(matches!(
        of(O::GenerateDataKey),
        Request::GenerateDataKey { size: DataKeySize::Spec(DataKeySpec::Aes256), with_plaintext: true, .. }
    ));
    assert!(matches!(
        of(O::GenerateDataKeyWithoutPlaintext),
        Request::GenerateDataKey { size: DataKeySize::Bytes(64), with_plaintext: false, .. }
    ));
}

#[test]
fn defaults() {
    match parse(O::CreateKey, b"").unwrap() {
        Request::CreateKey(r) => {
            assert_eq!((r.spec, r.usage), (KeySpec::SymmetricDefault, KeyUsage::EncryptDecrypt));
            assert!(r.description.is_empty() && r.policy.is_none() && r.tags.is_empty());
            assert_eq!(r.bypass_policy_lockout_safety_check, None);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        parse(O::ScheduleKeyDeletion, br#"{"KeyId":"k"}"#),
        Ok(Request::ScheduleKeyDeletion { pending_window_in_days: 30, .. })
    ));
    let decrypt = br#"{"CiphertextBlob":"AQ==","EncryptionContext":{},"KeyId":null}"#;
    match parse(O::Decrypt, decrypt).unwrap() {
        Request::Decrypt { key: None, context, .. } => assert!(context.is_empty()),
        other => panic!("{other:?}"),
    }
}

/// kms-api.md §1, ValidationException texts, and the model's constraints behind them.
#[test]
fn constraint_texts() {
    let long = "k".repeat(129);
    let tag = |key: &str, value: &str| {
        format!(r#"{{"KeyId":"k","Tags":[{{"TagKey":"ok","TagValue":""}},{{"TagKey":"{key}","TagValue":"{value}"}}]}}"#)
    };
    let blob = |bytes: usize| format!(r#"{{"KeyId":"k","Plaintext":"{}"}}"#, "A".repeat(bytes.div_ceil(3) * 4));
    let one = |rest: &str| format!("1 validation error detected: {rest}");
    for (operation, body, told) in [
        (O::GenerateRandom, "{}".to_owned(), "NumberOfBytes is required.".to_owned()),
        (O::GenerateRandom, r#"{"NumberOfBytes":null}"#.into(), "NumberOfBytes is required.".into()),
        (
            O::GenerateRandom,
            r#"{"NumberOfBytes":0}"#.into(),
            one("Value '0' at 'numberOfBytes' failed to satisfy constraint: Member must have value greater than or equal to 1"),
        ),
        (
            O::GenerateRandom,
            r#"{"NumberOfBytes":1025}"#.into(),
            one("Value '1025' at 'numberOfBytes' failed to satisfy constraint: Member must have value less than or equal to 1024"),
        ),
        (
            O::Encrypt,
            r#"{"KeyId":"k","Plaintext":""}"#.into(),
            one("Value at 'plaintext' failed to satisfy constraint: Member must have length greater than or equal to 1"),
        ),
        (
            O::Encrypt,
            blob(4098),
            one("Value at 'plaintext' failed to satisfy constraint: Member must have length less than or equal to 4096"),
        ),
        (
            O::Encrypt,
            r#"{"Plaintext":"AQ=="}"#.into(),
            one("Value null at 'keyId' failed to satisfy constraint: Member must not be null"),
        ),
        (
            O::Decrypt,
            "{}".into(),
            one("Value null at 'ciphertextBlob' failed to satisfy constraint: Member must not be null"),
        ),
        (
            O::GenerateMac,
            r#"{"KeyId":"k","Message":"AQ==","MacAlgorithm":"INVALID"}"#.into(),
            one("Value 'INVALID' at 'macAlgorithm' failed to satisfy constraint: Member must satisfy enum value set: [HMAC_SHA_224, HMAC_SHA_256, HMAC_SHA_384, HMAC_SHA_512]"),
        ),
        (
            O::TagResource,
            tag(&long, "v"),
            one(&format!("Value '{long}' at 'tags.2.member.tagKey' failed to satisfy constraint: Member must have length less than or equal to 128")),
        ),
        (
            O::TagResource,
            tag("k", &"v".repeat(257)),
            one(&format!("Value '{}' at 'tags.2.member.tagValue' failed to satisfy constraint: Member must have length less than or equal to 256", "v".repeat(257))),
        ),
        (
            O::TagResource,
            r#"{"KeyId":"k","Tags":[{"TagKey":"a"}]}"#.into(),
            one("Value null at 'tags.1.member.tagValue' failed to satisfy constraint: Member must not be null"),
        ),
        (
            O::UntagResource,
            r#"{"KeyId":"k","TagKeys":["a",null]}"#.into(),
            one("Value null at 'tagKeys.2.member' failed to satisfy constraint: Member must not be null"),
        ),
        (
            O::CreateAlias,
            r#"{"AliasName":"alias/a b","TargetKeyId":"k"}"#.into(),
            one("Value 'alias/a b' at 'aliasName' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$"),
        ),
        (
            O::CreateAlias,
            r#"{"AliasName":"alias/a b"}"#.into(),
            "2 validation errors detected: Value 'alias/a b' at 'aliasName' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$; Value null at 'targetKeyId' failed to satisfy constraint: Member must not be null".into(),
        ),
        (
            O::CreateAlias,
            r#"{"AliasName":"x","TargetKeyId":"k"}"#.into(),
            "Alias must start with the prefix \"alias/\". Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html".into(),
        ),
        (
            O::ListResourceTags,
            r#"{"KeyId":"k","Limit":51}"#.into(),
            one("Value '51' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 50"),
        ),
        (
            O::ListKeys,
            r#"{"Limit":1001}"#.into(),
            one("Value '1001' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 1000"),
        ),
        (
            O::DescribeKey,
            format!(r#"{{"KeyId":"k","GrantTokens":[{}"t"]}}"#, r#""t","#.repeat(10)),
            one("Value at 'grantTokens' failed to satisfy constraint: Member must have length less than or equal to 10"),
        ),
        (O::ScheduleKeyDeletion, r#"{"KeyId":"k","PendingWindowInDays":6}"#.into(), "PendingWindowInDays must be between 7 and 30".into()),
        (O::ScheduleKeyDeletion, r#"{"KeyId":"k","PendingWindowInDays":31}"#.into(), "PendingWindowInDays must be between 7 and 30".into()),
        (
            O::ScheduleKeyDeletion,
            r#"{"KeyId":"k","PendingWindowInDays":366}"#.into(),
            one("Value '366' at 'pendingWindowInDays' failed to satisfy constraint: Member must have value less than or equal to 365"),
        ),
        (O::GenerateDataKey, r#"{"KeyId":"k"}"#.into(), "Please specify either number of bytes or key spec.".into()),
        (
            O::GenerateDataKey,
            r#"{"KeyId":"k","KeySpec":"AES_256","NumberOfBytes":32}"#.into(),
            "Please specify either number of bytes or key spec.".into(),
        ),
        (
            O::GenerateDataKey,
            r#"{"KeyId":"k","KeySpec":"AES_512"}"#.into(),
            one("Value 'AES_512' at 'keySpec' failed to satisfy constraint: Member must satisfy enum value set: [AES_256, AES_128]"),
        ),
        (
            O::CreateKey,
            r#"{"KeySpec":"RSA_2048"}"#.into(),
            "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.".into(),
        ),
        (
            O::CreateKey,
            r#"{"KeySpec":"RSA_2048","KeyUsage":"KEY_AGREEMENT"}"#.into(),
            "KeyUsage KEY_AGREEMENT is not compatible with KeySpec RSA_2048".into(),
        ),
        (
            O::CreateKey,
            r#"{"KeyUsage":"SIGN_VERIFY"}"#.into(),
            "KeyUsage SIGN_VERIFY is not compatible with KeySpec SYMMETRIC_DEFAULT".into(),
        ),
        (
            O::CreateKey,
            r#"{"KeySpec":"RSA_2048","CustomerMasterKeySpec":"RSA_2048","KeyUsage":"SIGN_VERIFY"}"#.into(),
            "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is deprecated.".into(),
        ),
    ] {
        assert_eq!(refused(operation, &body), ("ValidationException", told), "{operation:?} {body:.200}");
    }
}

#[test]
fn boundaries_are_inclusive() {
    let blob = |bytes: usize| {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(vec![0; bytes])
    };
    for (operation, body) in [
        (O::Encrypt, format!(r#"{{"KeyId":"k","Plaintext":"{}"}}"#, blob(4096))),
        (O::Decrypt, format!(r#"{{"CiphertextBlob":"{}"}}"#, blob(6144))),
        (O::GenerateRandom, r#"{"NumberOfBytes":1024}"#.into()),
        (O::ScheduleKeyDeletion, r#"{"KeyId":"k","PendingWindowInDays":7}"#.into()),
        (O::ScheduleKeyDeletion, r#"{"KeyId":"k","PendingWindowInDays":30}"#.into()),
        // Lengths are characters.
        (O::UpdateKeyDescription, format!(r#"{{"KeyId":"k","Description":"{}"}}"#, "é".repeat(8192))),
        (O::UpdateKeyDescription, r#"{"KeyId":"k","Description":""}"#.into()),
        (O::PutKeyPolicy, format!(r#"{{"KeyId":"k","Policy":"{}"}}"#, "p".repeat(32_768))),
    ] {
        parse(operation, body.as_bytes()).unwrap();
    }
    let (code, _) = refused(O::Encrypt, &format!(r#"{{"KeyId":"k","Plaintext":"{}"}}"#, blob(4097)));
    assert_eq!(code, "ValidationException");
}

#[test]
fn other_refusals() {
    let tags = |pairs: &str| format!(r#"{{"KeyId":"k","Tags":[{pairs}]}}"#);
    let many: Vec<_> = (0..51).map(|n| format!(r#"{{"TagKey":"t{n}","TagValue":""}}"#)).collect();
    let policy = format!(r#"{{"KeyId":"k","Policy":"{}"}}"#, "p".repeat(32_769));
    let unsupported = "UnsupportedOperationException";
    for (operation, body, code, told) in [
        (O::TagResource, tags(&many.join(",")), "TagException", "Too many tags"),
        (
            O::TagResource,
            tags(r#"{"TagKey":"a","TagValue":"1"},{"TagKey":"a","TagValue":"2"}"#),
            "TagException",
            "Duplicate tag keys",
        ),
        (
            O::TagResource,
            tags(r#"{"TagKey":"AwS:x","TagValue":"1"}"#),
            "TagException",
            "Tags beginning with aws: are reserved",
        ),
        (
            O::CreateKey,
            r#"{"Tags":[{"TagKey":"aws:x","TagValue":"1"}]}"#.into(),
            "TagException",
            "Tags beginning with aws: are reserved",
        ),
        (O::PutKeyPolicy, policy.clone(), "LimitExceededException", "The key policy is larger than 32768 bytes."),
        (O::CreateKey, policy, "LimitExceededException", "The key policy is larger than 32768 bytes."),
        (
            O::CreateAlias,
            r#"{"AliasName":"alias/","TargetKeyId":"k"}"#.into(),
            "InvalidAliasNameException",
            "The alias has no name after the prefix \"alias/\".",
        ),
        (O::GetKeyPolicy, r#"{"KeyId":"k","PolicyName":"other"}"#.into(), "NotFoundException", "No such policy exists"),
        (
            O::Decrypt,
            r#"{"CiphertextBlob":"AQ==","Recipient":{"AttestationDocument":"AQ=="}}"#.into(),
            unsupported,
            "Recipient (an attested enclave) is not served by this version",
        ),
        (
            O::Decrypt,
            r#"{"DryRun":true,"DryRunModifiers":["IGNORE_CIPHERTEXT"]}"#.into(),
            unsupported,
            "DryRunModifiers are not served by this version",
        ),
        (
            O::ListKeys,
            r#"{"ResourceOwners":["SELF","OTHER_ACCOUNTS_VIA_RAM"]}"#.into(),
            unsupported,
            "keys shared by other accounts are not served by this version",
        ),
        (
            O::Sign,
            r#"{"KeyId":"k","Message":"AQ==","SigningAlgorithm":"SM2DSA"}"#.into(),
            unsupported,
            "signing algorithm SM2DSA is not served by this version",
        ),
    ] {
        assert_eq!(refused(operation, &body), (code, told.to_owned()), "{operation:?} {body:.200}");
    }
}

#[test]
fn keys_that_this_version_does_not_make() {
    for (body, named) in [
        (r#"{"KeySpec":"SM2","KeyUsage":"SIGN_VERIFY"}"#, "KeySpec SM2"),
        (r#"{"KeySpec":"ML_KEM_768","KeyUsage":"ENCAPSULATE_DECAPSULATE"}"#, "KeySpec ML_KEM_768"),
        (r#"{"KeySpec":"RSA_2048","KeyUsage":"ENCRYPT_DECRYPT"}"#, "KeyUsage ENCRYPT_DECRYPT with KeySpec RSA_2048"),
        (
            r#"{"KeySpec":"ECC_NIST_P256","KeyUsage":"KEY_AGREEMENT"}"#,
            "KeyUsage KEY_AGREEMENT with KeySpec ECC_NIST_P256",
        ),
        (r#"{"Origin":"EXTERNAL"}"#, "Origin EXTERNAL"),
        (r#"{"Origin":"EXTERNAL","CustomKeyStoreId":"c"}"#, "Origin EXTERNAL"),
        (r#"{"Origin":"EXTERNAL_KEY_STORE","CustomKeyStoreId":"c"}"#, "Origin EXTERNAL_KEY_STORE"),
        (r#"{"Origin":"AWS_CLOUDHSM","CustomKeyStoreId":"c","XksKeyId":"x"}"#, "XksKeyId"),
        (
            r#"{"Origin":"AWS_CLOUDHSM","CustomKeyStoreId":"c","MultiRegion":true}"#,
            "MultiRegion: KMS keys in custom key stores",
        ),
        (r#"{"Origin":"EXTERNAL_KEY_STORE","XksKeyId":"x"}"#, "Origin EXTERNAL_KEY_STORE"),
        (r#"{"XksKeyId":"x"}"#, "XksKeyId"),
        (r#"{"MultiRegion":true}"#, "MultiRegion"),
    ] {
        let (code, told) = refused(O::CreateKey, body);
        assert_eq!(code, "UnsupportedOperationException");
        assert!(told.starts_with(named), "{told}");
    }
    for spec in KeySpec::ALL {
        let body = format!(r#"{{"CustomerMasterKeySpec":"{spec}","KeyUsage":"{}"}}"#, spec.default_usage());
        match parse(O::CreateKey, body.as_bytes()) {
            Ok(Request::CreateKey(r)) => assert_eq!((r.spec, r.usage), (*spec, spec.default_usage())),
            // The deprecated member never learned these specs.
            Err(e) => {
                use KeySpec::{EccNistEdwards25519, MlDsa44, MlDsa65, MlDsa87};
                assert!([EccNistEdwards25519, MlDsa44, MlDsa65, MlDsa87].contains(spec), "{spec}");
                assert_eq!(e.code, "ValidationException");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn keys_in_custom_key_stores() {
    match parse(O::CreateKey, br#"{"Origin":"AWS_CLOUDHSM","CustomKeyStoreId":"c","MultiRegion":false}"#).unwrap() {
        Request::CreateKey(r) => assert_eq!(r.key_store.as_deref(), Some("c")),
        other => panic!("{other:?}"),
    }
    for (body, told) in [
        (r#"{"Origin":"AWS_CLOUDHSM"}"#, "You must specify a CustomKeyStoreId when the Origin is AWS_CLOUDHSM."),
        (r#"{"CustomKeyStoreId":"c"}"#, "CustomKeyStoreId is not valid when the Origin is AWS_KMS"),
        (r#"{"Origin":"AWS_KMS","CustomKeyStoreId":"c"}"#, "CustomKeyStoreId is not valid when the Origin is AWS_KMS"),
    ] {
        let (code, text) = refused(O::CreateKey, body);
        assert_eq!(code, "ValidationException");
        assert!(text.starts_with(told), "{text}");
    }
    assert!(matches!(
        parse(O::GenerateRandom, br#"{"NumberOfBytes":1,"CustomKeyStoreId":"c"}"#),
        Ok(Request::GenerateRandom { key_store: Some(store), .. }) if store == "c"
    ));
}

#[test]
fn key_stores() {
    let of = |operation: O| {
        let (_, body) = BODIES.iter().find(|(o, _)| *o == operation).unwrap();
        parse(operation, body.as_bytes()).unwrap()
    };
    let canary = std::str::from_utf8(CANARY).unwrap();
    match of(O::CreateCustomKeyStore) {
        Request::CreateCustomKeyStore(r) => {
            assert_eq!((r.name.as_str(), r.cluster.unwrap().as_str()), ("payments", CLUSTER));
            assert_eq!((r.trust_anchor.as_deref(), r.password.unwrap().expose()), (Some("-----BEGIN"), canary));
        }
        other => panic!("{other:?}"),
    }
    match of(O::UpdateCustomKeyStore) {
        Request::UpdateCustomKeyStore(r) => {
            assert_eq!((r.id.as_str(), r.new_name.as_deref()), (STORE, Some("new")));
            assert_eq!((r.cluster.unwrap().as_str(), r.password.unwrap().expose()), (CLUSTER, canary));
        }
        other => panic!("{other:?}"),
    }
    for operation in [O::CreateCustomKeyStore, O::UpdateCustomKeyStore] {
        assert!(!format!("{:?}", of(operation)).contains(canary));
    }
    // What is missing is for the operation to tell.
    match parse(O::CreateCustomKeyStore, br#"{"CustomKeyStoreName":"n"}"#).unwrap() {
        Request::CreateCustomKeyStore(r) => {
            assert!(r.cluster.is_none() && r.trust_anchor.is_none() && r.password.is_none());
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        parse(O::DescribeCustomKeyStores, b"{}"),
        Ok(Request::DescribeCustomKeyStores { id: None, name: None, .. })
    ));
    let unwanted = refused(O::RotateAlias, r#"{"AliasName":"alias/a","DryRun":true}"#);
    assert_eq!(unwanted.0, "UnsupportedOperationException", "{}", unwanted.1);
    match of(O::RotateAlias) {
        Request::RotateAlias(r) => {
            assert_eq!((r.alias.as_str(), r.key_spec), ("alias/payments", Some(KeySpec::Rsa3072)));
            assert_eq!(r.grants, Some(crate::ops::RotateGrants::Carry));
            assert_eq!((r.reason.as_deref(), r.client_token.as_deref()), (Some("yearly"), Some("t-1")));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn key_stores_that_are_refused() {
    let external = "external key stores are not served by this version";
    for operation in [O::CreateCustomKeyStore, O::UpdateCustomKeyStore] {
        for member in [
            "XksProxyUriEndpoint",
            "XksProxyUriPath",
            "XksProxyVpcEndpointServiceName",
            "XksProxyVpcEndpointServiceOwner",
        ] {
            let value = "1"
                .repeat(model::input(operation).iter().find(|m| m.name == member).unwrap().shape.min.unwrap() as usize);
            let body = format!(r#"{{"CustomKeyStoreName":"n","CustomKeyStoreId":"c","{member}":"{value}"}}"#);
            assert_eq!(refused(operation, &body), ("UnsupportedOperationException", format!("{member}: {external}")),);
        }
        let secret = "S".repeat(43);
        let body = format!(
            r#"{{"CustomKeyStoreName":"n","CustomKeyStoreId":"c","XksProxyAuthenticationCredential":{{"AccessKeyId":"AAAAAAAAAAAAAAAAAAAA","RawSecretAccessKey":"{secret}"}}}}"#
        );
        let (code, told) = refused(operation, &body);
        assert_eq!(
            (code, told),
            ("UnsupportedOperationException", format!("XksProxyAuthenticationCredential: {external}"))
        );
    }
    assert_eq!(
        refused(O::CreateCustomKeyStore, r#"{"CustomKeyStoreName":"n","CustomKeyStoreType":"EXTERNAL_KEY_STORE"}"#),
        ("UnsupportedOperationException", format!("CustomKeyStoreType EXTERNAL_KEY_STORE: {external}"))
    );
    let one = |rest: &str| format!("1 validation error detected: {rest}");
    for (operation, body, told) in [
        (
            O::CreateCustomKeyStore,
            r#"{"CustomKeyStoreName":"n","KeyStorePassword":"canary"}"#,
            one(
                "Value at 'keyStorePassword' failed to satisfy constraint: Member must have length greater than or equal to 7",
            ),
        ),
        (
            O::UpdateCustomKeyStore,
            r#"{"CustomKeyStoreId":"c","KeyStorePassword":"canary-canary-canary-canary-canar"}"#,
            one(
                "Value at 'keyStorePassword' failed to satisfy constraint: Member must have length less than or equal to 32",
            ),
        ),
        (
            O::CreateCustomKeyStore,
            r#"{"CustomKeyStoreName":"n","CloudHsmClusterId":"cluster-abcDEF23451"}"#,
            one(
                "Value 'cluster-abcDEF23451' at 'cloudHsmClusterId' failed to satisfy constraint: Member must satisfy regular expression pattern: cluster-[2-7a-zA-Z]{11,16}",
            ),
        ),
        (
            O::CreateCustomKeyStore,
            "{}",
            one("Value null at 'customKeyStoreName' failed to satisfy constraint: Member must not be null"),
        ),
        (
            O::ConnectCustomKeyStore,
            "{}",
            one("Value null at 'customKeyStoreId' failed to satisfy constraint: Member must not be null"),
        ),
        (
            O::DescribeCustomKeyStores,
            r#"{"CustomKeyStoreId":"c","CustomKeyStoreName":"n"}"#,
            "You cannot specify CustomKeyStoreId and CustomKeyStoreName in the same request.".to_owned(),
        ),
        (
            O::RotateAlias,
            r#"{"AliasName":"alias/a","Grants":"carry"}"#,
            one(
                "Value 'carry' at 'grants' failed to satisfy constraint: Member must satisfy enum value set: [CARRY, LEAVE]",
            ),
        ),
    ] {
        assert_eq!(refused(operation, body), ("ValidationException", told), "{operation:?} {body}");
    }
}

/// Of operations that no key takes the model's constraints come first, and then the key is resolved.
#[test]
fn operations_that_are_refused_on_their_key() {
    let import = r#"{"KeyId":"k","ImportToken":"AQ==","EncryptedKeyMaterial":"AQ==","ValidTo":1772616682.5}"#;
    for (operation, body) in [
        (O::ImportKeyMaterial, import),
        (
            O::GetParametersForImport,
            r#"{"KeyId":"k","WrappingAlgorithm":"RSAES_OAEP_SHA_256","WrappingKeySpec":"RSA_4096"}"#,
        ),
        (O::DeleteImportedKeyMaterial, r#"{"KeyId":"k"}"#),
        (O::EnableKeyRotation, r#"{"KeyId":"k","RotationPeriodInDays":90}"#),
        (O::DisableKeyRotation, r#"{"KeyId":"k"}"#),
        (O::ListKeyRotations, r#"{"KeyId":"k"}"#),
        (O::RotateKeyOnDemand, r#"{"KeyId":"k"}"#),
        (O::ReplicateKey, r#"{"KeyId":"k","ReplicaRegion":"eu-west-1"}"#),
        (O::UpdatePrimaryRegion, r#"{"KeyId":"k","PrimaryRegion":"eu-west-1"}"#),
    ] {
        assert!(matches!(operation.service(), Service::RefusedOnKey(_)));
        match parse(operation, body.as_bytes()).unwrap() {
            Request::RefusedOnKey { operation: named, key: k, reason } => {
                assert_eq!((named, k), (operation, key("k")));
                assert_eq!(operation.service(), Service::RefusedOnKey(reason));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(refused(operation, "{}").0, "ValidationException");
    }
    let (code, _) = refused(O::ImportKeyMaterial, &import.replace("1772616682.5", "\"soon\""));
    assert_eq!(code, "SerializationException");
    let (_, told) = refused(O::EnableKeyRotation, r#"{"KeyId":"k","RotationPeriodInDays":89}"#);
    assert!(told.contains("'rotationPeriodInDays'"), "{told}");
}

#[test]
fn a_flood_of_violations_makes_a_short_answer() {
    let body = format!(r#"{{"KeyId":"{}","TagKeys":[{}""]}}"#, "k".repeat(100_000), r#""","#.repeat(10_000));
    let (_, told) = refused(O::UntagResource, &body);
    assert!(told.starts_with("20 validation errors detected: ") && told.len() < 10_000, "{}", told.len());
}

mod any {
    use super::*;
    use proptest::prelude::*;

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".{0,12}".prop_map(Into::into),
            "(AQ==|AES_256|SIGN_VERIFY|RSA_2048|alias/x|RAW)".prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map("(TagKey|TagValue|[a-z]{0,3})", inner, 0..4)
                    .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
            ]
        })
    }

    /// Members that the operation knows, with any values.
    fn request() -> impl Strategy<Value = (Operation, Vec<u8>)> {
        prop::sample::select(O::ALL).prop_flat_map(|operation| {
            let names: Vec<_> = model::input(operation).iter().map(|m| m.name).chain(["Unknown"]).collect();
            prop::collection::btree_map(prop::sample::select(names), json(), 0..8)
                .prop_map(move |members| (operation, serde_json::to_vec(&members).unwrap()))
        })
    }

    proptest! {
        #[test]
        fn bytes_never_panic(operation in prop::sample::select(O::ALL), body: Vec<u8>) {
            let _ = parse(operation, &body);
        }

        #[test]
        fn objects_never_panic((operation, body) in request()) {
            match parse(operation, &body) {
                Ok(request) => {
                    prop_assert_eq!(request.operation(), operation);
                    crate::kms::audit_parameters(&request);
                }
                Err(error) => prop_assert!(crate::kms::ALL_CODES.contains(&error.code) && error.message.is_some()),
            }
        }

        #[test]
        fn broken_bodies_never_panic(
            (_, body) in prop::sample::select(BODIES),
            operation in prop::sample::select(O::ALL),
            place: prop::sample::Index,
            byte: u8,
        ) {
            let mut bytes = body.as_bytes().to_vec();
            bytes[place.index(body.len())] = byte;
            let _ = parse(operation, &bytes);
            let _ = parse(operation, &bytes[..place.index(body.len())]);
        }
    }
}
