use super::organization::full_access;
use super::*;
use crate::ids::{AccessKeyId, GroupName, UserName};
use crate::ops::iam::{
    AccountSpec, GroupSpec, IamEdit, IamIdentity, IamTarget, OidcProviderSpec, PolicySpec, RoleSpec, ServiceSpec,
    UnitSpec, UserSpec, edited,
};
use crate::store::{AccessKeyRecord, DeploymentRecord, KeySource, Owner};

const OWN: &str = "111122223333";
const OTHER: &str = "444455556666";
const ALLOW: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}"#;

/// Accounts 111122223333 (the deployment's) and 444455556666.
struct World {
    snapshot: Snapshot,
    now: i64,
    made: u32,
}

impl World {
    fn new() -> World {
        let mut snapshot = Snapshot::default();
        snapshot.apply(Write::PutDeployment(DeploymentRecord {
            id: "d".to_owned(),
            account: account(OWN),
            region: "us-east-1".parse().unwrap(),
            created: 1,
            made_by: "init".to_owned(),
        }));
        let mut world = World { snapshot, now: 100, made: 0 };
        world.put(PutAccount(an_account(OTHER))).unwrap();
        world
    }

    /// Applies what the change writes; the text of a refusal.
    fn put(&mut self, change: IamChange) -> Result<Vec<Write>, String> {
        self.apply(|snapshot, now, mut ids| writes(snapshot, &change, now, &mut ids))
    }

    fn edit(&mut self, edit: IamEdit) -> Result<Vec<Write>, String> {
        self.apply(|snapshot, now, mut ids| {
            let (change, trust) = edited::change_of(snapshot, &account(OWN), &edit, &mut ids)?;
            writes_with(snapshot, &change, trust, now, &mut ids)
        })
    }

    fn apply(
        &mut self,
        decide: impl FnOnce(&Snapshot, i64, &mut dyn FnMut(IdKind) -> String) -> Result<Vec<Write>, OpError>,
    ) -> Result<Vec<Write>, String> {
        self.now += 1;
        let made = &mut self.made;
        let mut ids = |kind: IdKind| {
            *made += 1;
            match kind {
                IdKind::User => format!("AIDA{made}"),
                IdKind::Root => format!("r-{made:04}"),
                IdKind::Unit => format!("ou-{made:04}"),
                IdKind::Organization => format!("o-{made:04}"),
                other => format!("{other:?}{made}"),
            }
        };
        let writes = decide(&self.snapshot, self.now, &mut ids).map_err(|error| error.to_string())?;
        writes.iter().for_each(|write| self.snapshot.apply(write.clone()));
        Ok(writes)
    }

    fn access_key(&mut self, id: &str, owner: Owner) {
        self.snapshot.apply(Write::PutAccessKey(AccessKeyRecord {
            id: id.parse().unwrap(),
            account: account(OWN),
            owner,
            active: true,
            created: 1,
            wrapped_secret: vec![1],
            last_used: None,
        }));
    }

    fn user(&self, name: &str) -> crate::store::UserRecord {
        self.snapshot.user(&account(OWN), &user_name(name)).unwrap().as_ref().clone()
    }
}

use IamChange::*;

fn account(id: &str) -> AccountId {
    id.parse().unwrap()
}

fn user_name(name: &str) -> UserName {
    name.parse().unwrap()
}

fn group_name(name: &str) -> GroupName {
    name.parse().unwrap()
}

fn arn(text: &str) -> PolicyArn {
    text.parse().unwrap()
}

fn an_account(id: &str) -> AccountSpec {
    AccountSpec { id: account(id), name: "n".to_owned(), unit: None, service_control: Vec::new() }
}

fn a_user(name: &str) -> UserSpec {
    UserSpec {
        account: account(OWN),
        name: user_name(name),
        path: "/".parse().unwrap(),
        tags: Vec::new(),
        groups: Vec::new(),
        attached: Vec::new(),
        inline: Default::default(),
        boundary: None,
    }
}

fn a_group(name: &str) -> GroupSpec {
    GroupSpec {
        account: account(OWN),
        name: group_name(name),
        path: "/".parse().unwrap(),
        attached: Vec::new(),
        inline: Default::default(),
    }
}

fn trust(principal: &str) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{principal},"Action":"sts:AssumeRole"}}]}}"#
    )
}

fn a_role(name: &str, principal: &str) -> RoleSpec {
    RoleSpec {
        account: account(OWN),
        name: name.parse().unwrap(),
        path: "/".parse().unwrap(),
        description: String::new(),
        trust: trust(principal),
        max_session_seconds: 3600,
        tags: Vec::new(),
        attached: Vec::new(),
        inline: Default::default(),
        boundary: None,
    }
}

fn a_policy(name: &str) -> PolicySpec {
    PolicySpec {
        arn: arn(&format!("arn:aws:iam::{OWN}:policy/{name}")),
        description: String::new(),
        document: ALLOW.to_owned(),
    }
}

fn an_scp(name: &str) -> PolicySpec {
    PolicySpec { arn: service_control_arn(&name.parse().unwrap()), ..a_policy("x") }
}

fn a_unit(id: &str, parent: Option<&str>) -> UnitSpec {
    UnitSpec {
        id: id.to_owned(),
        name: id.to_owned(),
        organization: "o-example".to_owned(),
        parent: parent.map(str::to_owned),
        service_control: Vec::new(),
    }
}

fn a_provider(url: &str) -> OidcProviderSpec {
    OidcProviderSpec {
        account: account(OWN),
        url: url.to_owned(),
        client_ids: vec!["sts".to_owned()],
        algorithms: vec!["RS256".to_owned()],
        keys: KeySource::Static { jwks: r#"{"keys":[{"kty":"RSA"}]}"#.to_owned() },
    }
}

fn a_service(name: &str) -> ServiceSpec {
    ServiceSpec { name: name.parse().unwrap(), account: account(OWN), managed_key: None, may_act_for: Vec::new() }
}

fn tags(count: usize) -> Vec<(String, String)> {
    (0..count).map(|n| (format!("k{n}"), String::new())).collect()
}

fn inline(documents: &[(&str, String)]) -> std::collections::BTreeMap<crate::ids::PolicyName, String> {
    documents.iter().map(|(name, text)| (name.parse().unwrap(), text.clone())).collect()
}

/// A policy of this many characters that are no white space, and some that are.
fn of_size(size: usize) -> String {
    let text = |sid: &str| {
        format!(
            "{{\n  \"Statement\":[{{\"Sid\":\"{sid}\",\"Effect\":\"Allow\",\"Action\":\"kms:*\",\"Resource\":\"*\"}}]}}"
        )
    };
    let base = text("").chars().filter(|c| !c.is_ascii_whitespace()).count();
    text(&"x".repeat(size - base))
}

#[track_caller]
fn refused_with(result: Result<Vec<Write>, String>, part: &str) {
    let text = result.map(|writes| format!("allowed: {writes:?}")).unwrap_or_else(|text| text);
    assert!(text.contains(part) && !text.starts_with("allowed"), "`{part}` is wanted, told: {text}");
}

#[test]
fn users_keep_their_id_and_get_a_new_one_when_made_again() {
    let mut world = World::new();
    world.put(PutUser(a_user("alice"))).unwrap();
    let first = world.user("alice");
    assert_eq!(world.put(PutUser(a_user("alice"))).unwrap().len(), 0, "nothing to change");
    world.put(PutUser(UserSpec { tags: tags(1), ..a_user("alice") })).unwrap();
    let changed = world.user("alice");
    assert_eq!((changed.user_id, changed.created), (first.user_id.clone(), first.created));
    world.access_key("AKIAAAAAAAAAAAAAAAAA", Owner::User(user_name("alice")));
    world.access_key("AKIABAAAAAAAAAAAAAAA", Owner::User(user_name("bob")));
    world.put(DeleteUser { account: account(OWN), name: user_name("alice") }).unwrap();
    let left: Vec<&AccessKeyId> = world.snapshot.access_keys.keys().collect();
    assert_eq!(left.len(), 1, "alice's key is gone, bob's stays");
    world.put(PutUser(a_user("alice"))).unwrap();
    assert_ne!(world.user("alice").user_id, first.user_id);
    refused_with(world.put(DeleteUser { account: account(OWN), name: user_name("nobody") }), "cannot be found");
}

#[test]
fn what_a_user_may_not_be() {
    let mut world = World::new();
    world.put(PutUser(a_user("alice"))).unwrap();
    world.put(PutGroup(a_group("devs"))).unwrap();
    world.put(PutPolicy(a_policy("p"))).unwrap();
    let foreign = PolicySpec { arn: arn(&format!("arn:aws:iam::{OTHER}:policy/foreign")), ..a_policy("x") };
    world.put(PutPolicy(foreign.clone())).unwrap();
    world.put(PutPolicy(an_scp("scp"))).unwrap();
    for n in 0..11 {
        world.put(PutPolicy(a_policy(&format!("p{n}")))).unwrap();
        world.put(PutGroup(a_group(&format!("g{n}")))).unwrap();
    }
    let eleven: Vec<PolicyArn> = (0..11).map(|n| a_policy(&format!("p{n}")).arn).collect();
    let (missing, scp) = (a_policy("missing").arn, an_scp("scp").arn);
    let key = |key: &str, value: &str| vec![(key.to_owned(), value.to_owned())];
    let long = of_size(2_049);
    let half = || of_size(1_025);
    let base = || a_user("bob");
    let cases: Vec<(UserSpec, &str)> = vec![
        (a_user("ALICE"), "User with name alice already exists."),
        (UserSpec { account: account("999999999999"), ..base() }, "there is no account"),
        (UserSpec { groups: vec![group_name("ops")], ..base() }, "The group with name ops cannot be found."),
        (UserSpec { groups: vec![group_name("devs"), group_name("devs")], ..base() }, "is there twice"),
        (UserSpec { groups: (0..11).map(|n| group_name(&format!("g{n}"))).collect(), ..base() }, "GroupsPerUser: 10"),
        (UserSpec { attached: vec![missing.clone()], ..base() }, "does not exist or is not attachable"),
        (UserSpec { attached: vec![foreign.arn.clone()], ..base() }, "does not exist or is not attachable"),
        (UserSpec { attached: vec![scp.clone()], ..base() }, "does not exist or is not attachable"),
        (UserSpec { attached: eleven, ..base() }, "Cannot exceed quota for PoliciesPerUser: 10"),
        (UserSpec { boundary: Some(missing), ..base() }, "does not exist or is not attachable"),
        (UserSpec { boundary: Some(scp), ..base() }, "does not exist or is not attachable"),
        (UserSpec { tags: tags(51), ..base() }, "maximum limit of 50"),
        (UserSpec { tags: key("", "v"), ..base() }, "1 to 128 characters"),
        (UserSpec { tags: key(&"k".repeat(129), "v"), ..base() }, "1 to 128 characters"),
        (UserSpec { tags: key("k", &"v".repeat(257)), ..base() }, "256 at most"),
        (UserSpec { tags: key("AWS:x", "v"), ..base() }, "reserved"),
        (UserSpec { tags: key("k", "a<b"), ..base() }, "only letters"),
        (UserSpec { tags: [key("Team", "a"), key("team", "b")].concat(), ..base() }, "Duplicate tag keys"),
        (UserSpec { inline: inline(&[("a", long)]), ..base() }, "Maximum policy size of 2048"),
        (UserSpec { inline: inline(&[("a", half()), ("b", half())]), ..base() }, "Maximum policy size of 2048"),
        (UserSpec { inline: inline(&[("a", "{".to_owned())]), ..base() }, "Syntax errors in policy."),
        (UserSpec { inline: inline(&[("a", trust("\"*\""))]), ..base() }, "should not specify a principal"),
    ];
    for (spec, text) in cases {
        refused_with(world.put(PutUser(spec)), text);
    }
    let most = UserSpec {
        inline: inline(&[("a", of_size(1_024)), ("b", of_size(1_024))]),
        tags: tags(50),
        attached: (0..9)
            .map(|n| a_policy(&format!("p{n}")).arn)
            .chain([arn("arn:aws:iam::aws:policy/ReadOnlyAccess")])
            .collect(),
        groups: (0..10).map(|n| group_name(&format!("g{n}"))).collect(),
        boundary: Some(a_policy("p").arn),
        ..base()
    };
    world.put(PutUser(most)).unwrap();
    let elsewhere = UserSpec { account: account(OTHER), ..a_user("alice") };
    world.put(PutUser(elsewhere)).expect("names are unique in their account only");
}

#[test]
fn groups_and_policies_in_use_stay() {
    let mut world = World::new();
    world.put(PutGroup(a_group("devs"))).unwrap();
    refused_with(world.put(PutGroup(a_group("Devs"))), "Group with name devs already exists.");
    let too_long = GroupSpec { inline: inline(&[("a", of_size(5_121))]), ..a_group("g") };
    refused_with(world.put(PutGroup(too_long)), "Maximum policy size of 5120");
    world.put(PutGroup(GroupSpec { inline: inline(&[("a", of_size(5_120))]), ..a_group("g") })).unwrap();
    world.put(PutUser(UserSpec { groups: vec![group_name("devs")], ..a_user("alice") })).unwrap();
    let delete = || DeleteGroup { account: account(OWN), name: group_name("devs") };
    refused_with(world.put(delete()), "must remove users from group first");
    world.put(PutUser(a_user("alice"))).unwrap();
    world.put(delete()).unwrap();

    world.put(PutPolicy(a_policy("p"))).unwrap();
    refused_with(world.put(PutPolicy(a_policy("P"))), "A policy with name p already exists.");
    refused_with(world.put(PutPolicy(PolicySpec { arn: a_policy("a/P").arn, ..a_policy("x") })), "already exists");
    refused_with(world.put(PutPolicy(PolicySpec { document: of_size(6_145), ..a_policy("q") })), "6144");
    world.put(PutPolicy(PolicySpec { document: of_size(6_144), ..a_policy("q") })).unwrap();
    refused_with(world.put(PutPolicy(PolicySpec { document: of_size(5_121), ..an_scp("s") })), "5120");
    for wrong in [
        "arn:aws:iam::aws:policy/AdministratorAccess",
        "arn:aws:iam::aws:policy/New",
        "arn:aws:organizations::aws:policy/service_control_policy/FullAWSAccess",
    ] {
        refused_with(world.put(PutPolicy(PolicySpec { arn: arn(wrong), ..a_policy("x") })), "is built in");
        refused_with(world.put(DeletePolicy { arn: arn(wrong) }), "is built in");
    }
    for wrong in [
        "arn:aws:iam::999999999999:policy/x",
        "arn:aws:kms::111122223333:policy/x",
        "arn:aws:organizations::111122223333:policy/service_control_policy/x",
        "arn:aws:organizations::aws:policy/x",
        "arn:aws:iam::111122223333:policy/a b",
    ] {
        assert!(world.put(PutPolicy(PolicySpec { arn: arn(wrong), ..a_policy("x") })).is_err(), "{wrong}");
    }
    let p = a_policy("p").arn;
    let users = [
        PutUser(UserSpec { attached: vec![p.clone()], ..a_user("alice") }),
        PutUser(UserSpec { boundary: Some(p.clone()), ..a_user("alice") }),
        PutGroup(GroupSpec { attached: vec![p.clone()], ..a_group("g") }),
        PutRole(RoleSpec { attached: vec![p.clone()], ..a_role("r", "\"*\"") }),
        PutRole(RoleSpec { boundary: Some(p.clone()), ..a_role("r", "\"*\"") }),
    ];
    for user in users {
        world.put(user.clone()).unwrap();
        refused_with(world.put(DeletePolicy { arn: p.clone() }), "Cannot delete a policy attached to entities.");
        for clear in [PutUser(a_user("alice")), PutGroup(a_group("g")), PutRole(a_role("r", "\"*\""))] {
            world.put(clear).unwrap();
        }
    }
    world.put(DeletePolicy { arn: p.clone() }).unwrap();
    refused_with(world.put(DeletePolicy { arn: p }), "was not found");
}

#[test]
fn a_role_is_bound_to_whom_its_trust_policy_meant() {
    let mut world = World::new();
    let alice = r#"{"AWS":"arn:aws:iam::111122223333:user/alice"}"#;
    refused_with(world.put(PutRole(a_role("app", alice))), "one or more invalid principals");
    world.put(PutUser(a_user("alice"))).unwrap();
    world.put(PutRole(a_role("app", alice))).unwrap();
    let bound = |world: &World| {
        let role = world.snapshot.role(&account(OWN), &"app".parse().unwrap()).unwrap();
        role.trust.principals().get("arn:aws:iam::111122223333:user/alice").cloned()
    };
    let first = world.user("alice").user_id;
    assert_eq!(bound(&world), Some(first.clone()));

    world.put(DeleteUser { account: account(OWN), name: user_name("alice") }).unwrap();
    let tag = || IamEdit::Tag { of: IamIdentity::Role("app".parse().unwrap()), tags: tags(1) };
    world.edit(tag()).expect("what does not concern the trust policy goes on");
    world.put(PutUser(a_user("alice"))).unwrap();
    let describe = |text: &str| IamEdit::UpdateRole {
        name: "app".parse().unwrap(),
        trust: None,
        description: Some(text.to_owned()),
        max_session_seconds: None,
    };
    world.edit(describe("d")).unwrap();
    assert_eq!(bound(&world), Some(first), "the new alice is another one");
    let again = IamEdit::UpdateRole {
        name: "app".parse().unwrap(),
        trust: Some(trust(alice)),
        description: None,
        max_session_seconds: None,
    };
    world.edit(again).unwrap();
    assert_eq!(bound(&world), Some(world.user("alice").user_id), "now she was named");
}

#[test]
fn what_a_role_may_not_be() {
    let mut world = World::new();
    world.put(PutRole(a_role("app", "\"*\""))).unwrap();
    world.put(PutService(a_service("backup.internal.example"))).unwrap();
    world.put(PutOidcProvider(a_provider("https://issuer.example"))).unwrap();
    let provider = format!(r#"{{"Federated":"arn:aws:iam::{OWN}:oidc-provider/issuer.example"}}"#);
    for good in [
        r#"{"AWS":"444455556666"}"#,
        r#"{"AWS":"arn:aws:iam::444455556666:root"}"#,
        r#"{"AWS":"arn:aws:iam::111122223333:role/app"}"#,
        r#"{"AWS":"arn:aws:sts::111122223333:assumed-role/app/session"}"#,
        r#"{"Service":"backup.internal.example"}"#,
        r#"{"Service":"ec2.amazonaws.com"}"#,
        provider.as_str(),
    ] {
        world.put(PutRole(a_role("other", good))).unwrap_or_else(|text| panic!("{good}: {text}"));
    }
    for wrong in [
        r#"{"AWS":"999999999999"}"#,
        r#"{"AWS":"arn:aws:iam::111122223333:role/none"}"#,
        r#"{"AWS":"arn:aws:iam::111122223333:group/devs"}"#,
        r#"{"AWS":"arn:aws:iam::111122223333:user/*"}"#,
        r#"{"AWS":"AIDAAAAAAAAAAAAAAAAAA"}"#,
        r#"{"Service":"none.internal.example"}"#,
        r#"{"Federated":"arn:aws:iam::111122223333:oidc-provider/none.example"}"#,
    ] {
        refused_with(world.put(PutRole(a_role("other", wrong))), "invalid principals");
    }
    let base = || a_role("new", "\"*\"");
    let cases: Vec<(RoleSpec, &str)> = vec![
        (a_role("APP", "\"*\""), "Role with name app already exists."),
        (RoleSpec { max_session_seconds: 3_599, ..base() }, "3600 to 43200"),
        (RoleSpec { max_session_seconds: 43_201, ..base() }, "3600 to 43200"),
        (RoleSpec { description: "d".repeat(1_001), ..base() }, "more than 1000 characters"),
        (RoleSpec { trust: ALLOW.to_owned(), ..base() }, "may only specify STS AssumeRole actions"),
        (RoleSpec { inline: inline(&[("a", of_size(10_241))]), ..base() }, "Maximum policy size of 10240"),
        (RoleSpec { tags: tags(51), ..base() }, "maximum limit of 50"),
    ];
    for (spec, text) in cases {
        refused_with(world.put(PutRole(spec)), text);
    }
    world
        .put(PutRole(RoleSpec { max_session_seconds: 43_200, inline: inline(&[("a", of_size(10_240))]), ..base() }))
        .unwrap();
}

#[test]
fn accounts_stay_while_anything_is_in_them() {
    let mut world = World::new();
    let other = || DeleteAccount { account: account(OTHER) };
    assert!(!world.snapshot.accounts.get(&account(OTHER)).unwrap().root_enabled, "a new account's root is disabled");
    refused_with(world.put(DeleteAccount { account: account(OWN) }), "the deployment's own");
    refused_with(world.put(DeleteAccount { account: account("999999999999") }), "there is no account");
    world.put(PutUser(UserSpec { account: account(OTHER), ..a_user("bob") })).unwrap();
    refused_with(world.put(other()), "still has users");
    world.put(DeleteUser { account: account(OTHER), name: user_name("bob") }).unwrap();
    world.put(PutPolicy(PolicySpec { arn: arn(&format!("arn:aws:iam::{OTHER}:policy/p")), ..a_policy("x") })).unwrap();
    refused_with(world.put(other()), "still has policies");
    world.put(DeletePolicy { arn: arn(&format!("arn:aws:iam::{OTHER}:policy/p")) }).unwrap();
    world.snapshot.apply(Write::PutAccessKey(AccessKeyRecord {
        id: "AKIAAAAAAAAAAAAAAAAA".parse().unwrap(),
        account: account(OTHER),
        owner: Owner::Root,
        active: true,
        created: 1,
        wrapped_secret: vec![1],
        last_used: None,
    }));
    refused_with(world.put(other()), "still has access keys");
    world.snapshot.apply(Write::DeleteAccessKey("AKIAAAAAAAAAAAAAAAAA".parse().unwrap()));
    world.put(other()).unwrap();

    world.put(PutAccount(an_account(OWN))).unwrap();
    let own = world.snapshot.accounts.get(&account(OWN)).unwrap();
    assert!(own.root_enabled && own.created == 1, "the deployment's account was there before its record");
    refused_with(world.put(PutAccount(AccountSpec { name: " ".to_owned(), ..an_account(OTHER) })), "has a name");
}

#[test]
fn organisations_are_trees_with_a_policy_at_each_level() {
    let mut world = World::new();
    world.put(PutPolicy(an_scp("scp"))).unwrap();
    world.put(PutPolicy(a_policy("p"))).unwrap();
    let scp = an_scp("scp").arn;
    world.put(PutUnit(a_unit("r-root", None))).unwrap();
    assert_eq!(world.snapshot.units.get("r-root").unwrap().service_control, [full_access()]);
    refused_with(world.put(PutUnit(a_unit("r-two2", None))), "has its root already");
    for level in 1..=5 {
        let parent = if level == 1 { "r-root".to_owned() } else { format!("ou-000{}", level - 1) };
        world.put(PutUnit(a_unit(&format!("ou-000{level}"), Some(&parent)))).unwrap();
    }
    refused_with(world.put(PutUnit(a_unit("ou-0006", Some("ou-0005")))), "deeper than 5");
    world.put(PutUnit(a_unit("ou-side", Some("r-root")))).unwrap();
    refused_with(world.put(PutUnit(a_unit("ou-0001", Some("ou-side")))), "deeper than 5");
    refused_with(world.put(PutUnit(a_unit("ou-0001", Some("ou-0003")))), "would stand in itself");
    refused_with(world.put(PutUnit(a_unit("ou-0001", Some("ou-0001")))), "would stand in itself");
    refused_with(world.put(PutUnit(a_unit("ou-new1", Some("ou-none")))), "there is no unit");
    refused_with(world.put(PutUnit(a_unit("r-0001", Some("r-root")))), "no id of an organisational unit");
    refused_with(world.put(PutUnit(a_unit("ou-0009", None))), "no id of an organisation's root");
    refused_with(
        world.put(PutUnit(UnitSpec { organization: "o-other".to_owned(), ..a_unit("ou-new1", Some("r-root")) })),
        "is of organisation",
    );
    let twin = UnitSpec { name: "ou-side".to_owned(), ..a_unit("ou-new1", Some("r-root")) };
    refused_with(world.put(PutUnit(twin)), "same name already exists");
    let with = |list: &[&PolicyArn]| UnitSpec {
        service_control: list.iter().map(|arn| (*arn).clone()).collect(),
        ..a_unit("ou-side", Some("r-root"))
    };
    refused_with(world.put(PutUnit(with(&[&a_policy("p").arn]))), "is no organisation policy");
    refused_with(world.put(PutUnit(with(&[&an_scp("none").arn]))), "is no organisation policy");
    refused_with(world.put(PutUnit(with(&[&scp, &scp]))), "is there twice");
    let many: Vec<PolicyArn> = (0..6).map(|n| an_scp(&format!("s{n}")).arn).collect();
    for n in 0..6 {
        world.put(PutPolicy(an_scp(&format!("s{n}")))).unwrap();
    }
    refused_with(world.put(PutUnit(with(&many.iter().collect::<Vec<_>>()))), "maximum number of policies");
    world.put(PutUnit(with(&[&scp, &full_access()]))).unwrap();
    refused_with(world.put(DeletePolicy { arn: scp.clone() }), "attached to entities");

    // An account in it.
    let at = |unit: Option<&str>, service_control: &[&PolicyArn]| AccountSpec {
        unit: unit.map(str::to_owned),
        service_control: service_control.iter().map(|arn| (*arn).clone()).collect(),
        ..an_account(OTHER)
    };
    refused_with(world.put(PutAccount(at(None, &[&scp]))), "stands in no organisation");
    refused_with(world.put(PutAccount(at(Some("ou-none"), &[]))), "there is no unit");
    world.put(PutAccount(at(Some("ou-0005"), &[]))).unwrap();
    assert_eq!(world.snapshot.accounts.get(&account(OTHER)).unwrap().service_control, [full_access()]);
    refused_with(world.put(DeleteUnit { id: "ou-0005".to_owned() }), "is not empty");
    refused_with(world.put(DeleteUnit { id: "r-root".to_owned() }), "is not empty");
    let last = IamEdit::DetachPolicy { from: IamTarget::Account(account(OTHER)), policy: "FullAWSAccess".to_owned() };
    refused_with(world.edit(last.clone()), "You cannot remove the last policy");
    world.edit(IamEdit::AttachPolicy { to: IamTarget::Account(account(OTHER)), policy: "scp".to_owned() }).unwrap();
    world.edit(last).unwrap();
    assert_eq!(world.snapshot.accounts.get(&account(OTHER)).unwrap().service_control, [scp]);
    world.edit(IamEdit::MoveAccount { id: account(OTHER), unit: None }).unwrap();
    assert!(world.snapshot.accounts.get(&account(OTHER)).unwrap().service_control.is_empty());
    world.put(DeleteUnit { id: "ou-0005".to_owned() }).unwrap();
}

#[test]
fn what_a_provider_or_service_may_not_be() {
    let mut world = World::new();
    let base = || a_provider("https://issuer.example/a");
    let keys = |jwks: &str| KeySource::Static { jwks: jwks.to_owned() };
    let fetched = |url: &str, ca: Option<&str>| KeySource::Fetched { url: url.to_owned(), ca: ca.map(str::to_owned) };
    let cases: Vec<(OidcProviderSpec, &str)> = vec![
        (a_provider("http://issuer.example"), "https://host/path"),
        (a_provider("https://"), "https://host/path"),
        (a_provider("https://a@issuer.example"), "https://host/path"),
        (a_provider("https://issuer.example?x=1"), "https://host/path"),
        (OidcProviderSpec { client_ids: Vec::new(), ..base() }, "at least one client id"),
        (OidcProviderSpec { client_ids: vec!["x".repeat(256)], ..base() }, "1 to 255"),
        (OidcProviderSpec { client_ids: (0..101).map(|n| n.to_string()).collect(), ..base() }, "100"),
        (OidcProviderSpec { algorithms: Vec::new(), ..base() }, "at least one algorithm"),
        (OidcProviderSpec { algorithms: vec!["HS256".to_owned()], ..base() }, "cannot be signed with `HS256`"),
        (OidcProviderSpec { algorithms: vec!["none".to_owned()], ..base() }, "cannot be signed with `none`"),
        (OidcProviderSpec { keys: keys("{"), ..base() }, "is no JSON"),
        (OidcProviderSpec { keys: keys(r#"{"keys":[]}"#), ..base() }, "has no `keys`"),
        (OidcProviderSpec { keys: fetched("http://x.example", None), ..base() }, "https://host/path"),
        (OidcProviderSpec { keys: fetched("https://x.example", Some("no")), ..base() }, "no certificate"),
    ];
    for (spec, text) in cases {
        refused_with(world.put(PutOidcProvider(spec)), text);
    }
    world.put(PutOidcProvider(base())).unwrap();
    refused_with(world.put(DeleteOidcProvider { arn: "arn:aws:iam::1:oidc-provider/x".to_owned() }), "not found");

    let service = || a_service("backup.internal.example");
    let managed = |name: &str| ServiceSpec { managed_key: Some("backup".to_owned()), ..a_service(name) };
    world.put(PutService(managed("backup.internal.example"))).unwrap();
    refused_with(world.put(PutService(managed("other.internal.example"))), "is service backup.internal.example's");
    refused_with(world.put(PutService(ServiceSpec { managed_key: Some("a/b".to_owned()), ..service() })), "alias/aws/");
    refused_with(
        world.put(PutService(ServiceSpec { account: account(OTHER), ..service() })),
        "is registered in account",
    );
    for wrong in ["*", "arn:aws:iam::*:user/x", "alice", "arn:aws:kms::111122223333:key/x"] {
        let spec = ServiceSpec { may_act_for: vec![wrong.to_owned()], ..service() };
        refused_with(world.put(PutService(spec)), "is nobody to act for");
    }
    let good = vec!["444455556666".to_owned(), "arn:aws:iam::111122223333:role/app/*".to_owned()];
    world.put(PutService(ServiceSpec { may_act_for: good, ..service() })).unwrap();
    world.access_key("AKIAAAAAAAAAAAAAAAAA", Owner::Service("backup.internal.example".parse().unwrap()));
    world.put(DeleteService { name: "backup.internal.example".parse().unwrap() }).unwrap();
    assert!(world.snapshot.access_keys.is_empty());
}

#[test]
fn edits_make_only_what_is_new_and_change_only_what_is_there() {
    let mut world = World::new();
    let create =
        || IamEdit::CreateUser { name: user_name("alice"), path: "/".parse().unwrap(), tags: tags(2), boundary: None };
    world.edit(create()).unwrap();
    refused_with(world.edit(create()), "User with name alice already exists.");
    let of = || IamIdentity::User(user_name("alice"));
    world.edit(IamEdit::Tag { of: of(), tags: vec![("K1".to_owned(), "new".to_owned())] }).unwrap();
    assert_eq!(world.user("alice").tags, [("k0".to_owned(), String::new()), ("K1".to_owned(), "new".to_owned())]);
    world.edit(IamEdit::Untag { of: of(), keys: vec!["K0".to_owned(), "k1".to_owned()] }).unwrap();
    assert!(world.user("alice").tags.is_empty());
    let attach = |policy: &str| IamEdit::AttachPolicy { to: IamTarget::Identity(of()), policy: policy.to_owned() };
    let detach = |policy: &str| IamEdit::DetachPolicy { from: IamTarget::Identity(of()), policy: policy.to_owned() };
    refused_with(world.edit(attach("mine")), "was not found in account");
    refused_with(world.edit(detach("ReadOnlyAccess")), "it is not attached");
    world.edit(attach("ReadOnlyAccess")).unwrap();
    assert_eq!(world.edit(attach("arn:aws:iam::aws:policy/ReadOnlyAccess")).unwrap().len(), 0, "attached already");
    world.edit(detach("ReadOnlyAccess")).unwrap();
    assert!(world.user("alice").policies.attached.is_empty());
    refused_with(world.edit(IamEdit::DeleteInlinePolicy { of: of(), name: "x".parse().unwrap() }), "cannot be found");
    refused_with(
        world.edit(IamEdit::AddToGroup { user: user_name("alice"), group: group_name("g") }),
        "cannot be found",
    );
    refused_with(world.edit(IamEdit::DeleteBoundary { of: IamIdentity::Group(group_name("g")) }), "cannot be found");
}

#[test]
fn a_list_is_applied_one_after_another_and_as_a_whole() {
    let world = World::new();
    let mut ids = |_: IdKind| "id".to_owned();
    let changes = [PutGroup(a_group("g")), PutUser(UserSpec { groups: vec![group_name("g")], ..a_user("alice") })];
    let (writes, after) = all_writes(&world.snapshot, &changes, 5, &mut ids).unwrap();
    assert_eq!(writes.len(), 2);
    assert!(after.user(&account(OWN), &user_name("alice")).is_some() && world.snapshot.users.is_empty());
    let [group, user] = changes;
    assert!(all_writes(&world.snapshot, &[user, group], 5, &mut ids).is_err());
}
