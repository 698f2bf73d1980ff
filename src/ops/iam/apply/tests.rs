use super::*;
use crate::ids::PolicyDocument;
use crate::ops::iam::{GroupSpec, PolicySpec, RoleSpec, UserSpec};
use crate::store::DeploymentRecord;

const OWN: &str = "111122223333";
const ALLOW: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}"#;

fn own() -> AccountId {
    OWN.parse().unwrap()
}

fn world() -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.apply(Write::PutDeployment(DeploymentRecord {
        id: "d".to_owned(),
        account: own(),
        region: "us-east-1".parse().unwrap(),
        created: 1,
        made_by: "init".to_owned(),
    }));
    snapshot
}

fn user(name: &str, groups: &[&str], attached: &[&str]) -> IamChange {
    IamChange::PutUser(UserSpec {
        account: own(),
        name: name.parse().unwrap(),
        path: "/".parse().unwrap(),
        tags: Vec::new(),
        groups: groups.iter().map(|name| name.parse().unwrap()).collect(),
        attached: attached.iter().map(|name| arn(name).parse().unwrap()).collect(),
        inline: Default::default(),
        boundary: None,
    })
}

fn group(name: &str, attached: &[&str]) -> IamChange {
    IamChange::PutGroup(GroupSpec {
        account: own(),
        name: name.parse().unwrap(),
        path: "/".parse().unwrap(),
        attached: attached.iter().map(|name| arn(name).parse().unwrap()).collect(),
        inline: Default::default(),
    })
}

fn role(name: &str, path: &str, trusted: &str) -> IamChange {
    let trust = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": { "AWS": format!("arn:aws:iam::{OWN}:{trusted}") }, "Action": "sts:AssumeRole",
    }]});
    IamChange::PutRole(RoleSpec {
        account: own(),
        name: name.parse().unwrap(),
        path: path.parse().unwrap(),
        description: String::new(),
        trust: trust.to_string(),
        max_session_seconds: 3_600,
        tags: Vec::new(),
        attached: Vec::new(),
        inline: Default::default(),
        boundary: None,
    })
}

fn arn(policy: &str) -> String {
    format!("arn:aws:iam::{OWN}:policy/{policy}")
}

fn policy(name: &str, document: &str) -> IamChange {
    IamChange::PutPolicy(PolicySpec {
        arn: arn(name).parse().unwrap(),
        description: String::new(),
        document: document.to_owned(),
    })
}

/// All kinds of the own account are managed.
fn folder(puts: &[IamChange]) -> IamApply {
    let kinds = [IamKind::User, IamKind::Group, IamKind::Role, IamKind::Policy];
    let managed = kinds.into_iter().map(|kind| IamManaged { kind, account: Some(own()) }).collect();
    let entities = puts.iter().map(|put| IamEntity { file: "file.json".to_owned(), put: put.clone() }).collect();
    let desired = IamDesired { source: String::new(), entities, managed };
    IamApply { desired, dry_run: false, prune: false, shown: None }
}

fn pruned(puts: &[IamChange]) -> IamApply {
    IamApply { prune: true, ..folder(puts) }
}

/// `create user alice`, in the order in which it is done.
fn apply(snapshot: &mut Snapshot, wanted: &IamApply) -> Result<Vec<String>, String> {
    let difference = Difference::between(snapshot, wanted, 7).map_err(|error| error.to_string())?;
    for write in difference.writes {
        snapshot.apply(write);
    }
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
    let name = |entry: &Value| text(entry, "Name").rsplit('/').next().unwrap().to_owned();
    Ok(difference
        .told
        .iter()
        .map(|entry| format!("{} {} {}", text(entry, "Action"), text(entry, "Kind"), name(entry)))
        .collect())
}

#[test]
fn what_is_referred_to_comes_first_and_goes_last() {
    let mut snapshot = world();
    let all = [role("r", "/", "user/u"), user("u", &["g"], &["p"]), group("g", &["p"]), policy("p", ALLOW)];
    assert_eq!(
        apply(&mut snapshot, &folder(&all)).unwrap(),
        ["create policy p", "create group g", "create user u", "create role r"]
    );
    assert_eq!(apply(&mut snapshot, &pruned(&all)).unwrap(), [""; 0]);
    assert_eq!(apply(&mut snapshot, &folder(&[])).unwrap(), [""; 0], "nothing goes that nobody asked to go");
    assert_eq!(
        apply(&mut snapshot, &pruned(&[])).unwrap(),
        ["delete role r", "delete user u", "delete group g", "delete policy p"]
    );
}

#[test]
fn roles_trust_in_circles() {
    let mut snapshot = world();
    let all = [role("a", "/", "role/b"), role("b", "/", "role/a"), role("c", "/", "role/c")];
    apply(&mut snapshot, &folder(&all)).unwrap();
    let id = |name: &str, snapshot: &Snapshot| snapshot.role(&own(), &name.parse().unwrap()).unwrap().role_id.clone();
    for (name, trusted) in [("a", "b"), ("b", "a"), ("c", "c")] {
        let role = snapshot.role(&own(), &name.parse().unwrap()).unwrap();
        let bound: Vec<&String> = role.trust.principals().values().collect();
        assert_eq!(bound, [&id(trusted, &snapshot)], "role {name}");
    }
    assert_eq!(apply(&mut snapshot, &folder(&all)).unwrap(), [""; 0]);
    // Both ARNs change at once.
    let moved = [role("a", "/x/", "role/y/b"), role("b", "/y/", "role/x/a"), role("c", "/", "role/c")];
    assert_eq!(apply(&mut snapshot, &folder(&moved)).unwrap(), ["update role a", "update role b"]);
    assert_eq!(apply(&mut snapshot, &folder(&moved)).unwrap(), [""; 0]);
}

#[test]
fn a_role_that_trusts_its_account_is_not_lost_behind_what_stood_for_it() {
    let mut snapshot = world();
    let IamChange::PutRole(spec) = role("a", "/", "root") else { panic!() };
    let same_words = IamChange::PutRole(RoleSpec { trust: order::trusts_account(&own()), ..spec });
    assert_eq!(apply(&mut snapshot, &folder(&[same_words])).unwrap(), ["create role a"]);
}

#[test]
fn nobody_trusts_one_who_goes_with_the_same_change() {
    let mut snapshot = world();
    apply(&mut snapshot, &folder(&[user("u", &[], &[]), role("old", "/", "user/u")])).unwrap();
    let refused = apply(&mut snapshot, &pruned(&[role("old", "/", "user/u"), role("new", "/", "user/u")])).unwrap_err();
    assert!(refused.contains("file.json") && refused.contains("role new"), "{refused}");
    // One that is as it was may: its user is gone, and so is who could assume it.
    assert_eq!(apply(&mut snapshot, &pruned(&[role("old", "/", "user/u")])).unwrap(), ["delete user u"]);
    assert_eq!(apply(&mut snapshot, &pruned(&[role("old", "/", "user/u")])).unwrap(), [""; 0]);
    // Another one of that name is somebody else until the folder says it again.
    assert_eq!(
        apply(&mut snapshot, &folder(&[user("u", &[], &[]), role("old", "/", "user/u")])).unwrap(),
        ["create user u", "update role old"]
    );
}

#[test]
fn the_same_in_other_words_is_no_difference_and_the_first_words_stay() {
    let mut snapshot = world();
    let spaced = ALLOW.replace(':', " :\n ").replace("kms :\n ", "kms:");
    apply(&mut snapshot, &folder(&[policy("p", &spaced)])).unwrap();
    assert_eq!(apply(&mut snapshot, &folder(&[policy("p", ALLOW)])).unwrap(), [""; 0]);
    let text = |snapshot: &Snapshot| snapshot.policies.get(&arn("p").parse().unwrap()).unwrap().document.clone();
    assert_eq!(text(&snapshot), PolicyDocument::plain(spaced.as_str()));
    let twice = ALLOW.replace(r#""Effect":"Allow","#, r#""Effect":"Deny","Effect":"Allow","#);
    assert!(
        apply(&mut snapshot, &folder(&[policy("p", &twice)])).is_err(),
        "a member twice is refused, whatever it says"
    );
    assert_eq!(
        apply(&mut snapshot, &folder(&[policy("p", &ALLOW.replace("Allow", "Deny"))])).unwrap(),
        ["update policy p"]
    );
}

#[test]
fn a_difference_in_case_is_a_name_that_is_taken() {
    let mut snapshot = world();
    apply(&mut snapshot, &folder(&[user("u", &[], &[]), policy("p", ALLOW), group("g", &[]), role("r", "/", "root")]))
        .unwrap();
    for taken in [user("U", &[], &[]), policy("path/P", ALLOW), group("G", &[]), role("R", "/", "root")] {
        let refused = apply(&mut snapshot, &folder(&[taken])).unwrap_err();
        assert!(refused.contains("already exists"), "{refused}");
    }
    let both = apply(&mut world(), &folder(&[user("u", &[], &[]), user("U", &[], &[])])).unwrap_err();
    assert!(both.contains("already exists"), "{both}");
    assert_eq!(apply(&mut snapshot, &pruned(&[user("U", &[], &[])])).unwrap()[..2], ["delete role r", "delete user u"]);
}

#[test]
fn only_what_is_managed_goes() {
    let mut snapshot = world();
    let all = [user("u", &[], &[]), group("g", &[]), policy("p", ALLOW), role("r", "/", "root")];
    apply(&mut snapshot, &folder(&all)).unwrap();
    let mut wanted = pruned(&[]);
    wanted.desired.managed = [IamManaged { kind: IamKind::Group, account: Some(own()) }].into();
    assert_eq!(apply(&mut snapshot, &wanted).unwrap(), ["delete group g"]);
    for account in [Some("444455556666".parse().unwrap()), None] {
        let kinds = [IamKind::User, IamKind::Role, IamKind::Policy];
        wanted.desired.managed = kinds.into_iter().map(|kind| IamManaged { kind, account: account.clone() }).collect();
        assert_eq!(apply(&mut snapshot, &wanted).unwrap(), [""; 0], "{account:?}");
    }
}

#[test]
fn a_folder_deletes_nothing_by_name() {
    let mut snapshot = world();
    apply(&mut snapshot, &folder(&[user("u", &[], &[])])).unwrap();
    let delete = IamChange::DeleteUser { account: own(), name: "u".parse().unwrap() };
    assert!(apply(&mut snapshot, &folder(&[delete])).unwrap_err().contains("what shall go"));
}

#[test]
fn the_digest_is_the_differences_and_no_others() {
    let mut snapshot = world();
    let digest = |snapshot: &Snapshot, puts: &[IamChange], now| {
        Difference::between(snapshot, &folder(puts), now).unwrap().digest
    };
    let puts = [user("u", &[], &[]), role("r", "/", "user/u")];
    let first = digest(&snapshot, &puts, 7);
    assert_eq!(first, digest(&snapshot, &puts, 8), "times and new ids are no part of it");
    assert_ne!(first, digest(&snapshot, &puts[..1], 7));
    apply(&mut snapshot, &folder(&puts[..1])).unwrap();
    assert_ne!(first, digest(&snapshot, &puts, 7), "the role is bound to a user who is there");
    let bound = digest(&snapshot, &puts, 7);
    apply(&mut snapshot, &pruned(&[])).unwrap();
    apply(&mut snapshot, &folder(&puts[..1])).unwrap();
    assert_ne!(bound, digest(&snapshot, &puts, 7), "another user of the same name is another one");
}
