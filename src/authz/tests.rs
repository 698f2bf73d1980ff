//! The steps around the evaluator, on records as the store has them: which policies bear on a caller, what the request says to
//! them, and what a refusal says.

use super::language::ConditionKeys;
use super::*;
use crate::authn::{Session, SessionPolicies, WebIdentity};
use crate::ids::spec::GrantOperation;
use crate::ids::{GrantId, PolicyArn};
use crate::store::testing::{self, account, key, key_id};
use crate::store::{
    AccountRecord, GrantConstraints, GrantPrincipal, GroupRecord, Policies, PolicyRecord, RevokedSessionRecord,
    ServiceRecord, UnitRecord, UserRecord,
};

const NOW: i64 = 1_800_000_000_000;
const KEY_ARN: &str = "arn:aws:kms:eu-central-1:111122223333:key/00011111-1111-1111-1111-111111111111";
const DELEGATING: &str = r#"{"Statement":[{"Sid":"all","Effect":"Allow","Principal":{"AWS":"111122223333"},"Action":"kms:*","Resource":"*"}]}"#;
const ALICE: &str = "arn:aws:iam::111122223333:user/dev/alice";
const SESSION: &str = "arn:aws:sts::111122223333:assumed-role/ops/night";

/// What was resolved: one check on key 1 and the records.
struct World {
    snapshot: Snapshot,
    arn: String,
    record: Arc<KeyRecord>,
    action: &'static str,
    context: Vec<(String, String)>,
}

impl Checks for World {
    fn checks(&self) -> Vec<Check<'_>> {
        let on_key = Resource::Key { arn: &self.arn, record: &self.record };
        vec![Check { encryption_context: Cow::Borrowed(&self.context), ..Check::new(self.action, on_key) }]
    }

    fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}

fn allow(action: &str) -> PolicyDocument {
    format!(r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"{action}","Resource":"*"}}]}}"#)
        .as_str()
        .into()
}

fn policy_arn(name: &str) -> PolicyArn {
    format!("arn:aws:iam::111122223333:policy/{name}").parse().unwrap()
}

fn inline(name: &str, document: PolicyDocument) -> Policies {
    Policies { attached: Vec::new(), inline: [(name.parse().unwrap(), document)].into() }
}

fn attached(arns: &[PolicyArn]) -> Policies {
    Policies { attached: arns.to_vec(), ..Policies::default() }
}

impl World {
    /// Alice, the role `ops` and key 1, which delegates to the account.
    fn new() -> Self {
        let mut snapshot = Snapshot::default();
        let mut own = |record: AccountRecord| snapshot.accounts.insert_mut(record.id.clone(), Arc::new(record));
        own(account_record(None));
        let mut world = World {
            snapshot,
            arn: KEY_ARN.to_owned(),
            record: Arc::new(KeyRecord { policy: DELEGATING.into(), policy_version: 3, ..key(1) }),
            action: "kms:Decrypt",
            context: Vec::new(),
        };
        world.user(|_| {});
        world.role(|_| {});
        world
    }

    fn user(&mut self, edit: impl FnOnce(&mut UserRecord)) {
        let mut user = UserRecord {
            path: "/dev/".parse().unwrap(),
            tags: vec![("team".to_owned(), "ops".to_owned())],
            ..testing::user("alice", "AIDAALICE")
        };
        edit(&mut user);
        self.snapshot.users.insert_mut((account(), user.name.clone()), Arc::new(user));
    }

    fn role(&mut self, edit: impl FnOnce(&mut RoleRecord)) {
        let mut role = RoleRecord {
            trust: r#"{"Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:user/dev/alice"},"Action":"sts:AssumeRole"}]}"#.into(),
            tags: vec![("team".to_owned(), "night".to_owned())],
            ..testing::role("ops", "AROAOPS")
        };
        edit(&mut role);
        self.snapshot.roles.insert_mut((account(), role.name.clone()), Arc::new(role));
    }

    fn managed(&mut self, name: &str, document: PolicyDocument) -> PolicyArn {
        self.policy(policy_arn(name), document)
    }

    fn policy(&mut self, arn: PolicyArn, document: PolicyDocument) -> PolicyArn {
        let record = PolicyRecord {
            arn: arn.clone(),
            policy_id: "ANPA".to_owned(),
            created: 1,
            updated: 1,
            description: String::new(),
            document,
        };
        self.snapshot.policies.insert_mut(arn.clone(), Arc::new(record));
        arn
    }

    fn unit(&mut self, id: &str, parent: Option<&str>, policies: &[PolicyArn]) {
        let record = UnitRecord {
            id: id.to_owned(),
            name: id.to_owned(),
            organization: "o-1".to_owned(),
            parent: parent.map(str::to_owned),
            service_control: policies.to_vec(),
        };
        self.snapshot.units.insert_mut(id.to_owned(), Arc::new(record));
    }

    fn key_policy(&mut self, text: &str) {
        self.record = Arc::new(KeyRecord { policy: text.into(), ..self.record.as_ref().clone() });
    }

    fn grant(&mut self, grantee: &str, id: Option<&str>) {
        let record = Arc::new(GrantRecord {
            id: GrantId::first(),
            key: key_id(1),
            issuing_account: account(),
            grantee: GrantPrincipal::Aws { arn: grantee.to_owned(), id: id.map(str::to_owned) },
            retiring: None,
            operations: vec![GrantOperation::Decrypt],
            constraints: GrantConstraints::default(),
            name: None,
            created: 1,
        });
        let mut of_key = self.snapshot.grants_to.get(&key_id(1)).cloned().unwrap_or_default();
        of_key.insert_mut((grantee.into(), GrantId::first()), record);
        self.snapshot.grants_to.insert_mut(key_id(1), of_key);
    }

    fn ask(self, caller: Caller) -> Asked {
        self.ask_under(caller, &Rules::default())
    }

    fn ask_under(self, caller: Caller, rules: &Rules) -> Asked {
        let (message, grounds) = match decide(caller, self, environment(), rules) {
            Ok(permit) => (None, permit.grounds().clone()),
            Err(denied) => (Some(denied.message), denied.grounds),
        };
        assert_eq!(grounds.decision, if message.is_none() { "Allow" } else { "Deny" });
        Asked { message, last: grounds.checks.into_iter().next_back() }
    }
}

struct Asked {
    message: Option<String>,
    last: Option<CheckGrounds>,
}

impl Asked {
    #[track_caller]
    fn allowed_by(&self, source: &str) -> &CheckGrounds {
        assert_eq!(self.message, None);
        let last = self.last.as_ref().unwrap();
        assert_eq!((last.decision, last.source.as_str()), ("Allow", source));
        last
    }

    #[track_caller]
    fn denied_by(&self, source: &str, tail: &str) -> &CheckGrounds {
        let message = self.message.as_deref().expect("a refusal");
        assert!(message.ends_with(tail), "{message}");
        let last = self.last.as_ref().unwrap();
        assert_eq!((last.decision, last.source.as_str()), ("Deny", source), "{message}");
        last
    }
}

fn account_record(unit: Option<&str>) -> AccountRecord {
    AccountRecord {
        unit: unit.map(str::to_owned),
        service_control: vec![FULL.parse().unwrap()],
        ..testing::own_account()
    }
}

const FULL: &str = "arn:aws:organizations::aws:policy/service_control_policy/FullAWSAccess";

fn environment() -> Environment {
    Environment {
        now: NOW,
        source_ip: Some([10, 1, 2, 3].into()),
        secure_transport: true,
        user_agent: Some("aws-cli/2".to_owned()),
        region: "eu-central-1".parse().unwrap(),
    }
}

fn alice_is(user_id: &str) -> Principal {
    let (name, path) = ("alice".parse().unwrap(), "/dev/".parse().unwrap());
    Principal::User { name, path, user_id: user_id.to_owned() }
}

fn alice() -> Caller {
    Caller::in_test(alice_is("AIDAALICE"), account())
}

fn root() -> Caller {
    Caller::in_test(Principal::Root, account())
}

fn session() -> Session {
    Session {
        issued: NOW / 1000 - 60,
        expires: NOW / 1000 + 600,
        mfa_at: None,
        source_identity: None,
        tags: Vec::new(),
        transitive: Vec::new(),
        policies: None,
        federated_provider: None,
        claims: Vec::new(),
        chained: false,
    }
}

fn in_session(principal: Principal, session: Session) -> Caller {
    Caller::in_test_session(principal, account(), "ASIAAAAAAAAAAAAAAAAA".parse().unwrap(), session)
}

fn ops_role() -> Principal {
    Principal::AssumedRole {
        role: "ops".parse().unwrap(),
        path: "/".parse().unwrap(),
        role_id: "AROAOPS".to_owned(),
        session_name: "night".to_owned(),
    }
}

fn ops() -> Caller {
    in_session(ops_role(), session())
}

#[test]
fn root_has_what_the_key_policy_gives_the_account() {
    let asked = World::new().ask(root());
    let grounds = asked.allowed_by("KeyPolicy");
    let statement = grounds.statement.as_ref().unwrap();
    assert_eq!(
        (statement.policy.as_str(), statement.kind, statement.sid.as_deref()),
        ("default", "key-policy", Some("all"))
    );
    assert_eq!((grounds.policy_version, grounds.resource.as_str()), (Some(3), KEY_ARN));

    let mut world = World::new();
    world.key_policy(
        r#"{"Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:user/dev/alice"},"Action":"kms:*","Resource":"*"}]}"#,
    );
    world.ask(root()).denied_by("KeyPolicy", "because no resource-based policy allows the kms:Decrypt action");
}

#[test]
fn each_policy_of_a_user_allows() {
    let none = World::new().ask(alice());
    none.denied_by("IdentityPolicy", "because no identity-based policy allows the kms:Decrypt action");
    let base = format!("User: {ALICE} is not authorized to perform: kms:Decrypt on resource: {KEY_ARN} ");
    assert!(none.message.unwrap().starts_with(&base));

    let mut world = World::new();
    world.user(|user| user.policies = inline("mine", allow("kms:Decrypt")));
    let asked = world.ask(alice());
    let statement = asked.allowed_by("IdentityPolicy").statement.clone().unwrap();
    assert_eq!((statement.policy.as_str(), statement.kind), ("mine", "user-inline"));

    let mut world = World::new();
    let arn = world.managed("decrypting", allow("kms:Decrypt"));
    world.user(|user| user.policies = attached(&[arn]));
    let asked = world.ask(alice());
    let grounds = asked.allowed_by("IdentityPolicy");
    let statement = grounds.statement.as_ref().unwrap();
    assert_eq!((statement.policy.as_str(), statement.kind), (policy_arn("decrypting").as_str(), "user-managed"));
    assert_eq!(grounds.policy_version, None);

    for builtin in ["AdministratorAccess", "AWSKeyManagementServicePowerUser"] {
        let mut world = World::new();
        let arn = format!("arn:aws:iam::aws:policy/{builtin}").parse().unwrap();
        world.user(|user| user.policies = attached(&[arn]));
        let asked = world.ask(alice());
        match builtin {
            "AdministratorAccess" => asked.allowed_by("IdentityPolicy"),
            _ => asked.denied_by("IdentityPolicy", "the kms:Decrypt action"),
        };
    }
}

#[test]
fn groups_give_their_policies() {
    for document in ["kms:Decrypt", "kms:Encrypt"] {
        let mut world = World::new();
        let group = GroupRecord {
            name: "staff".parse().unwrap(),
            account: account(),
            group_id: "AGPA".to_owned(),
            created: 1,
            path: "/".parse().unwrap(),
            policies: inline("ours", allow(document)),
        };
        world.snapshot.groups.insert_mut((account(), group.name.clone()), Arc::new(group));
        world.user(|user| user.groups = vec!["staff".parse().unwrap()]);
        let asked = world.ask(alice());
        if document == "kms:Decrypt" {
            let statement = asked.allowed_by("IdentityPolicy").statement.clone().unwrap();
            assert_eq!((statement.policy.as_str(), statement.kind), ("staff/ours", "group-inline"));
        } else {
            asked.denied_by("IdentityPolicy", "the kms:Decrypt action");
        }
    }
}

#[test]
fn a_boundary_limits() {
    for (bound, allows) in [("kms:Decrypt", true), ("kms:Encrypt", false)] {
        let mut world = World::new();
        let boundary = world.managed("bound", allow(bound));
        world.user(|user| {
            user.policies = inline("mine", allow("kms:*"));
            user.boundary = Some(boundary);
        });
        let asked = world.ask(alice());
        match allows {
            true => asked.allowed_by("IdentityPolicy"),
            false => {
                asked.denied_by("PermissionsBoundary", "because no permissions boundary allows the kms:Decrypt action")
            }
        };
    }
}

#[test]
fn a_policy_that_is_gone_or_unreadable_denies() {
    // Even what the key policy gives to the caller itself.
    let exact = format!(
        r#"{{"Statement":[{{"Effect":"Allow","Principal":{{"AWS":["{ALICE}","{SESSION}"]}},"Action":"kms:*","Resource":"*"}}]}}"#
    );
    type Edit = fn(&mut World);
    let edits: [(Edit, &str); 5] = [
        (|w| w.user(|user| user.boundary = Some(policy_arn("gone"))), "PermissionsBoundary"),
        (|w| w.user(|user| user.policies = attached(&[policy_arn("gone")])), "IdentityPolicy"),
        (|w| w.user(|user| user.groups = vec!["gone".parse().unwrap()]), "IdentityPolicy"),
        (|w| w.user(|user| user.policies = inline("broken", "{".into())), "IdentityPolicy"),
        (
            |w| {
                let lost = account_record(Some("ou-gone"));
                w.snapshot.accounts.insert_mut(account(), Arc::new(lost));
            },
            "ServiceControlPolicy",
        ),
    ];
    for (edit, source) in edits {
        let mut world = World::new();
        world.key_policy(&exact);
        edit(&mut world);
        assert!(world.ask(alice()).denied_by(source, "").explicit);
    }
    let mut world = World::new();
    world.key_policy(&exact);
    let lost = SessionPolicies { inline: None, arns: vec![policy_arn("gone")] };
    let caller = in_session(ops_role(), Session { policies: Some(lost), ..session() });
    assert!(world.ask(caller).denied_by("SessionPolicy", "with an explicit deny in a session policy").explicit);

    let mut world = World::new();
    world.key_policy("{");
    world.ask(root()).denied_by("UnreadablePolicy", KEY_ARN);
}

#[test]
fn roles_act_in_sessions() {
    let mut world = World::new();
    world.role(|role| role.policies = inline("use", allow("kms:Decrypt")));
    let statement = world.ask(ops()).allowed_by("IdentityPolicy").statement.clone().unwrap();
    assert_eq!((statement.policy.as_str(), statement.kind), ("use", "role-inline"));
    let denied = World::new().ask(ops());
    assert!(denied.message.unwrap().starts_with(&format!("User: {SESSION} is not authorized")));

    for (given, allows) in [("kms:Decrypt", true), ("kms:Encrypt", false)] {
        let mut world = World::new();
        world.role(|role| role.policies = inline("use", allow("kms:*")));
        let policies = SessionPolicies { inline: Some(allow(given)), arns: Vec::new() };
        let asked = world.ask(in_session(ops_role(), Session { policies: Some(policies), ..session() }));
        match allows {
            true => asked.allowed_by("IdentityPolicy"),
            false => asked.denied_by("SessionPolicy", "because no session policy allows the kms:Decrypt action"),
        };
    }
    let mut world = World::new();
    let arn = world.managed("some", allow("kms:Decrypt"));
    world.role(|role| role.policies = inline("use", allow("kms:*")));
    let policies = SessionPolicies { inline: None, arns: vec![arn] };
    let caller = in_session(ops_role(), Session { policies: Some(policies), ..session() });
    world.ask(caller).allowed_by("IdentityPolicy");
}

#[test]
fn federated_sessions_have_their_users_policies_within_their_own() {
    let carol = |policies| {
        let principal = Principal::FederatedUser {
            name: "carol".to_owned(),
            user: "alice".parse().unwrap(),
            user_path: "/dev/".parse().unwrap(),
            user_id: "AIDAALICE".to_owned(),
        };
        in_session(principal, Session { policies, ..session() })
    };
    let world = || {
        let mut world = World::new();
        world.user(|user| user.policies = inline("mine", allow("kms:*")));
        world
    };
    let given = SessionPolicies { inline: Some(allow("kms:Decrypt")), arns: Vec::new() };
    world().ask(carol(Some(given))).allowed_by("IdentityPolicy");
    world().ask(carol(None)).denied_by("SessionPolicy", "because no session policy allows the kms:Decrypt action");
}

#[test]
fn every_level_of_the_organisation_must_allow() {
    let encrypting: PolicyArn = "arn:aws:organizations::aws:policy/service_control_policy/encrypting".parse().unwrap();
    let world = |root_level: &[PolicyArn], unit: &[PolicyArn], own: &[PolicyArn]| {
        let mut world = World::new();
        world.policy(encrypting.clone(), allow("kms:Encrypt"));
        world.unit("r-1", None, root_level);
        world.unit("ou-1", Some("r-1"), unit);
        let record = AccountRecord { service_control: own.to_vec(), ..account_record(Some("ou-1")) };
        world.snapshot.accounts.insert_mut(account(), Arc::new(record));
        world
    };
    let full = || vec![FULL.parse::<PolicyArn>().unwrap()];
    let narrow = || vec![encrypting.clone()];
    world(&full(), &full(), &full()).ask(root()).allowed_by("KeyPolicy");
    for levels in
        [[narrow(), full(), full()], [full(), narrow(), full()], [full(), full(), narrow()], [full(), full(), vec![]]]
    {
        let [root_level, unit, own] = &levels;
        let asked = world(root_level, unit, own).ask(root());
        asked.denied_by("ServiceControlPolicy", "with an explicit deny in a service control policy");
    }
    // A ring of units has no root.
    let mut ring = world(&full(), &full(), &full());
    ring.unit("r-1", Some("ou-1"), &full());
    ring.ask(root()).denied_by("ServiceControlPolicy", "");
}

#[test]
fn who_is_gone_is_nobody() {
    let able = || {
        let mut world = World::new();
        world.user(|user| user.policies = inline("mine", allow("kms:*")));
        world.role(|role| role.policies = inline("use", allow("kms:*")));
        world
    };
    able().ask(alice()).allowed_by("IdentityPolicy");
    able().ask(ops()).allowed_by("IdentityPolicy");
    #[track_caller]
    fn nobody(world: World, caller: Caller) {
        let arn = caller.arn();
        let asked = world.ask(caller);
        asked.denied_by("NoIdentity", KEY_ARN);
        assert_eq!(
            asked.message.unwrap(),
            format!("User: {arn} is not authorized to perform: kms:Decrypt on resource: {KEY_ARN}")
        );
    }
    nobody(able(), Caller::in_test(alice_is("AIDAOTHER"), account()));
    let mut world = able();
    world.snapshot.users.remove_mut(&(account(), "alice".parse().unwrap()));
    nobody(world, alice());
    let mut world = able();
    world.role(|role| role.role_id = "AROAOTHER".to_owned());
    nobody(world, ops());
    let mut world = able();
    world.snapshot.roles.remove_mut(&(account(), "ops".parse().unwrap()));
    nobody(world, ops());
    let mut world = able();
    world.snapshot.accounts.remove_mut(&account());
    nobody(world, alice());
    let mut world = able();
    let disabled = AccountRecord { root_enabled: false, ..account_record(None) };
    world.snapshot.accounts.insert_mut(account(), Arc::new(disabled));
    nobody(world, root());
    // The session was issued a minute ago, or up to a second later.
    for (before, allowed) in [(NOW - 60_000, true), (NOW - 59_001, true), (NOW - 59_000, false)] {
        let mut world = able();
        world.role(|role| {
            role.policies = inline("use", allow("kms:*"));
            role.sessions_revoked_before = Some(before);
        });
        match allowed {
            true => drop(world.ask(ops()).allowed_by("IdentityPolicy").clone()),
            false => nobody(world, ops()),
        }
    }
    let mut world = able();
    let access_key = "ASIAAAAAAAAAAAAAAAAA".to_owned();
    let revoked = RevokedSessionRecord { access_key: access_key.clone(), until: NOW };
    world.snapshot.revoked_sessions.insert_mut(access_key, Arc::new(revoked));
    nobody(world, ops());
    let service = Principal::Service { name: "s3.internal.example".parse().unwrap(), service_id: "ASVC1".to_owned() };
    nobody(able(), Caller::in_test(service, account()));
}

#[test]
fn a_principal_made_anew_does_not_inherit() {
    let text = format!(
        r#"{{"Statement":[{{"Effect":"Allow","Principal":{{"AWS":"{ALICE}"}},"Action":"kms:*","Resource":"*"}}]}}"#
    );
    for (bound, allowed) in [("AIDAALICE", true), ("AIDAEARLIER", false)] {
        let mut world = World::new();
        let policy = PolicyDocument::new(text.as_str(), [(ALICE.to_owned(), bound.to_owned())].into());
        world.record = Arc::new(KeyRecord { policy, ..key(1) });
        world.grant(ALICE, Some("AIDAEARLIER"));
        let asked = world.ask(alice());
        match allowed {
            true => asked.allowed_by("KeyPolicy"),
            false => asked.denied_by("KeyPolicy", "because no resource-based policy allows the kms:Decrypt action"),
        };
    }
}

#[test]
fn grants_of_the_key_allow() {
    let mut world = World::new();
    world.grant(ALICE, Some("AIDAALICE"));
    assert_eq!(world.ask(alice()).allowed_by("Grant").grant.as_deref(), Some(GrantId::first().as_str()));
    let mut world = World::new();
    world.grant(ALICE, Some("AIDAALICE"));
    world.action = "kms:Encrypt";
    world.ask(alice()).denied_by("IdentityPolicy", "the kms:Encrypt action");
}

/// A Deny whose patterns cannot all be compared is not as good as none: callers make policies and what they are compared with.
#[test]
fn policies_that_cost_too_much_to_compare_deny() {
    let policy = |pattern: &str| {
        let patterns: Vec<String> = (0..500).map(|n| format!("{pattern}{n}")).collect();
        let deny = serde_json::json!({"Effect": "Deny", "Principal": "*", "Action": "kms:*", "Resource": "*",
            "Condition": {"StringLike": {"kms:EncryptionContext:a": patterns}}});
        let delegating: serde_json::Value = serde_json::from_str(DELEGATING).unwrap();
        let statements = [deny, delegating["Statement"][0].clone()];
        serde_json::json!({"Version": "2012-10-17", "Statement": statements}).to_string()
    };
    let asked = |pattern: &str, length: usize| {
        let mut world = World::new();
        world.key_policy(&policy(pattern));
        world.context = vec![("a".into(), "a".repeat(2 * length)), ("b".into(), "a".repeat(length))];
        world.ask(root())
    };
    const COSTLY: &str = "*${kms:EncryptionContext:b}";
    asked(COSTLY, 20).allowed_by("KeyPolicy");
    asked(COSTLY, 1_000).denied_by("TooCostly", KEY_ARN);
    asked("*a*b", 4_000).denied_by("TooCostly", KEY_ARN);
    // A policy of one's own does not tell what is there in another account.
    let mut theirs = World::new();
    let other: AccountId = "444455556666".parse().unwrap();
    theirs.record = Arc::new(KeyRecord { account: other, ..theirs.record.as_ref().clone() });
    theirs.key_policy(&policy(COSTLY));
    theirs.context = vec![("a".into(), "a".repeat(4_000)), ("b".into(), "a".repeat(2_000))];
    theirs.ask(alice()).denied_by("TooCostly", COMBINED);
}

const COMBINED: &str = "is not authorized to perform: kms:Decrypt on this resource because the resource does not exist in this \
     Region, no resource-based policies allow access, or a resource-based policy explicitly denies access";

#[test]
fn keys_of_other_accounts() {
    let theirs = || {
        let mut world = World::new();
        let other: AccountId = "444455556666".parse().unwrap();
        world.arn = KEY_ARN.replace("111122223333", other.as_str());
        world.record = Arc::new(KeyRecord { account: other, ..world.record.as_ref().clone() });
        world.user(|user| user.policies = inline("mine", allow("kms:*")));
        world
    };
    theirs().ask(alice()).allowed_by("IdentityAndKeyPolicy");
    let mut closed = theirs();
    closed.key_policy(&DELEGATING.replace("111122223333", "444455556666"));
    let asked = closed.ask(alice());
    asked.denied_by("KeyPolicy", COMBINED);
    // What is not there is refused in the same words.
    let foreign = Check::new("kms:Decrypt", Resource::Foreign);
    let world = World::new();
    let identity_of = alice();
    let identity = Identity::of(&identity_of, &world.snapshot).ok().unwrap();
    let (grounds, refusal) = judged(&identity, &foreign, &world.snapshot, &environment(), &Rules::default());
    assert_eq!((refusal, grounds.source.as_str()), (asked.message, "NoSuchResource"));

    for suffice in [true, false] {
        let mut world = theirs();
        world.key_policy(&DELEGATING.replace("111122223333", "444455556666"));
        world.grant(ALICE, Some("AIDAALICE"));
        world.user(|_| {});
        let rules = Rules { grants_suffice_cross_account: suffice, ..Rules::default() };
        let asked = world.ask_under(alice(), &rules);
        match suffice {
            true => asked.allowed_by("Grant"),
            false => asked.denied_by("IdentityPolicy", ""),
        };
    }
}

#[test]
fn refusals_may_hide_the_kind_of_policy() {
    let rules = Rules { hide_policy_type: true, ..Rules::default() };
    let shown = format!("User: {ALICE} is not authorized to perform: kms:Decrypt on resource: {KEY_ARN}");
    let asked = World::new().ask_under(alice(), &rules);
    assert_eq!(asked.denied_by("IdentityPolicy", "").resource, KEY_ARN);
    assert_eq!(asked.message.as_deref(), Some(shown.as_str()));
    let mut world = World::new();
    let deny = r#"{"Statement":[{"Effect":"Deny","Action":"kms:*","Resource":"*"}]}"#;
    world.user(|user| user.policies = inline("no", deny.into()));
    assert_eq!(world.ask_under(alice(), &rules).message, Some(shown));
}

#[test]
fn roles_are_assumed_by_whom_they_trust() {
    struct Assume<'a>(&'a World, Arc<RoleRecord>);
    impl Checks for Assume<'_> {
        fn checks(&self) -> Vec<Check<'_>> {
            let arn = "arn:aws:iam::111122223333:role/ops";
            vec![Check::new("sts:AssumeRole", Resource::Role { arn, record: &self.1 })]
        }
        fn snapshot(&self) -> &Snapshot {
            &self.0.snapshot
        }
    }
    let world = World::new();
    let role = world.snapshot.role(&account(), &"ops".parse().unwrap()).unwrap();
    let ask = |caller, role: &Arc<RoleRecord>| {
        decide(caller, Assume(&world, role.clone()), environment(), &Rules::default())
            .map(drop)
            .map_err(|denied| denied.message)
    };
    assert!(ask(alice(), role).is_ok());
    assert_eq!(
        ask(ops(), role).unwrap_err(),
        format!(
            "User: {SESSION} is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::111122223333:role/ops"
        )
    );
    assert!(ask(root(), role).is_err());
    let bound = PolicyDocument::new(role.trust.text().clone(), [(ALICE.to_owned(), "AIDAEARLIER".to_owned())].into());
    let anew = Arc::new(RoleRecord { trust: bound, ..role.as_ref().clone() });
    assert!(ask(alice(), &anew).is_err());
}

#[test]
fn condition_keys_of_a_request() {
    let mut world = World::new();
    world.user(|user| user.groups.clear());
    world.unit("r-1", None, &[]);
    world.unit("ou-1", Some("r-1"), &[]);
    world.snapshot.accounts.insert_mut(account(), Arc::new(account_record(Some("ou-1"))));
    world.context = vec![("Case".to_owned(), "1".to_owned()), ("case".to_owned(), "2".to_owned())];
    let alias: AliasName = "alias/app".parse().unwrap();
    let aliases = [alias.clone()];
    let mut checks = world.checks();
    let check = &mut checks[0];
    check.conditions = Conditions {
        request_alias: Some(&alias),
        alias_generation: Some(AliasGeneration::Retired),
        resource_aliases: &aliases,
        last_used: Some(NOW - 3 * 86_400_000 - 5),
        request: vec![("kms:EncryptionAlgorithm".into(), Values::One("SYMMETRIC_DEFAULT".into()))],
    };
    let of = |caller: &Caller, name: &str| {
        let identity = Identity::of(caller, &world.snapshot).ok().unwrap();
        let environment = environment();
        let keys = Keys::new(&environment, &identity, &world.snapshot, check);
        match keys.value(name) {
            None => "-".to_owned(),
            Some(Values::One(value)) => value.into_owned(),
            Some(Values::Many(values)) => format!("[{}]", values.join(",")),
        }
    };
    for (name, of_alice) in [
        ("aws:SourceIp", "10.1.2.3"),
        ("aws:SecureTransport", "true"),
        ("aws:CurrentTime", "2027-01-15T08:00:00Z"),
        ("aws:EpochTime", "1800000000"),
        ("aws:RequestedRegion", "eu-central-1"),
        ("AWS:useragent", "aws-cli/2"),
        ("aws:PrincipalArn", ALICE),
        ("aws:PrincipalAccount", "111122223333"),
        ("aws:PrincipalType", "User"),
        ("aws:userid", "AIDAALICE"),
        ("aws:username", "alice"),
        ("aws:PrincipalTag/team", "ops"),
        ("aws:PrincipalTag/TEAM", "ops"),
        ("aws:PrincipalTag/other", "-"),
        ("aws:PrincipalOrgID", "o-1"),
        ("aws:PrincipalOrgPaths", "[o-1/r-1/ou-1/]"),
        ("aws:ResourceOrgID", "o-1"),
        ("aws:ResourceOrgPaths", "[o-1/r-1/ou-1/]"),
        ("aws:ResourceAccount", "111122223333"),
        ("aws:ResourceTag/team", "ops"),
        ("aws:TokenIssueTime", "-"),
        ("aws:MultiFactorAuthPresent", "-"),
        ("aws:MultiFactorAuthAge", "-"),
        ("aws:SourceIdentity", "-"),
        ("aws:FederatedProvider", "-"),
        ("aws:ViaAWSService", "false"),
        ("aws:CalledVia", "-"),
        ("aws:PrincipalIsAWSService", "false"),
        ("aws:PrincipalServiceName", "-"),
        ("aws:SourceArn", "-"),
        ("aws:SourceVpce", "-"),
        ("kms:CallerAccount", "111122223333"),
        ("kms:ViaService", "-"),
        ("kms:GrantIsForAWSResource", "-"),
        ("kms:KeySpec", "SYMMETRIC_DEFAULT"),
        ("kms:CustomerMasterKeySpec", "SYMMETRIC_DEFAULT"),
        ("kms:KeyUsage", "ENCRYPT_DECRYPT"),
        ("kms:CustomerMasterKeyUsage", "ENCRYPT_DECRYPT"),
        ("kms:KeyOrigin", "AWS_KMS"),
        ("kms:MultiRegion", "false"),
        ("kms:MultiRegionKeyType", "-"),
        ("kms:ResourceAliases", "[alias/app]"),
        ("kms:RequestAlias", "alias/app"),
        ("kms:EncryptionAlgorithm", "SYMMETRIC_DEFAULT"),
        ("KMS:encryptionalgorithm", "SYMMETRIC_DEFAULT"),
        ("kms:EncryptionContext:Case", "1"),
        ("kms:EncryptionContext:case", "2"),
        ("kms:EncryptionContext:CASE", "1"),
        ("kms:EncryptionContextKeys", "[Case,case]"),
        ("kms:TrailingDaysWithoutKeyUsage", "3"),
        ("kms:RecipientAttestation:ImageSha384", "-"),
        ("hsmbridge:AliasGeneration", "retired"),
        ("hsmbridge:TlsClientSubject", "-"),
        ("issuer.example:sub", "-"),
    ] {
        assert_eq!(of(&alice(), name), of_alice, "{name}");
    }
    let temporary = in_session(
        ops_role(),
        Session {
            mfa_at: Some(NOW / 1000 - 90),
            source_identity: Some("alice".to_owned()),
            tags: vec![("team".to_owned(), "day".to_owned())],
            federated_provider: Some("issuer.example".to_owned()),
            claims: vec![("issuer.example:sub".to_owned(), vec!["pod".to_owned()])],
            ..session()
        },
    );
    for (name, of_ops) in [
        ("aws:PrincipalArn", "arn:aws:iam::111122223333:role/ops"),
        ("aws:PrincipalType", "AssumedRole"),
        ("aws:userid", "AROAOPS:night"),
        ("aws:username", "-"),
        ("aws:PrincipalTag/team", "day"),
        ("aws:TokenIssueTime", "2027-01-15T07:59:00Z"),
        ("aws:MultiFactorAuthPresent", "true"),
        ("aws:MultiFactorAuthAge", "90"),
        ("aws:SourceIdentity", "alice"),
        ("aws:FederatedProvider", "issuer.example"),
        ("issuer.example:sub", "pod"),
    ] {
        assert_eq!(of(&temporary, name), of_ops, "{name}");
    }
    assert_eq!(of(&ops(), "aws:PrincipalTag/team"), "night");
    assert_eq!(of(&root(), "aws:PrincipalType"), "Account");
    assert_eq!(of(&root(), "aws:userid"), "111122223333");
    let via = Caller::in_test_via(alice_is("AIDAALICE"), account(), "s3.internal.example".parse().unwrap());
    for (name, of_via) in [
        ("kms:ViaService", "s3.internal.example"),
        ("aws:ViaAWSService", "true"),
        ("aws:CalledVia", "[s3.internal.example]"),
        ("aws:CalledViaFirst", "s3.internal.example"),
        ("aws:CalledViaLast", "s3.internal.example"),
        ("aws:PrincipalArn", ALICE),
        ("aws:PrincipalIsAWSService", "false"),
    ] {
        assert_eq!(of(&via, name), of_via, "{name}");
    }
    let mut world = World::new();
    let name = "s3.internal.example".parse::<crate::ids::ServiceName>().unwrap();
    let service = ServiceRecord {
        name: name.clone(),
        account: account(),
        service_id: "ASVC1".to_owned(),
        created: 1,
        managed_key: None,
        may_act_for: Vec::new(),
    };
    world.snapshot.services.insert_mut(name.clone(), Arc::new(service));
    let caller = Caller::in_test(Principal::Service { name, service_id: "ASVC1".to_owned() }, account());
    let identity = Identity::of(&caller, &world.snapshot).ok().unwrap();
    for (action, grant_key) in [("kms:CreateGrant", "false"), ("kms:Decrypt", "-")] {
        let check = Check::new(action, Resource::Any);
        let environment = environment();
        let keys = Keys::new(&environment, &identity, &world.snapshot, &check);
        let value = |name| match keys.value(name) {
            Some(Values::One(value)) => value.into_owned(),
            _ => "-".to_owned(),
        };
        assert_eq!(value("kms:GrantIsForAWSResource"), grant_key);
        assert_eq!(value("aws:PrincipalIsAWSService"), "true");
        assert_eq!(value("aws:PrincipalServiceName"), "s3.internal.example");
        assert_eq!((value("aws:PrincipalArn"), value("aws:PrincipalAccount")), ("-".to_owned(), "-".to_owned()));
    }
    let unlisted = Check::new("kms:ListKeys", Resource::Any);
    let environment = environment();
    let keys = Keys::new(&environment, &identity, &world.snapshot, &unlisted);
    assert_eq!(keys.value("kms:CallerAccount"), None);
}

/// Checks of commands and of the own identity, and the snapshot that nobody stands in.
struct Asks(Vec<Resource<'static>>, Snapshot);

impl Checks for Asks {
    fn checks(&self) -> Vec<Check<'_>> {
        self.0.iter().map(|resource| Check::new("kms:X", resource.clone())).collect()
    }

    fn snapshot(&self) -> &Snapshot {
        &self.1
    }
}

fn commands(names: &[&'static str]) -> Asks {
    Asks(names.iter().map(|name| Resource::Command(name)).collect(), Snapshot::default())
}

fn operator() -> Caller {
    Caller::operator(account(), 1000)
}

fn may(list: &[&str]) -> Rules {
    let operator = OperatorCommands(list.iter().map(|name| (*name).to_owned()).collect());
    Rules { operator, ..Rules::default() }
}

#[test]
fn nothing_configured_is_a_refusal() {
    assert!(decide(operator(), commands(&["key:list"]), environment(), &Rules::default()).is_err());
}

#[test]
fn no_check_at_all_is_a_refusal() {
    assert!(decide(operator(), commands(&[]), environment(), &may(&["key:list"])).is_err());
    assert!(decide(operator(), commands(&["key:list"]), environment(), &may(&["key:list"])).is_ok());
    let nothing = Asks(Vec::new(), World::new().snapshot);
    assert!(decide(root(), nothing, environment(), &Rules::default()).is_err());
}

#[test]
fn every_check_must_pass() {
    let asked = commands(&["key:list", "key:show"]);
    let denied = decide(operator(), asked, environment(), &may(&["key:list"])).map(drop).unwrap_err();
    assert!(denied.message.contains("`key:show`"), "{}", denied.message);
    assert_eq!(denied.grounds.decision, "Deny");
    assert_eq!(denied.grounds.checks.iter().map(|check| check.decision).collect::<Vec<_>>(), ["Allow", "Deny"]);
}

#[test]
fn the_operator_is_no_principal_of_kms_and_the_service_only_has_its_timers() {
    for resource in [Resource::Any, Resource::Identity, Resource::Foreign] {
        let asked = || Asks(vec![resource.clone()], World::new().snapshot);
        assert!(decide(operator(), asked(), environment(), &may(&["key:list"])).is_err());
        assert!(decide(Caller::bridge(account()), asked(), environment(), &may(&["key:list"])).is_err());
    }
    for resource in [Resource::Command("key:list"), Resource::Timer("DeleteKey")] {
        let asked = || Asks(vec![resource.clone()], World::new().snapshot);
        assert!(decide(root(), asked(), environment(), &may(&["key:list"])).is_err());
    }
}

#[test]
fn everybody_may_ask_who_they_are_and_bearers_of_tokens_are_nobody_yet() {
    let asked = || Asks(vec![Resource::Identity], World::new().snapshot);
    for caller in [root(), alice(), ops()] {
        assert!(decide(caller, asked(), environment(), &Rules::default()).is_ok());
    }
    let bearer = WebIdentity {
        provider_arn: "arn:aws:iam::111122223333:oidc-provider/issuer.example".to_owned(),
        issuer: "https://issuer.example".to_owned(),
        subject: "pod".to_owned(),
        audience: "sts".to_owned(),
        claims: Vec::new(),
    };
    let bearer = Caller::in_test(Principal::WebIdentity(Arc::new(bearer)), account());
    assert!(decide(bearer.clone(), asked(), environment(), &Rules::default()).is_err());
    World::new().ask(bearer).denied_by("KeyPolicy", "");
}
