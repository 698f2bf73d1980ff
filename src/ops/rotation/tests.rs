use super::commit::Commit;
use super::history::dropped;
use super::*;
use crate::authz::{Checks, Resource};
use crate::ids::{AliasName, Locality};
use crate::ops::{Request, RotateAlias};
use crate::store::testing::{account, alias, key, key_id, new_store, put};
use crate::store::{AliasHistory, Store, Write};

const NOW: i64 = 1_800_000_000_000;
const HOUR: i64 = 3_600_000;

fn here() -> Locality {
    Locality { account: account(), region: "eu-central-1".parse().unwrap() }
}

fn name(text: &str) -> AliasName {
    text.parse().unwrap()
}

fn request(client_token: Option<&str>) -> RotateAlias {
    RotateAlias {
        alias: name("alias/app"),
        key_spec: None,
        reason: Some("yearly".to_owned()),
        grants: None,
        client_token: client_token.map(str::to_owned),
    }
}

/// Keys 1 and 2; `alias/app` and `alias/other` at key 1.
async fn store() -> (tempfile::TempDir, Store) {
    let (dir, store) = new_store().await;
    let writes = [Write::PutKey(key(1)), Write::PutKey(key(2))]
        .into_iter()
        .chain(["alias/app", "alias/other"].map(|name| Write::PutAlias(alias(name, key_id(1)))));
    put(&store, writes.collect()).await;
    (dir, store)
}

fn subject(store: &Store, token: Option<&str>, new: u16) -> RotationSubject {
    resolve(request(token), "root", &store.snapshot(), &here(), key_id(new)).unwrap()
}

fn finished(subject: &RotationSubject) -> KeyRecord {
    let made = key(9).materials;
    KeyRecord { lifecycle: Lifecycle::Enabled, materials: made, created: NOW, ..subject.new.record.as_ref().clone() }
}

async fn commit(store: &Store, subject: &RotationSubject, now: i64) -> Result<RotationDone, OpError> {
    let (writes, done) = Commit::new(subject, finished(subject), now).writes(&store.snapshot())?;
    put(store, writes).await;
    Ok(done)
}

#[tokio::test]
async fn the_new_key_is_as_the_old_one_and_the_alias_remembers() {
    let (_dir, store) = store().await;
    let done = commit(&store, &subject(&store, None, 7), NOW).await.unwrap();
    assert_eq!((done.aliases, done.at), (vec![name("alias/app")], NOW));
    assert_eq!((done.old_key_arn, done.new_key_arn), (here().key_arn(&key_id(1)), here().key_arn(&key_id(7))));
    let snapshot = store.snapshot();
    let (old, new) = (&snapshot.keys[&key_id(1)], &snapshot.keys[&key_id(7)]);
    assert_eq!((&new.policy, &new.tags, &new.description), (&old.policy, &old.tags, &old.description));
    assert_eq!((new.spec, new.usage, &new.key_store), (old.spec, old.usage, &old.key_store));
    assert_eq!(new.provenance, crate::store::Provenance::Rotated { from: key_id(1) });
    let moved = &snapshot.aliases[&(here().account, name("alias/app"))];
    assert_eq!((moved.target, moved.updated, moved.created), (key_id(7), NOW, 1));
    let stay = AliasHistory { key: key_id(1), from: 2, until: NOW, ended_by: "rotate".into(), dropped: None };
    assert_eq!(moved.history, [stay]);
    assert_eq!(snapshot.aliases[&(here().account, name("alias/other"))].target, key_id(1), "other aliases stay");
    assert!(snapshot.rotations.is_empty());
}

#[tokio::test]
async fn what_is_not_as_it_was_authorised_is_not_changed() {
    let (_dir, store) = store().await;
    let asked = subject(&store, None, 7);
    let changed = |edit: fn(&mut KeyRecord)| {
        let mut record = key(1);
        edit(&mut record);
        Write::PutKey(record)
    };
    let same = || changed(|_| {});
    for (meanwhile, refusal) in [
        (Write::PutAlias(alias("alias/app", key_id(2))), OpError::Throttled),
        (Write::DeleteAlias(here().account, name("alias/app")), OpError::Throttled),
        (changed(|r| r.policy = "{}".into()), OpError::Throttled),
        (changed(|r| r.tags.clear()), OpError::Throttled),
        (changed(|r| r.lifecycle = Lifecycle::Disabled), OpError::Throttled),
        (
            changed(|r| r.lifecycle = Lifecycle::PendingDeletion { deletion_date: NOW }),
            OpError::PendingDeletion { arn: here().key_arn(&key_id(1)) },
        ),
        (Write::DeleteKey(key_id(1)), OpError::KeyNotFound { arn: here().key_arn(&key_id(1)) }),
    ] {
        put(&store, vec![meanwhile.clone()]).await;
        assert_eq!(commit(&store, &asked, NOW).await.unwrap_err(), refusal, "{meanwhile:?}");
        assert!(!store.snapshot().keys.contains_key(&key_id(7)));
        put(&store, vec![same(), Write::PutAlias(alias("alias/app", key_id(1)))]).await;
    }
    commit(&store, &asked, NOW).await.unwrap();
}

#[tokio::test]
async fn the_usage_timer_moves_every_alias_of_the_key() {
    let (_dir, store) = store().await;
    let asked = resolve_key(&key_id(1), &store.snapshot(), &here(), key_id(7)).unwrap();
    commit(&store, &asked, NOW).await.unwrap();
    let snapshot = store.snapshot();
    assert_eq!(snapshot.aliases_of[&key_id(7)], [name("alias/app"), name("alias/other")]);
    assert!(snapshot.aliases_of.get(&key_id(1)).is_none());
    assert!(matches!(resolve_key(&key_id(1), &snapshot, &here(), key_id(8)), Err(OpError::InvalidState(_))));
}

#[tokio::test]
async fn a_client_token_gives_the_first_answer_also_when_the_alias_moved_on() {
    let (_dir, store) = store().await;
    let (first, at_once) = (subject(&store, Some("t"), 7), subject(&store, Some("t"), 8));
    assert!(first.earlier.is_none());
    commit(&store, &first, NOW).await.unwrap();
    assert_eq!(commit(&store, &at_once, NOW).await.unwrap_err(), OpError::Throttled);
    put(&store, vec![Write::PutAlias(alias("alias/app", key_id(2)))]).await;
    let again = subject(&store, Some("t"), 8);
    assert_eq!((again.old.record.id, again.new.record.id), (key_id(1), key_id(7)));
    assert_eq!(again.earlier.unwrap().at, NOW);
    let other =
        resolve(RotateAlias { reason: None, ..request(Some("t")) }, "root", &store.snapshot(), &here(), key_id(8));
    assert!(other.unwrap().earlier.is_none(), "another request");
    assert!(subject(&store, Some("u"), 8).earlier.is_none(), "another token");
}

#[tokio::test]
async fn a_client_token_is_its_principals() {
    let (_dir, store) = store().await;
    let of = |who: &str, new| resolve(request(Some("nightly")), who, &store.snapshot(), &here(), key_id(new)).unwrap();
    let first = of("one", 7);
    commit(&store, &first, NOW).await.unwrap();
    let other = of("two", 8);
    assert!(other.earlier.is_none(), "another's answer");
    commit(&store, &other, NOW + 1).await.unwrap();
    let told = [of("one", 9), of("two", 9)].map(|again| (again.old.record.id, again.new.record.id));
    assert_eq!(told, [(key_id(1), key_id(7)), (key_id(7), key_id(8))]);
}

#[tokio::test]
async fn client_tokens_are_kept_for_a_day_and_then_go() {
    let (_dir, store) = store().await;
    commit(&store, &subject(&store, Some("one"), 10), NOW).await.unwrap();
    commit(&store, &subject(&store, Some("two"), 11), NOW + 24 * HOUR).await.unwrap();
    assert_eq!(store.snapshot().rotations.size(), 2, "not a moment too early");
    commit(&store, &subject(&store, None, 12), NOW + 24 * HOUR + 1).await.unwrap();
    let snapshot = store.snapshot();
    let left: Vec<_> = snapshot.rotations.values().map(|record| record.at).collect();
    assert_eq!(left, [NOW + 24 * HOUR], "the second");
}

#[test]
fn each_member_of_a_request_counts() {
    let base = request(None);
    let variants = [
        base.clone(),
        RotateAlias { alias: name("alias/app2"), ..base.clone() },
        RotateAlias { key_spec: Some(KeySpec::SymmetricDefault), ..base.clone() },
        RotateAlias { reason: None, ..base.clone() },
        RotateAlias { reason: Some(String::new()), ..base.clone() },
        RotateAlias { reason: Some("yearl".into()), ..base.clone() },
        RotateAlias { grants: Some(RotateGrants::Carry), ..base.clone() },
        RotateAlias { grants: Some(RotateGrants::Leave), ..base.clone() },
    ];
    let prints: std::collections::BTreeSet<_> = variants.iter().map(subject::fingerprint).collect();
    assert_eq!(prints.len(), variants.len());
    let token = RotateAlias { client_token: Some("t".into()), ..base.clone() };
    assert_eq!(
        subject::fingerprint(&base),
        subject::fingerprint(&token),
        "the token is not part of what it stands for"
    );
}

#[tokio::test]
async fn grants_are_carried_or_left_as_was_said() {
    use crate::ids::spec::GrantOperation;
    use crate::store::{GrantConstraints, GrantPrincipal, GrantRecord};
    let (_dir, store) = store().await;
    let grant = |digit: &str, key| GrantRecord {
        id: digit.repeat(64).parse().unwrap(),
        key,
        issuing_account: account(),
        grantee: GrantPrincipal::Aws { arn: "arn:aws:iam::111122223333:user/a".into(), id: Some("AIDA1".into()) },
        retiring: Some(GrantPrincipal::Aws { arn: "arn:aws:iam::111122223333:root".into(), id: None }),
        operations: vec![GrantOperation::Decrypt],
        constraints: GrantConstraints { source_arn: Some("arn".into()), ..GrantConstraints::default() },
        name: Some("n".into()),
        created: 1,
    };
    let old = [grant("a", key_id(1)), grant("b", key_id(1))];
    let others = grant("c", key_id(2));
    let writes = old.iter().chain([&others]).map(|grant| Write::PutGrant(grant.clone()));
    put(&store, writes.collect()).await;
    let back = || put(&store, vec![Write::PutAlias(alias("alias/app", key_id(1)))]);
    let asked = |grants, new| RotationSubject { grants, ..subject(&store, None, new) };
    // Nobody was asked: they came after the refusal had been looked for.
    assert_eq!(commit(&store, &asked(None, 7), NOW).await.unwrap_err(), OpError::Throttled);
    commit(&store, &asked(Some(RotateGrants::Leave), 7), NOW).await.unwrap();
    assert_eq!(live_grants(&store.snapshot(), &key_id(7)), 0);
    back().await;
    commit(&store, &asked(Some(RotateGrants::Carry), 8), NOW).await.unwrap();
    let snapshot = store.snapshot();
    assert_eq!((live_grants(&snapshot, &key_id(1)), live_grants(&snapshot, &key_id(8))), (2, 2));
    for carried in snapshot.grants_of(key_id(8)) {
        assert!(old.iter().all(|grant| grant.id != carried.id), "ids are never used again");
        assert_eq!((carried.key, carried.created), (key_id(8), NOW));
        assert_eq!(
            GrantRecord { id: old[0].id.clone(), key: key_id(1), created: 1, ..carried.as_ref().clone() },
            old[0]
        );
    }
    back().await;
    let carry = RotateAlias { grants: Some(RotateGrants::Carry), ..request(None) };
    let carry = resolved(&store, crate::ops::Task::Kms(Request::RotateAlias(carry)));
    let new = here().key_arn(&key_id(7));
    let of_grants = |check: &crate::authz::Check<'_>| {
        check.action == "kms:CreateGrant" && matches!(&check.resource, Resource::Key { arn, .. } if *arn == new)
    };
    assert!(carry.checks().iter().any(of_grants));
    let leave = RotateAlias { grants: Some(RotateGrants::Leave), ..request(None) };
    let leave = resolved(&store, crate::ops::Task::Kms(Request::RotateAlias(leave)));
    assert!(!leave.checks().iter().any(of_grants));
}

#[tokio::test]
async fn everything_that_a_rotation_does_is_asked_for() {
    let (_dir, store) = store().await;
    let asked = |tags: bool| {
        let mut record = key(1);
        if !tags {
            record.tags.clear();
        }
        record
    };
    for tags in [true, false] {
        put(&store, vec![Write::PutKey(asked(tags))]).await;
        let resolved = resolved(&store, crate::ops::Task::Kms(Request::RotateAlias(request(None))));
        let checks: Vec<_> = resolved
            .checks()
            .iter()
            .map(|check| {
                let on = match &check.resource {
                    Resource::Any => "*".to_owned(),
                    Resource::Alias { arn, .. } => (*arn).to_owned(),
                    Resource::Key { arn, record } => {
                        assert!(arn.ends_with(&record.id.to_string()));
                        assert_eq!(record.policy, key(1).policy, "the new key has the policy that it would have");
                        (*arn).to_owned()
                    }
                    other => panic!("{other:?}"),
                };
                (check.action, on)
            })
            .collect();
        let mut expected = vec![("kms:CreateKey", "*".to_owned())];
        if tags {
            expected.push(("kms:TagResource", "*".to_owned()));
        }
        expected.push(("kms:UpdateAlias", here().alias_arn(&name("alias/app"))));
        expected.push(("kms:UpdateAlias", here().key_arn(&key_id(1))));
        expected.push(("kms:UpdateAlias", here().key_arn(&key_id(7))));
        assert_eq!(checks, expected);
        let listed: Vec<_> = resolved.resources().into_iter().map(|(_, arn)| arn.to_owned()).collect();
        assert_eq!(listed, expected[expected.len() - 3..].iter().map(|(_, arn)| arn.clone()).collect::<Vec<_>>());
    }
}

fn resolved(store: &Store, task: crate::ops::Task) -> Resolved {
    let tokens = crate::ops::grants::GrantTokenKey::in_test();
    crate::ops::resolve::resolve(task, "root", store.snapshot(), &here(), true, key_id(7), &tokens).unwrap()
}

#[test]
fn earlier_keys_are_dropped_and_the_current_one_is_not() {
    let stay = |n| AliasHistory { key: key_id(n), from: 1, until: 2, ended_by: "rotate".into(), dropped: None };
    let mut record = alias("alias/app", key_id(2));
    record.history = vec![stay(1), stay(2), stay(1), stay(3)];
    let (after, entries) = dropped(&record, key_id(1), 5).unwrap();
    assert_eq!(entries, 2);
    let when: Vec<_> = after.history.iter().map(|entry| entry.dropped).collect();
    assert_eq!(when, [Some(5), None, Some(5), None]);
    assert_eq!((after.target, after.updated), (record.target, record.updated));
    for key in [key_id(2), key_id(4)] {
        assert!(matches!(dropped(&record, key, 5), Err(OpError::Validation(_))), "{key}");
    }
    assert!(matches!(dropped(&after, key_id(1), 6), Err(OpError::Validation(_))), "dropped before");
}

#[test]
fn a_policy_that_names_the_old_key_does_not_lock_the_new_one() {
    let (old, new) = (here().key_arn(&key_id(1)), here().key_arn(&key_id(7)));
    let statement = |resource: &str| {
        format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::111122223333:root"}},
                "Action":"kms:*","Resource":"{resource}"}}]}}"#
        )
    };
    let fits = |policy: String| policy_fits(&KeyRecord { policy: policy.as_str().into(), ..key(1) }, &old, &new);
    assert_eq!(fits(statement("*")), Ok(()));
    assert!(matches!(fits(statement(&old)), Err(OpError::MalformedPolicy(_))));
    assert_eq!(fits(key(1).policy.text().to_string()), Ok(()), "locked before");
}

#[tokio::test]
async fn the_service_rotates_an_aws_managed_key_to_one_of_the_same_service() {
    let (_dir, store) = store().await;
    let service: crate::ids::ServiceName = "s3.internal.example".parse().unwrap();
    let managed = KeyRecord { managed_by: Some(service.clone()), ..key(3) };
    put(&store, vec![Write::PutKey(managed), Write::PutAlias(alias("alias/aws/s3", key_id(3)))]).await;
    let subject = resolve_key(&key_id(3), &store.snapshot(), &here(), key_id(7)).unwrap();
    assert_eq!(subject.aliases.len(), 1);
    assert_eq!(subject.new.record.managed_by, Some(service));
}
