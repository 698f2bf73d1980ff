use serde_json::{Value, json};

use super::*;
use crate::ids::Locality;
use crate::ops::effective::effective;
use crate::ops::key_policy::testing::{self, ALICE, ALICE_ID, OPS, OPS_ID, ROOT};
use crate::store::testing::{account, alias, key, key_id};
use crate::store::{AccessKeyRecord, KeyRecord, Lifecycle, Owner, RoleRecord, Snapshot, UserRecord, Write};

fn here() -> Locality {
    Locality { account: account(), region: "eu-central-1".parse().unwrap() }
}

fn value(snapshot: &Snapshot) -> Value {
    serde_json::to_value(State::of(snapshot, &here(), 5)).unwrap()
}

fn access_key() -> AccessKeyRecord {
    AccessKeyRecord {
        id: "AKIAEXAMPLE000000001".parse().unwrap(),
        account: account(),
        owner: Owner::User("alice".parse().unwrap()),
        active: true,
        created: 1,
        wrapped_secret: b"canary-of-a-secret".to_vec(),
        last_used: None,
    }
}

/// What each transaction says makes the state before it the state after it.
#[test]
fn changes_lead_from_state_to_state() {
    let mut before = testing::snapshot();
    let mut replayed = value(&before);
    let tagged = KeyRecord { tags: Vec::new(), lifecycle: Lifecycle::PendingDeletion { deletion_date: 9 }, ..key(1) };
    let bound = PolicyDocument::new("{\"Statement\":[]}", [(ALICE.to_owned(), ALICE_ID.to_owned())].into());
    let alice = UserRecord { groups: vec!["ops".parse().unwrap()], ..crate::store::testing::user("alice", ALICE_ID) };
    let steps: Vec<Vec<Write>> = vec![
        vec![Write::PutKey(KeyRecord { lifecycle: Lifecycle::Creating, materials: Vec::new(), ..key(1) })],
        vec![Write::PutKey(key(1)), Write::PutAlias(alias("alias/app", key_id(1)))],
        vec![Write::PutKey(KeyRecord { policy: bound.clone(), policy_version: 2, ..key(1) })],
        vec![Write::PutKey(KeyRecord { policy: "{}".into(), policy_version: 3, ..key(1) })],
        vec![Write::PutKey(tagged), Write::PutAlias(alias("alias/app", key_id(2)))],
        vec![Write::PutAccessKey(access_key())],
        vec![Write::PutAccessKey(AccessKeyRecord { active: false, ..access_key() })],
        vec![Write::PutUser(alice)],
        vec![Write::DeleteUser(account(), "alice".parse().unwrap()), Write::DeleteKey(key_id(1))],
        vec![
            Write::DeleteAlias(account(), "alias/app".parse().unwrap()),
            Write::DeleteAccessKey("AKIAEXAMPLE000000001".parse().unwrap()),
        ],
    ];
    for (step, writes) in steps.into_iter().enumerate() {
        let parts = Parts::of(&before, &writes, &here());
        let mut after = before.clone();
        writes.into_iter().for_each(|write| after.apply(write));
        assert_eq!(parts.is_empty(), step == 0, "step {step}: only a key that is being made is no change");
        let mut recorded = Parts::default();
        recorded.and(parts, 7);
        let mut recorded = recorded.recorded();
        recorded.as_object_mut().unwrap().remove("storeVersion");
        apply(&mut replayed, &recorded);
        assert_eq!(replayed, value(&after), "step {step}: {recorded}");
        before = after;
    }
}

#[test]
fn a_state_is_read_back_and_holds_no_secret() {
    let mut snapshot = testing::snapshot();
    snapshot.apply(Write::PutKey(key(1)));
    snapshot.apply(Write::PutAccessKey(access_key()));
    let text = serde_json::to_string(&State::of(&snapshot, &here(), 5)).unwrap();
    for secret in ["canary", &hex::encode("canary-of-a-secret"), "wrapped"] {
        assert!(!text.contains(secret), "{secret}");
    }
    assert!(text.starts_with("{\"format\":1,\"time\":5,"));
    let back: State = serde_json::from_str(&text).unwrap();
    assert_eq!(back, State::of(&snapshot, &here(), 5));
    let again = State::of(&back.records(restore::Conditions::Kept), &here(), 5);
    assert_eq!(
        (&again.users, &again.roles, &again.keys[&key_id(1).to_string()].policy),
        (&back.users, &back.roles, &back.keys[&key_id(1).to_string()].policy)
    );
}

fn statement(who: &str, action: Value, condition: Option<Value>) -> Value {
    let mut statement = json!({ "Effect": "Allow", "Principal": { "AWS": who }, "Action": action, "Resource": "*" });
    if let Some(condition) = condition {
        statement["Condition"] = condition;
    }
    statement
}

/// Alice's rights on key 1 under a policy of these statements.
fn rights(statements: Vec<Value>) -> (Vec<(&'static str, bool)>, State) {
    let mut snapshot = testing::snapshot();
    let text = json!({ "Version": "2012-10-17", "Statement": statements }).to_string();
    let ids = [(ALICE.to_owned(), ALICE_ID.to_owned()), (OPS.to_owned(), OPS_ID.to_owned())].into();
    snapshot.apply(Write::PutKey(KeyRecord { policy: PolicyDocument::new(text, ids), ..key(1) }));
    let state = State::of(&snapshot, &here(), 5);
    let found = effective(&state, None, Some("user/alice"), 1_800_000_000_000);
    assert!(!found.cut);
    (found.permissions.iter().map(|p| (p.action, p.conditional)).collect(), state)
}

#[test]
fn permissions_are_those_of_requests_and_conditions_count_as_possible() {
    let account = statement(ROOT, json!("kms:*"), None);
    let (none, _) = rights(vec![account.clone()]);
    assert_eq!(none, []);
    let (plain, _) = rights(vec![statement(ALICE, json!(["kms:Decrypt", "kms:CreateGrant"]), None)]);
    assert_eq!(plain, [("kms:CreateGrant", false), ("kms:Decrypt", false)]);
    let from = json!({ "IpAddress": { "aws:SourceIp": "192.0.2.0/24" } });
    let (conditional, _) = rights(vec![statement(ALICE, json!("kms:Decrypt"), Some(from.clone()))]);
    assert_eq!(conditional, [("kms:Decrypt", true)]);
    let mut denied = statement(ALICE, json!("kms:Decrypt"), None);
    denied["Effect"] = json!("Deny");
    let (refused, _) = rights(vec![statement(ALICE, json!("kms:Decrypt"), None), denied.clone()]);
    assert_eq!(refused, [], "a Deny without condition holds");
    denied["Condition"] = from;
    let (avoidable, _) = rights(vec![statement(ALICE, json!("kms:Decrypt"), None), denied]);
    assert_eq!(avoidable, [("kms:Decrypt", false)]);
    let (everything, _) = rights(vec![statement(ALICE, json!("kms:*"), None)]);
    assert!(everything.contains(&(crate::ops::effective::ANY_ACTION, false)));
}

#[test]
fn roles_that_may_be_assumed_are_found() {
    let mut snapshot = testing::snapshot();
    let trust = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Principal": { "AWS": ALICE }, "Action": "sts:AssumeRole" },
    ] });
    let trust = PolicyDocument::new(trust.to_string(), [(ALICE.to_owned(), ALICE_ID.to_owned())].into());
    let role = snapshot.role(&account(), &"ops".parse().unwrap()).unwrap().as_ref().clone();
    snapshot.apply(Write::PutRole(RoleRecord { trust, ..role }));
    let state = State::of(&snapshot, &here(), 5);
    let found = effective(&state, None, None, 1_800_000_000_000);
    let who: Vec<(&str, &str)> = found.assumptions.iter().map(|a| (a.principal.as_str(), a.role.as_str())).collect();
    assert!(who.contains(&(ALICE, OPS)), "{who:?}");
}
