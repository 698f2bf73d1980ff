use std::collections::BTreeMap;

use super::rules::Wanted;
use super::*;
use crate::ids::spec::{GrantOperation as O, KeySpec, KeyUsage};
use crate::ops::GrantPrincipalText;
use crate::store::testing::{self, account, key, key_id, new_store, put};
use crate::store::{GrantConstraints, GrantPrincipal, KeyRecord, Lifecycle, Store};

const ARN: &str = "arn:aws:kms:eu-central-1:111122223333:key/x";
const MOST: usize = 3;

pub(super) fn user(name: &str, id: &str) -> Write {
    Write::PutUser(testing::user(name, id))
}

pub(super) fn arn(name: &str) -> String {
    format!("arn:aws:iam::{}:user/{name}", account())
}

/// Key 1, and users alice and bob.
pub(super) async fn store() -> (tempfile::TempDir, Store) {
    let (dir, store) = new_store().await;
    let known = testing::own_account();
    let writes = vec![Write::PutAccount(known), Write::PutKey(key(1)), user("alice", "AIDA1"), user("bob", "AIDA2")];
    put(&store, writes).await;
    (dir, store)
}

fn request(operations: &[O]) -> CreateGrant {
    CreateGrant {
        key: crate::ops::KeyIdText("k".to_owned()),
        grantee: GrantPrincipalText::Principal(arn("alice")),
        retiring: None,
        operations: operations.to_vec(),
        constraints: GrantConstraints::default(),
        grant_tokens: Vec::new(),
        name: None,
        dry_run: false,
    }
}

fn wanted(request: &CreateGrant) -> Wanted {
    let target = KeyTarget { record: key(1).into(), arn: ARN.to_owned() };
    Wanted::new(new_grant_id().unwrap(), &target, request, account(), 5)
}

async fn create(store: &Store, request: &CreateGrant) -> Result<GrantId, OpError> {
    let (writes, id) = wanted(request).decide(&store.snapshot(), MOST)?;
    if !writes.is_empty() {
        put(store, writes).await;
    }
    Ok(id)
}

fn pairs(pairs: &[(&str, &str)]) -> Option<BTreeMap<String, String>> {
    Some(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
}

#[tokio::test]
async fn a_grant_is_bound_to_whom_its_principals_are_now() {
    let (_dir, store) = store().await;
    let asked = CreateGrant {
        retiring: Some(GrantPrincipalText::Principal(format!("arn:aws:iam::{}:root", account()))),
        ..request(&[O::Encrypt, O::Decrypt, O::Encrypt])
    };
    let id = create(&store, &asked).await.unwrap();
    let snapshot = store.snapshot();
    let grant = &snapshot.grants[&(key_id(1), id)];
    assert_eq!(grant.grantee, GrantPrincipal::Aws { arn: arn("alice"), id: Some("AIDA1".into()) });
    assert_eq!(grant.retiring.as_ref().unwrap().name(), "arn:aws:iam::111122223333:root");
    assert_eq!(grant.operations, [O::Decrypt, O::Encrypt], "sorted, without doubles");
    assert_eq!((&grant.issuing_account, grant.created), (&account(), 5));
    for wrong in
        [arn("carol"), "arn:aws:iam::111122223333:group/g".into(), "backup.internal.example".into(), "x".into()]
    {
        let grantee = CreateGrant { grantee: GrantPrincipalText::Principal(wrong.clone()), ..request(&[O::Decrypt]) };
        assert_eq!(create(&store, &grantee).await, Err(OpError::MalformedArn(wrong.clone())));
        let retiring =
            CreateGrant { retiring: Some(GrantPrincipalText::Principal(wrong.clone())), ..request(&[O::Decrypt]) };
        assert_eq!(create(&store, &retiring).await, Err(OpError::MalformedArn(wrong)));
    }
    let service = GrantPrincipalText::Service("backup.internal.example".into());
    let to_service = CreateGrant { grantee: service, ..request(&[O::Decrypt]) };
    assert_eq!(create(&store, &to_service).await, Err(OpError::MalformedArn("backup.internal.example".into())));
}

#[tokio::test]
async fn operations_and_constraints_fit_the_key() {
    let (_dir, store) = store().await;
    // authorization.md §1.8, the table.
    let always = [O::CreateGrant, O::RetireGrant, O::DescribeKey];
    let cipher = [O::Encrypt, O::Decrypt, O::ReEncryptFrom, O::ReEncryptTo];
    let data_keys = [
        O::GenerateDataKey,
        O::GenerateDataKeyWithoutPlaintext,
        O::GenerateDataKeyPair,
        O::GenerateDataKeyPairWithoutPlaintext,
    ];
    let sign = [O::Sign, O::Verify, O::GetPublicKey];
    for (spec, usage, own) in [
        (KeySpec::SymmetricDefault, KeyUsage::EncryptDecrypt, [&cipher[..], &data_keys].concat()),
        (KeySpec::Rsa2048, KeyUsage::EncryptDecrypt, [&cipher[..], &[O::GetPublicKey]].concat()),
        (KeySpec::Rsa2048, KeyUsage::SignVerify, sign.to_vec()),
        (KeySpec::EccNistP256, KeyUsage::SignVerify, sign.to_vec()),
        (KeySpec::EccNistP256, KeyUsage::KeyAgreement, vec![O::DeriveSharedSecret, O::GetPublicKey]),
        (KeySpec::Hmac256, KeyUsage::GenerateVerifyMac, vec![O::GenerateMac, O::VerifyMac]),
    ] {
        put(&store, vec![Write::PutKey(KeyRecord { spec, usage, ..key(1) })]).await;
        let snapshot = store.snapshot();
        for operation in O::ALL {
            let allowed = always.contains(operation) || own.contains(operation);
            let decided = wanted(&request(&[O::DescribeKey, *operation])).decide(&snapshot, MOST);
            match decided {
                Ok(_) => assert!(allowed, "{operation} {spec} {usage}"),
                Err(OpError::Validation(text)) => {
                    assert!(!allowed && text.contains(&format!("[{operation}]")), "{spec} {usage}: {text}");
                }
                Err(error) => panic!("{error}"),
            }
        }
        for (constraints, on_symmetric_only) in [
            (GrantConstraints { equals: pairs(&[("a", "1")]), ..GrantConstraints::default() }, true),
            (GrantConstraints { subset: pairs(&[]), ..GrantConstraints::default() }, true),
            (GrantConstraints { source_arn: Some("s".into()), ..GrantConstraints::default() }, false),
        ] {
            let asked = CreateGrant { constraints, ..request(&[O::DescribeKey]) };
            let decided = wanted(&asked).decide(&snapshot, MOST);
            assert_eq!(decided.is_ok(), spec.is_symmetric() || !on_symmetric_only, "{:?}", asked.constraints);
        }
    }
}

#[tokio::test]
async fn a_name_makes_a_repetition_the_same_grant() {
    let (_dir, store) = store().await;
    let base = CreateGrant {
        name: Some("n".into()),
        constraints: GrantConstraints { subset: pairs(&[("a", "1")]), ..GrantConstraints::default() },
        ..request(&[O::Encrypt, O::Decrypt])
    };
    let first = create(&store, &base).await.unwrap();
    assert_eq!(create(&store, &base).await.unwrap(), first);
    let reordered = CreateGrant { operations: vec![O::Decrypt, O::Encrypt, O::Decrypt], ..base.clone() };
    assert_eq!(create(&store, &reordered).await.unwrap(), first);
    assert_eq!(store.snapshot().grants.size(), 1);
    let decided = |request: &CreateGrant| wanted(request).decide(&store.snapshot(), MOST).unwrap().0.len();
    for other in [
        CreateGrant { name: Some("N".into()), ..base.clone() },
        CreateGrant { name: None, ..base.clone() },
        CreateGrant { grantee: GrantPrincipalText::Principal(arn("bob")), ..base.clone() },
        CreateGrant { retiring: Some(GrantPrincipalText::Principal(arn("bob"))), ..base.clone() },
        CreateGrant { operations: vec![O::Decrypt], ..base.clone() },
        CreateGrant { constraints: GrantConstraints::default(), ..base.clone() },
    ] {
        assert_eq!(decided(&other), 1, "{other:?}");
    }
    let issued = Wanted { issuing_account: "444455556666".parse().unwrap(), ..wanted(&base) };
    assert_eq!(issued.decide(&store.snapshot(), MOST).unwrap().0.len(), 1, "another issuing account");
    // The same name of another person.
    put(&store, vec![user("alice", "AIDA9")]).await;
    assert_eq!(decided(&base), 1);
    let unnamed = CreateGrant { name: None, ..base };
    assert_ne!(create(&store, &unnamed).await.unwrap(), create(&store, &unnamed).await.unwrap());
}

#[tokio::test]
async fn a_key_has_so_many_grants_and_no_more() {
    let (_dir, store) = store().await;
    let named = CreateGrant { name: Some("n".into()), ..request(&[O::Decrypt]) };
    let first = create(&store, &named).await.unwrap();
    for _ in 1..MOST {
        create(&store, &request(&[O::Decrypt])).await.unwrap();
    }
    let full = OpError::LimitExceeded("A KMS key has at most 3 grants.".to_owned());
    assert_eq!(create(&store, &request(&[O::Decrypt])).await, Err(full));
    assert_eq!(create(&store, &named).await.unwrap(), first, "no new one");
    put(&store, vec![Write::DeleteGrant(key_id(1), first)]).await;
    create(&store, &request(&[O::Decrypt])).await.unwrap();
}

#[tokio::test]
async fn only_an_enabled_key_gets_grants() {
    let (_dir, store) = store().await;
    let arn = || ARN.to_owned();
    for (lifecycle, refusal) in [
        (Lifecycle::Enabled, None),
        (Lifecycle::Unavailable { was_enabled: true }, None),
        (Lifecycle::Disabled, Some(OpError::Disabled { arn: arn() })),
        (Lifecycle::PendingDeletion { deletion_date: 9 }, Some(OpError::PendingDeletion { arn: arn() })),
        (Lifecycle::Deleting, Some(OpError::KeyNotFound { arn: arn() })),
    ] {
        put(&store, vec![Write::PutKey(KeyRecord { lifecycle, ..key(1) })]).await;
        assert_eq!(wanted(&request(&[O::Decrypt])).decide(&store.snapshot(), MOST).err(), refusal);
    }
    put(&store, vec![Write::DeleteKey(key_id(1))]).await;
    let gone = wanted(&request(&[O::Decrypt])).decide(&store.snapshot(), MOST).err();
    assert_eq!(gone, Some(OpError::KeyNotFound { arn: arn() }));
}
