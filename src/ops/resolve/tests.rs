//! What an alias means beside a ciphertext, and what the policy is told of it.

use super::*;
use crate::authz::{Checks, Resource};
use crate::ids::spec::EncryptionAlgorithm;
use crate::ops::ReEncrypt;
use crate::ops::ciphertext::Suite;
use crate::store::testing::{account, alias, key, key_id, new_store, put};
use crate::store::{AliasHistory, Store, Write};

const HISTORY: bool = true;
const STRICT: bool = false;

fn here() -> Locality {
    Locality { account: account(), region: "eu-central-1".parse().unwrap() }
}

fn stay(n: u16, ended_by: &str) -> AliasHistory {
    AliasHistory { key: key_id(n), from: 1, until: 2, ended_by: ended_by.to_owned(), dropped: None }
}

/// Keys 1 to 4 with a material of generation 1, and an alias at key 2 with this history.
async fn store(history: Vec<AliasHistory>) -> (tempfile::TempDir, Store) {
    let (dir, store) = new_store().await;
    let mut writes: Vec<Write> = (1..=4).map(|n| Write::PutKey(key(n))).collect();
    writes.push(Write::PutAlias(AliasRecord { history, ..alias("alias/app", key_id(2)) }));
    put(&store, writes).await;
    (dir, store)
}

fn blob(n: u16) -> Vec<u8> {
    Header { suite: Suite::Aes256Gcm, key: key_id(n), generation: 1 }.seal(&[0; 12], &[0; 32]).unwrap()
}

fn decrypt(named: &str, made_by: u16) -> Task {
    Task::Kms(Request::Decrypt {
        key: Some(KeyIdText(named.to_owned())),
        ciphertext: blob(made_by),
        context: Vec::new(),
        algorithm: EncryptionAlgorithm::SymmetricDefault,
        grant_tokens: Vec::new(),
        dry_run: false,
    })
}

fn resolved(store: &Store, task: Task, history: bool) -> Resolved {
    resolve(task, "root", store.snapshot(), &here(), history, key_id(999), &GrantTokenKey::in_test()).unwrap()
}

/// Whether the alias means the key, then `kms:RequestAlias` and `hsmbridge:AliasGeneration` of the one check.
fn told(store: &Store, named: &str, made_by: u16, history: bool) -> (bool, Option<String>, Option<&'static str>) {
    let resolved = resolved(store, decrypt(named, made_by), history);
    let Subject::Blob { key, named, .. } = resolved.subject() else { panic!("{resolved:?}") };
    let means = named.as_ref().unwrap().means(&key.record.id);
    let checks = resolved.checks();
    let [check] = checks.as_slice() else { panic!("{checks:?}") };
    let Resource::Key { record, .. } = &check.resource else { panic!("{check:?}") };
    assert_eq!(record.id, key_id(made_by), "authorised is the key of the ciphertext");
    let generation = check.conditions.alias_generation.map(AliasGeneration::as_str);
    assert_eq!(resolved.alias_generation().map(AliasGeneration::as_str), generation);
    (means, check.conditions.request_alias.map(ToString::to_string), generation)
}

#[tokio::test]
async fn an_alias_means_its_key_and_those_of_its_history() {
    let dropped = AliasHistory { dropped: Some(3), ..stay(4, AliasHistory::BY_ROTATE) };
    let (_dir, store) = store(vec![stay(1, AliasHistory::BY_ROTATE), stay(3, AliasHistory::BY_UPDATE), dropped]).await;
    let (arn, app) = (here().alias_arn(&"alias/app".parse().unwrap()), || Some("alias/app".to_owned()));
    for name in ["alias/app", arn.as_str()] {
        assert_eq!(told(&store, name, 2, HISTORY), (true, app(), Some("current")));
        assert_eq!(told(&store, name, 1, HISTORY), (true, app(), Some("retired")), "rotated");
        assert_eq!(told(&store, name, 3, HISTORY), (true, None, Some("retired")), "pointed elsewhere by hand");
        assert_eq!(told(&store, name, 4, HISTORY), (false, None, None), "dropped");
        assert_eq!(told(&store, name, 2, STRICT), (true, app(), Some("current")));
        assert_eq!(told(&store, name, 1, STRICT), (false, None, None));
    }
    let id = key_id(1).to_string();
    assert_eq!(told(&store, &id, 1, HISTORY), (true, None, None), "named by its id");
    assert_eq!(told(&store, &id, 2, HISTORY), (false, None, None), "a key means itself only");
}

#[tokio::test]
async fn the_newest_stay_that_is_not_dropped_counts() {
    let by_hand_last = vec![stay(1, AliasHistory::BY_ROTATE), stay(1, AliasHistory::BY_UPDATE)];
    let (_dir, first) = store(by_hand_last.clone()).await;
    assert_eq!(told(&first, "alias/app", 1, HISTORY), (true, None, Some("retired")));
    let rotated_last: Vec<_> = by_hand_last.into_iter().rev().collect();
    let (_dir, second) = store(rotated_last.clone()).await;
    assert_eq!(told(&second, "alias/app", 1, HISTORY), (true, Some("alias/app".to_owned()), Some("retired")));
    let mut newest_dropped = rotated_last;
    newest_dropped[1].dropped = Some(9);
    let (_dir, third) = store(newest_dropped).await;
    assert_eq!(told(&third, "alias/app", 1, HISTORY), (true, None, Some("retired")));
}

#[tokio::test]
async fn an_alias_that_was_made_again_starts_empty() {
    let (_dir, store) = store(vec![stay(1, AliasHistory::BY_ROTATE)]).await;
    put(&store, vec![Write::DeleteAlias(here().account, "alias/app".parse().unwrap())]).await;
    put(&store, vec![Write::PutAlias(alias("alias/app", key_id(3)))]).await;
    assert_eq!(told(&store, "alias/app", 1, HISTORY), (false, None, None));
    assert_eq!(told(&store, "alias/app", 2, HISTORY), (false, None, None));
}

#[tokio::test]
async fn re_encrypt_widens_its_source_and_not_its_destination() {
    let (_dir, store) = store(vec![stay(1, AliasHistory::BY_ROTATE)]).await;
    let request = ReEncrypt {
        ciphertext: blob(1),
        source_key: Some(KeyIdText("alias/app".to_owned())),
        source_context: Vec::new(),
        source_algorithm: EncryptionAlgorithm::SymmetricDefault,
        destination_key: KeyIdText("alias/app".to_owned()),
        destination_context: Vec::new(),
        destination_algorithm: EncryptionAlgorithm::SymmetricDefault,
        grant_tokens: Vec::new(),
        dry_run: false,
    };
    let resolved = resolved(&store, Task::Kms(Request::ReEncrypt(request)), HISTORY);
    let seen: Vec<_> = resolved
        .checks()
        .iter()
        .map(|check| {
            let Resource::Key { record, .. } = &check.resource else { panic!("{check:?}") };
            let conditions = &check.conditions;
            let aliases: Vec<String> = conditions.resource_aliases.iter().map(ToString::to_string).collect();
            let generation = conditions.alias_generation.map(AliasGeneration::as_str);
            (check.action, record.id, conditions.request_alias.is_some(), generation, aliases)
        })
        .collect();
    let from = ("kms:ReEncryptFrom", key_id(1), true, Some("retired"), vec![]);
    let to = ("kms:ReEncryptTo", key_id(2), true, Some("current"), vec!["alias/app".to_owned()]);
    assert_eq!(seen, [from, to]);
    assert_eq!(resolved.alias_generation(), Some(AliasGeneration::Retired));
}

#[tokio::test]
async fn other_operations_are_told_the_alias_too() {
    let (_dir, store) = store(vec![stay(1, AliasHistory::BY_ROTATE)]).await;
    for (name, generation) in [("alias/app".to_owned(), Some(AliasGeneration::Current)), (key_id(2).to_string(), None)]
    {
        let resolved = resolved(
            &store,
            Task::Kms(Request::DescribeKey { key: KeyIdText(name), grant_tokens: Vec::new() }),
            HISTORY,
        );
        let checks = resolved.checks();
        assert_eq!(checks[0].conditions.alias_generation, generation);
        assert_eq!(checks[0].conditions.request_alias.is_some(), generation.is_some());
        assert_eq!(checks[0].conditions.resource_aliases.len(), 1);
        assert_eq!(resolved.alias_generation(), None, "the record tells it of ciphertexts only");
    }
}

#[tokio::test]
async fn a_key_of_the_history_that_is_gone_is_an_invalid_ciphertext() {
    let (_dir, store) = store(vec![stay(1, AliasHistory::BY_ROTATE)]).await;
    let mut deleting = key(1);
    deleting.lifecycle = Lifecycle::Deleting;
    for write in [Write::PutKey(deleting), Write::DeleteKey(key_id(1))] {
        put(&store, vec![write]).await;
        let tokens = GrantTokenKey::in_test();
        let refused =
            resolve(decrypt("alias/app", 1), "root", store.snapshot(), &here(), HISTORY, key_id(999), &tokens);
        assert_eq!(refused.unwrap_err(), OpError::InvalidCiphertext);
    }
}

fn grant(key: u16, digit: &str) -> GrantRecord {
    let owner = |name: &str| crate::store::GrantPrincipal::Aws { arn: name.to_owned(), id: None };
    GrantRecord {
        id: digit.repeat(64).parse().unwrap(),
        key: key_id(key),
        issuing_account: account(),
        grantee: owner("a"),
        retiring: Some(owner("b")),
        operations: vec![crate::ids::spec::GrantOperation::Decrypt],
        constraints: crate::store::GrantConstraints::default(),
        name: None,
        created: 1,
    }
}

fn retire(token: Option<&str>, key: Option<&str>, grant: Option<&str>) -> Task {
    Task::Kms(Request::RetireGrant(Box::new(crate::ops::RetireGrant {
        token: token.map(str::to_owned),
        key: key.map(|key| KeyIdText(key.to_owned())),
        grant: grant.map(str::to_owned),
        dry_run: false,
    })))
}

#[tokio::test]
async fn a_grant_to_retire_is_named_by_its_token_or_by_key_and_id() {
    let (_dir, store) = store(vec![]).await;
    let tokens = GrantTokenKey::in_test();
    let foreign = KeyRecord { account: "444455556666".parse().unwrap(), ..key(4) };
    let abroad = here().of(&foreign.account);
    put(&store, vec![Write::PutGrant(grant(1, "a")), Write::PutGrant(grant(4, "b")), Write::PutKey(foreign)]).await;
    let find = |task| resolve(task, "root", store.snapshot(), &here(), HISTORY, key_id(999), &tokens);
    let (own, theirs) = (here().key_arn(&key_id(1)), abroad.key_arn(&key_id(4)));
    let (a, b, c) = ("a".repeat(64), "b".repeat(64), "c".repeat(64));
    let token = |key: u16, id: &str| tokens.make(key_id(key), &id.parse().unwrap(), [0; 16]).unwrap();
    let (token_a, token_b, gone) = (token(1, &a), token(4, &b), token(1, &c));
    for (task, arn, id) in [
        (retire(Some(&token_a), None, None), &own, &a),
        (retire(None, Some(&own), Some(&a)), &own, &a),
        (retire(None, Some(&key_id(1).to_string()), Some(&a)), &own, &a),
        // Across accounts, by token and by ARN.
        (retire(Some(&token_b), None, None), &theirs, &b),
        (retire(None, Some(&theirs), Some(&b)), &theirs, &b),
    ] {
        let resolved = find(task).unwrap();
        let Subject::Grant { key, grant } = resolved.subject() else { panic!("{resolved:?}") };
        assert_eq!((&key.arn, grant.id.as_str()), (arn, id.as_str()));
        let checks = resolved.checks();
        assert!(matches!(
            checks.as_slice(),
            [crate::authz::Check {
                action: "kms:RetireGrant",
                asks: crate::authz::evaluate::Asks::RetireGrant { .. },
                ..
            }]
        ));
        assert_eq!(resolved.resources(), [("AWS::KMS::Key", arn.as_str())]);
    }
    let either = OpError::Validation("Specify either a grant token, or both a key id and a grant id.".to_owned());
    for (task, error) in [
        (retire(Some(&gone), None, None), OpError::InvalidGrantToken),
        (retire(Some("x"), None, None), OpError::InvalidGrantToken),
        (retire(None, Some(&own), Some(&c)), OpError::GrantNotFound(c.clone())),
        (retire(None, Some(&own), Some("g")), OpError::InvalidGrantId("g".to_owned())),
        (retire(None, Some("x"), Some(&a)), OpError::InvalidKeyId("x".to_owned())),
        (
            retire(None, Some(&here().key_arn(&key_id(9))), Some(&a)),
            OpError::KeyNotFound { arn: here().key_arn(&key_id(9)) },
        ),
        (retire(Some(&token_a), Some(&own), Some(&a)), either.clone()),
        (retire(None, Some(&own), None), either.clone()),
        (retire(None, None, Some(&a)), either.clone()),
        (retire(None, None, None), either),
    ] {
        assert_eq!(find(task).unwrap_err(), error);
    }
    // A key that is not there and one without such a grant are the same to another account.
    for arn in [&theirs, &abroad.key_arn(&key_id(9))] {
        let resolved = find(retire(None, Some(arn), Some(&a))).unwrap();
        assert!(matches!(resolved.subject(), Subject::Foreign { .. }));
    }
}

#[tokio::test]
async fn grant_tokens_name_grants_of_ours() {
    let (_dir, store) = store(vec![]).await;
    let tokens = GrantTokenKey::in_test();
    put(&store, vec![Write::PutGrant(grant(1, "a")), Write::PutGrant(grant(2, "b"))]).await;
    let token = |key: u16, digit: &str| tokens.make(key_id(key), &digit.repeat(64).parse().unwrap(), [0; 16]).unwrap();
    let describe = |grant_tokens: &[&str]| {
        let grant_tokens = grant_tokens.iter().map(|token| (*token).to_owned()).collect();
        let task = Task::Kms(Request::DescribeKey { key: KeyIdText(key_id(1).to_string()), grant_tokens });
        resolve(task, "root", store.snapshot(), &here(), HISTORY, key_id(999), &tokens).map(drop)
    };
    let (own, other, gone) = (token(1, "a"), token(2, "b"), token(1, "b"));
    assert_eq!(describe(&[]), Ok(()));
    assert_eq!(describe(&[&own, &other, &own]), Ok(()), "one for another key does no harm");
    for wrong in [&[gone.as_str()][..], &[&own, "x"]] {
        assert_eq!(describe(wrong), Err(OpError::InvalidGrantToken));
    }
    put(&store, vec![Write::DeleteGrant(key_id(1), "a".repeat(64).parse().unwrap())]).await;
    assert_eq!(describe(&[&own]), Err(OpError::InvalidGrantToken));
}

#[tokio::test]
async fn a_bad_grant_token_does_not_tell_what_exists_in_another_account() {
    let abroad = here().of(&"444455556666".parse().unwrap());
    let theirs = crate::store::KeyRecord { account: abroad.account.clone(), ..key(4) };
    let (_dir, store) = store(vec![]).await;
    put(&store, vec![Write::PutKey(theirs)]).await;
    let describe = |id: u16| {
        let key = KeyIdText(abroad.key_arn(&key_id(id)));
        let task = Task::Kms(Request::DescribeKey { key, grant_tokens: vec!["x".to_owned()] });
        resolve(task, "root", store.snapshot(), &here(), HISTORY, key_id(999), &GrantTokenKey::in_test()).map(drop)
    };
    assert_eq!((describe(4), describe(9)), (Err(OpError::InvalidGrantToken), Err(OpError::InvalidGrantToken)));
}

#[tokio::test]
async fn retirable_grants_are_those_of_a_principal_of_the_own_account() {
    let (_dir, store) = store(vec![]).await;
    let find = |retiring: &str| {
        let retiring = crate::ops::GrantPrincipalText::Principal(retiring.to_owned());
        let task = Task::Kms(Request::ListRetirableGrants { retiring, page: crate::ops::Page::default() });
        resolve(task, "root", store.snapshot(), &here(), HISTORY, key_id(999), &GrantTokenKey::in_test())
    };
    assert!(matches!(find("arn:aws:iam::111122223333:user/a").unwrap().subject(), Subject::Account));
    assert!(matches!(find("arn:aws:iam::444455556666:user/a").unwrap().subject(), Subject::Foreign { .. }));
    assert_eq!(find("alice").unwrap_err(), OpError::MalformedArn("alice".to_owned()));
}
