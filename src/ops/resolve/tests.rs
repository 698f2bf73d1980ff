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
    resolve(task, "root", store.snapshot(), &here(), history, key_id(999)).unwrap()
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
        let refused = resolve(decrypt("alias/app", 1), "root", store.snapshot(), &here(), HISTORY, key_id(999));
        assert_eq!(refused.unwrap_err(), OpError::InvalidCiphertext);
    }
}
