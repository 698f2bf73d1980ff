//! Each operation asks for exactly its checks: action, resource, and the condition keys that the request gives them
//! (authorization.md §1.14).

use super::*;
use crate::authz::language::Values;
use crate::authz::{Check, Checks, Resource};
use crate::ids::spec::{
    DataKeySpec, EncryptionAlgorithm, GrantOperation, KeySpec, KeyUsage, MacAlgorithm, MessageType, SigningAlgorithm,
};
use crate::ops::ciphertext::Suite;
use crate::ops::{CreateGrant, CreateKey, DataKeySize, GrantPrincipalText, Page, ReEncrypt, Service, Tag};
use crate::secret::SecretBytes;
use crate::store::testing::{account, alias, key, key_id, new_store, put};
use crate::store::{GrantConstraints, KeyRecord, Store, Write};

fn here() -> Locality {
    Locality { account: account(), region: "eu-central-1".parse().unwrap() }
}

fn other() -> AccountId {
    "444455556666".parse().unwrap()
}

/// Keys 1 and 2 and `alias/app` at key 1; key 3 belongs to another account.
async fn store() -> (tempfile::TempDir, Store) {
    let (dir, store) = new_store().await;
    let mut writes: Vec<Write> = (1..=2).map(|n| Write::PutKey(key(n))).collect();
    writes.push(Write::PutKey(KeyRecord { account: other(), ..key(3) }));
    writes.push(Write::PutAlias(alias("alias/app", key_id(1))));
    put(&store, writes).await;
    (dir, store)
}

fn named(n: u16) -> KeyIdText {
    KeyIdText(key_id(n).to_string())
}

fn theirs(n: u16) -> KeyIdText {
    KeyIdText(here().of(&other()).key_arn(&key_id(n)))
}

fn blob(n: u16) -> Vec<u8> {
    Header { suite: Suite::Aes256Gcm, key: key_id(n), generation: 1 }.seal(&[0; 12], &[0; 32]).unwrap()
}

fn context() -> Vec<(String, String)> {
    vec![("tenant".to_owned(), "7".to_owned())]
}

fn secret() -> SecretBytes {
    SecretBytes::new(vec![1])
}

fn page() -> Page {
    Page::default()
}

fn create_key(tags: &[(&str, &str)], bypass: Option<bool>) -> Request {
    Request::CreateKey(CreateKey {
        spec: KeySpec::EccNistP256,
        usage: KeyUsage::SignVerify,
        description: String::new(),
        policy: None,
        tags: tags.iter().map(|(k, v)| Tag { key: (*k).to_owned(), value: (*v).to_owned() }).collect(),
        bypass_policy_lockout_safety_check: bypass,
        key_store: None,
    })
}

fn create_grant(constraints: GrantConstraints) -> Request {
    Request::CreateGrant(Box::new(CreateGrant {
        key: named(1),
        grantee: GrantPrincipalText::Principal("arn:aws:iam::111122223333:user/a".to_owned()),
        retiring: Some(GrantPrincipalText::Service("s3.internal.example".to_owned())),
        operations: vec![GrantOperation::Decrypt, GrantOperation::CreateGrant],
        constraints,
        grant_tokens: Vec::new(),
        name: None,
        dry_run: false,
    }))
}

fn re_encrypt(source: Option<KeyIdText>, made_by: u16, destination: KeyIdText) -> Request {
    Request::ReEncrypt(ReEncrypt {
        ciphertext: blob(made_by),
        source_key: source,
        source_context: context(),
        source_algorithm: EncryptionAlgorithm::SymmetricDefault,
        destination_key: destination,
        destination_context: Vec::new(),
        destination_algorithm: EncryptionAlgorithm::SymmetricDefault,
        grant_tokens: Vec::new(),
        dry_run: false,
    })
}

fn decrypt(key: Option<KeyIdText>, made_by: u16) -> Request {
    let algorithm = EncryptionAlgorithm::SymmetricDefault;
    let (ciphertext, grant_tokens) = (blob(made_by), Vec::new());
    Request::Decrypt { key, ciphertext, context: context(), algorithm, dry_run: false, grant_tokens }
}

fn pairs(list: &[(&str, &str)]) -> Option<std::collections::BTreeMap<String, String>> {
    Some(list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
}

/// `action @ resource; key=value; …; context: pairs`
fn shown(check: &Check<'_>) -> String {
    let on = match &check.resource {
        Resource::Any => "*".to_owned(),
        Resource::Key { record, arn } => {
            assert!(arn.ends_with(&record.id.to_string()));
            let place = (1..=3).find(|n| record.id == key_id(*n)).map_or("new".to_owned(), |n| n.to_string());
            format!("key {place}")
        }
        Resource::Alias { arn, account } => {
            assert!(arn.contains(account.as_str()));
            arn.rsplit(':').next().unwrap().to_owned()
        }
        Resource::Foreign => "foreign".to_owned(),
        other => panic!("{other:?}"),
    };
    let mut text = format!("{} @ {on}", check.action);
    for (name, values) in &check.conditions.request {
        let values = match values {
            Values::One(value) => value.to_string(),
            Values::Many(values) => format!("[{}]", values.join(",")),
        };
        text.push_str(&format!("; {name}={values}"));
    }
    if !check.encryption_context.is_empty() {
        text.push_str(&format!("; context: {:?}", check.encryption_context));
    }
    if let Some(alias) = check.conditions.request_alias {
        text.push_str(&format!("; as {alias}"));
    }
    if check.named == crate::authz::evaluate::Named::ByCiphertext {
        text.push_str("; by ciphertext");
    }
    text
}

fn asked(store: &Store, request: Request) -> Vec<String> {
    let resolved =
        resolve(Task::Kms(request), "root", store.snapshot(), &here(), true, key_id(9), &GrantTokenKey::in_test())
            .unwrap();
    resolved.checks().iter().map(shown).collect()
}

const TENANT: &str = r#"context: [("tenant", "7")]"#;
const EC_KEY: &str = "kms:KeySpec=ECC_NIST_P256; kms:CustomerMasterKeySpec=ECC_NIST_P256; kms:KeyUsage=SIGN_VERIFY; \
     kms:CustomerMasterKeyUsage=SIGN_VERIFY; kms:KeyOrigin=AWS_KMS; kms:MultiRegion=false";

#[tokio::test]
async fn each_operation_asks_for_its_checks() {
    let (_dir, store) = store().await;
    let algorithm = EncryptionAlgorithm::SymmetricDefault;
    let id = || named(1);
    let app: AliasName = "alias/app".parse().unwrap();
    let tag = |k: &str| Tag { key: k.to_owned(), value: "v".to_owned() };
    let tokens = Vec::<String>::new;
    let text = |what: &str| what.to_owned();
    let on_key = |action: &str| vec![format!("kms:{action} @ key 1")];
    let on_account = |action: &str| vec![format!("kms:{action} @ *")];
    let sender = |verify: bool| {
        let (message, message_type, algorithm) = (secret(), MessageType::Raw, SigningAlgorithm::EcdsaSha256);
        match verify {
            false => {
                Request::Sign { key: id(), message, message_type, algorithm, dry_run: false, grant_tokens: tokens() }
            }
            true => Request::Verify {
                key: id(),
                message,
                message_type,
                signature: vec![1],
                algorithm,
                dry_run: false,
                grant_tokens: tokens(),
            },
        }
    };
    let data_key = |with_plaintext| Request::GenerateDataKey {
        key: KeyIdText(text("alias/app")),
        size: DataKeySize::Spec(DataKeySpec::Aes256),
        context: context(),
        with_plaintext,
        dry_run: false,
        grant_tokens: tokens(),
    };
    let mac = MacAlgorithm::HmacSha256;
    let signing = "kms:MessageType=RAW; kms:SigningAlgorithm=ECDSA_SHA_256";
    let generated = |action: &str| {
        vec![format!("kms:{action} @ key 1; kms:EncryptionAlgorithm=SYMMETRIC_DEFAULT; {TENANT}; as alias/app")]
    };
    let tagged = "aws:RequestTag/a=v; aws:RequestTag/b=v; aws:TagKeys=[a,b]";
    let rows: Vec<(Request, Vec<String>)> = vec![
        (create_key(&[], None), vec![format!("kms:CreateKey @ *; {EC_KEY}")]),
        (
            create_key(&[("a", "v"), ("b", "v")], Some(false)),
            vec![
                format!("kms:CreateKey @ *; {EC_KEY}; {tagged}; kms:BypassPolicyLockoutSafetyCheck=false"),
                format!("kms:TagResource @ *; {EC_KEY}; {tagged}"),
            ],
        ),
        (Request::DescribeKey { key: id(), grant_tokens: tokens() }, on_key("DescribeKey")),
        (Request::ListKeys { page: page() }, on_account("ListKeys")),
        (Request::EnableKey { key: id() }, on_key("EnableKey")),
        (Request::DisableKey { key: id() }, on_key("DisableKey")),
        (
            Request::ScheduleKeyDeletion { key: id(), pending_window_in_days: 30 },
            vec![text("kms:ScheduleKeyDeletion @ key 1; kms:ScheduleKeyDeletionPendingWindowInDays=30")],
        ),
        (Request::CancelKeyDeletion { key: id() }, on_key("CancelKeyDeletion")),
        (Request::UpdateKeyDescription { key: id(), description: text("d") }, on_key("UpdateKeyDescription")),
        (
            Request::TagResource { key: id(), tags: vec![tag("a"), tag("b")] },
            vec![format!("kms:TagResource @ key 1; {tagged}")],
        ),
        (
            Request::UntagResource { key: id(), tag_keys: vec![text("a"), text("b")] },
            vec![text("kms:UntagResource @ key 1; aws:TagKeys=[a,b]")],
        ),
        (Request::ListResourceTags { key: id(), page: page() }, on_key("ListResourceTags")),
        (
            Request::CreateAlias { alias: "alias/new".parse().unwrap(), target: id() },
            vec![text("kms:CreateAlias @ alias/new"), text("kms:CreateAlias @ key 1")],
        ),
        (
            Request::CreateAlias { alias: app.clone(), target: named(2) },
            vec![text("kms:CreateAlias @ alias/app"), text("kms:CreateAlias @ key 2")],
        ),
        (
            Request::UpdateAlias { alias: app.clone(), target: named(2) },
            vec![text("kms:UpdateAlias @ alias/app"), text("kms:UpdateAlias @ key 1"), text("kms:UpdateAlias @ key 2")],
        ),
        (
            Request::DeleteAlias { alias: app.clone() },
            vec![text("kms:DeleteAlias @ alias/app"), text("kms:DeleteAlias @ key 1")],
        ),
        (Request::ListAliases { key: None, page: page() }, on_account("ListAliases")),
        (Request::ListAliases { key: Some(id()), page: page() }, on_account("ListAliases")),
        (
            Request::Encrypt {
                key: id(),
                plaintext: secret(),
                context: context(),
                algorithm,
                dry_run: false,
                grant_tokens: tokens(),
            },
            vec![format!("kms:Encrypt @ key 1; kms:EncryptionAlgorithm=SYMMETRIC_DEFAULT; {TENANT}")],
        ),
        (
            decrypt(None, 1),
            vec![format!("kms:Decrypt @ key 1; kms:EncryptionAlgorithm=SYMMETRIC_DEFAULT; {TENANT}; by ciphertext")],
        ),
        (
            decrypt(Some(KeyIdText(text("alias/app"))), 1),
            vec![format!("kms:Decrypt @ key 1; kms:EncryptionAlgorithm=SYMMETRIC_DEFAULT; {TENANT}; as alias/app")],
        ),
        (
            re_encrypt(None, 1, named(2)),
            vec![
                format!(
                    "kms:ReEncryptFrom @ key 1; kms:EncryptionAlgorithm=SYMMETRIC_DEFAULT; kms:ReEncryptOnSameKey=false; \
                     {TENANT}; by ciphertext"
                ),
                text(
                    "kms:ReEncryptTo @ key 2; kms:EncryptionAlgorithm=SYMMETRIC_DEFAULT; kms:ReEncryptOnSameKey=false",
                ),
            ],
        ),
        (
            re_encrypt(Some(named(1)), 1, KeyIdText(text("alias/app"))),
            vec![
                format!(
                    "kms:ReEncryptFrom @ key 1; kms:EncryptionAlgorithm=SYMMETRIC_DEFAULT; kms:ReEncryptOnSameKey=true; {TENANT}"
                ),
                text(
                    "kms:ReEncryptTo @ key 1; kms:EncryptionAlgorithm=SYMMETRIC_DEFAULT; kms:ReEncryptOnSameKey=true; as \
                     alias/app",
                ),
            ],
        ),
        (data_key(true), generated("GenerateDataKey")),
        (data_key(false), generated("GenerateDataKeyWithoutPlaintext")),
        (Request::GenerateRandom { number_of_bytes: 1, key_store: None }, on_account("GenerateRandom")),
        (sender(false), vec![format!("kms:Sign @ key 1; {signing}")]),
        (sender(true), vec![format!("kms:Verify @ key 1; {signing}")]),
        (Request::GetPublicKey { key: id(), grant_tokens: tokens() }, on_key("GetPublicKey")),
        (
            Request::GenerateMac {
                key: id(),
                message: secret(),
                algorithm: mac,
                dry_run: false,
                grant_tokens: tokens(),
            },
            vec![text("kms:GenerateMac @ key 1; kms:MacAlgorithm=HMAC_SHA_256")],
        ),
        (
            Request::VerifyMac {
                key: id(),
                message: secret(),
                mac: secret(),
                algorithm: mac,
                dry_run: false,
                grant_tokens: tokens(),
            },
            vec![text("kms:VerifyMac @ key 1; kms:MacAlgorithm=HMAC_SHA_256")],
        ),
        (Request::GetKeyPolicy { key: id() }, vec![text("kms:GetKeyPolicy @ key 1; kms:PolicyName=default")]),
        (
            Request::PutKeyPolicy { key: id(), policy: text("{}"), bypass_policy_lockout_safety_check: None },
            vec![text("kms:PutKeyPolicy @ key 1; kms:PolicyName=default")],
        ),
        (
            Request::PutKeyPolicy { key: id(), policy: text("{}"), bypass_policy_lockout_safety_check: Some(true) },
            vec![text("kms:PutKeyPolicy @ key 1; kms:PolicyName=default; kms:BypassPolicyLockoutSafetyCheck=true")],
        ),
        (Request::ListKeyPolicies { key: id(), page: page() }, on_key("ListKeyPolicies")),
        (Request::GetKeyRotationStatus { key: id() }, on_key("GetKeyRotationStatus")),
        (
            create_grant(GrantConstraints { equals: pairs(&[("tenant", "7")]), ..GrantConstraints::default() }),
            vec![format!(
                "kms:CreateGrant @ key 1; kms:GrantOperations=[Decrypt,CreateGrant]; \
                 kms:GranteePrincipal=arn:aws:iam::111122223333:user/a; \
                 kms:RetiringServicePrincipal=s3.internal.example; kms:GrantConstraintType=EncryptionContextEquals; {TENANT}"
            )],
        ),
        (
            create_grant(GrantConstraints { source_arn: Some(text("arn:aws:s3:::b")), ..GrantConstraints::default() }),
            vec![text(
                "kms:CreateGrant @ key 1; kms:GrantOperations=[Decrypt,CreateGrant]; \
                 kms:GranteePrincipal=arn:aws:iam::111122223333:user/a; \
                 kms:RetiringServicePrincipal=s3.internal.example; kms:GrantConstraintSourceArn=arn:aws:s3:::b",
            )],
        ),
        (Request::ListGrants { key: id(), grant: None, grantee: None, page: page() }, on_key("ListGrants")),
        (
            Request::ListRetirableGrants {
                retiring: GrantPrincipalText::Principal(text("arn:aws:iam::111122223333:root")),
                page: page(),
            },
            on_account("ListRetirableGrants"),
        ),
        (Request::RevokeGrant { key: id(), grant: text("g"), dry_run: false }, on_key("RevokeGrant")),
        (Request::GetKeyLastUsage { key: id() }, on_key("GetKeyLastUsage")),
        (
            Request::DescribeCustomKeyStores { id: None, name: None, page: page() },
            on_account("DescribeCustomKeyStores"),
        ),
        (Request::ConnectCustomKeyStore { id: text("x") }, on_account("ConnectCustomKeyStore")),
        (Request::DisconnectCustomKeyStore { id: text("x") }, on_account("DisconnectCustomKeyStore")),
        (Request::DeleteCustomKeyStore { id: text("x") }, on_account("DeleteCustomKeyStore")),
    ];
    let mut seen = std::collections::BTreeSet::new();
    for (request, expected) in rows {
        let name = request.operation().name();
        seen.insert(name);
        assert_eq!(asked(&store, request), expected, "{name}");
    }
    // Elsewhere: RotateAlias in the tests of rotation; RetireGrant with the grants; the two others take members that ask for
    // nothing.
    let elsewhere = ["CreateCustomKeyStore", "UpdateCustomKeyStore", "RetireGrant", "RotateAlias"];
    for operation in Operation::ALL.iter().filter(|operation| operation.service() == Service::Served) {
        assert!(seen.contains(operation.name()) || elsewhere.contains(&operation.name()), "{operation:?} has no row");
    }
}

#[tokio::test]
async fn what_is_refused_on_a_key_is_asked_on_it() {
    let (_dir, store) = store().await;
    let request = Request::RefusedOnKey { operation: Operation::EnableKeyRotation, key: named(1), reason: "no" };
    assert_eq!(asked(&store, request), ["kms:EnableKeyRotation @ key 1"]);
    let request = Request::Unsupported { operation: Operation::Encapsulate, reason: "no" };
    assert_eq!(asked(&store, request), ["kms:Encapsulate @ *"]);
}

/// A key of another account that exists is asked about after the same things as one that does not.
#[tokio::test]
async fn other_accounts_keys_are_told_apart_from_nothing_only_by_their_policy() {
    let (_dir, store) = store().await;
    const THERE: u16 = 3;
    const NOWHERE: u16 = 4;
    let on = |n: u16| if n == THERE { "key 3" } else { "foreign" };
    let app: AliasName = "alias/app".parse().unwrap();
    let first = |checks: Vec<String>| -> Vec<String> {
        checks.iter().map(|check| check.split(';').next().unwrap().to_owned()).collect()
    };
    for n in [THERE, NOWHERE] {
        let describe = Request::DescribeKey { key: theirs(n), grant_tokens: Vec::new() };
        assert_eq!(first(asked(&store, describe)), [format!("kms:DescribeKey @ {}", on(n))]);
        let create = Request::CreateAlias { alias: "alias/new".parse().unwrap(), target: theirs(n) };
        assert_eq!(
            first(asked(&store, create)),
            ["kms:CreateAlias @ alias/new".to_owned(), format!("kms:CreateAlias @ {}", on(n))]
        );
        let update = Request::UpdateAlias { alias: app.clone(), target: theirs(n) };
        assert_eq!(
            first(asked(&store, update)),
            [
                "kms:UpdateAlias @ alias/app".to_owned(),
                "kms:UpdateAlias @ key 1".to_owned(),
                format!("kms:UpdateAlias @ {}", on(n))
            ]
        );
        assert_eq!(
            first(asked(&store, re_encrypt(None, 1, theirs(n)))),
            ["kms:ReEncryptFrom @ key 1".to_owned(), format!("kms:ReEncryptTo @ {}", on(n))]
        );
        // Named beside a ciphertext of key 1: not told that it exists by IncorrectKeyException.
        assert_eq!(first(asked(&store, decrypt(Some(theirs(n)), 1)))[0], format!("kms:Decrypt @ {}", on(n)));
        assert_eq!(
            first(asked(&store, re_encrypt(Some(theirs(n)), 1, named(2))))[0],
            format!("kms:ReEncryptFrom @ {}", on(n))
        );
        let list = Request::ListAliases { key: Some(theirs(n)), page: page() };
        assert_eq!(asked(&store, list), ["kms:ListAliases @ foreign"]);
        let unknown = Request::UpdateAlias { alias: "alias/none".parse().unwrap(), target: theirs(n) };
        let refused =
            resolve(Task::Kms(unknown), "root", store.snapshot(), &here(), true, key_id(9), &GrantTokenKey::in_test());
        assert!(matches!(refused, Err(OpError::AliasNotFound { .. })));
    }
    // Their own ciphertext is decrypted under their key alone.
    assert_eq!(first(asked(&store, decrypt(Some(theirs(THERE)), THERE))), ["kms:Decrypt @ key 3"]);
}
