//! The evaluator's texts and traces, and its laws. What it decides is in tests/decisions.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::authz::language::{Listed, PolicyKind};
use crate::store::GrantPrincipal;

const ACCOUNT: &str = "111122223333";
const KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11";
const ALICE: &str = "arn:aws:iam::111122223333:user/alice";

fn alice() -> Actor<'static> {
    let account = Some(ACCOUNT);
    Actor { kind: ActorKind::User, arn: ALICE, account, unique_id: None, role_arn: None, federating_user_arn: None }
}

fn stranger() -> Actor<'static> {
    Actor { arn: "arn:aws:iam::444455556666:user/eve", account: Some("444455556666"), ..alice() }
}

fn policy(statements: &[String], kind: PolicyKind) -> Policy {
    let text = format!(r#"{{"Version":"2012-10-17","Statement":[{}]}}"#, statements.join(","));
    Policy::parse(&text, kind).unwrap()
}

fn says(effect: &str, principal: &str, action: &str) -> String {
    format!(r#"{{"Effect":"{effect}","Principal":{principal},"Action":"{action}","Resource":"*"}}"#)
}

fn attachment(kind: AttachmentKind, policy: Policy) -> Attachment {
    Attachment { kind, name: "own".to_owned(), policy: Arc::new(policy) }
}

struct All(Vec<GrantRecord>);

impl Grants for All {
    fn to<'s>(&'s self, grantee: &str) -> Box<dyn Iterator<Item = &'s GrantRecord> + 's> {
        let grantee = grantee.to_owned();
        Box::new(self.0.iter().filter(move |g| g.grantee.name() == grantee))
    }
}

fn grant(grantee: &str, operation: GrantOperation) -> GrantRecord {
    GrantRecord {
        id: "ab".repeat(32).parse().unwrap(),
        key: crate::ids::KeyId::new([0; 16], false),
        issuing_account: ACCOUNT.parse().unwrap(),
        grantee: GrantPrincipal::Aws { arn: grantee.to_owned(), id: None },
        retiring: None,
        operations: vec![operation],
        constraints: GrantConstraints::default(),
        name: None,
        created: 0,
    }
}

/// A world in which everything is said by number, so that laws can be tried on many.
#[derive(Debug, Clone)]
struct World {
    caller: u8,
    /// (Allow, principal, action, condition)
    key_policy: Vec<(bool, u8, u8, u8)>,
    identity: Vec<(bool, u8, u8)>,
    boundary: Option<Vec<(bool, u8, u8)>>,
    session: Option<Vec<(bool, u8, u8)>>,
    scp: Option<Vec<(bool, u8, u8)>>,
    /// (grantee, operation)
    grants: Vec<(u8, u8)>,
}

const PRINCIPALS: [&str; 8] = [
    r#""*""#,
    r#"{"AWS":"111122223333"}"#,
    r#"{"AWS":"arn:aws:iam::111122223333:user/alice"}"#,
    r#"{"AWS":"arn:aws:iam::111122223333:role/app"}"#,
    r#"{"AWS":"arn:aws:sts::111122223333:assumed-role/app/s"}"#,
    r#"{"AWS":"arn:aws:iam::444455556666:root"}"#,
    r#"{"AWS":"arn:aws:iam::444455556666:user/eve"}"#,
    r#"{"Service":"a.example.com"}"#,
];
const GRANTEES: [&str; 6] = [
    "arn:aws:iam::111122223333:root",
    ALICE,
    "arn:aws:iam::111122223333:role/app",
    "arn:aws:sts::111122223333:assumed-role/app/s",
    "arn:aws:iam::444455556666:user/eve",
    "arn:aws:sts::111122223333:federated-user/alice",
];
const ACTIONS: [&str; 4] = ["kms:Decrypt", "kms:Encrypt", "kms:*", "*"];
const CONDITIONS: [&str; 3] =
    ["{}", r#"{"Bool":{"aws:SecureTransport":"true"}}"#, r#"{"StringEquals":{"kms:ViaService":"x"}}"#];

fn caller(n: u8) -> Actor<'static> {
    match n % 6 {
        0 => alice(),
        1 => Actor { kind: ActorKind::Root, arn: "arn:aws:iam::111122223333:root", ..alice() },
        2 => Actor {
            kind: ActorKind::RoleSession,
            arn: "arn:aws:sts::111122223333:assumed-role/app/s",
            role_arn: Some("arn:aws:iam::111122223333:role/app"),
            ..alice()
        },
        3 => Actor {
            kind: ActorKind::FederatedSession,
            arn: "arn:aws:sts::111122223333:federated-user/alice",
            federating_user_arn: Some(ALICE),
            ..alice()
        },
        4 => stranger(),
        _ => Actor { kind: ActorKind::Service, arn: "a.example.com", account: None, ..alice() },
    }
}

fn pick<T: Copy>(from: &[T], n: u8) -> T {
    from[usize::from(n) % from.len()]
}

fn effect(allows: bool) -> &'static str {
    if allows { "Allow" } else { "Deny" }
}

impl World {
    fn allows(&self) -> bool {
        let of_key: Vec<String> = self
            .key_policy
            .iter()
            .map(|&(allows, who, what, when)| {
                let (effect, who, what) = (effect(allows), pick(&PRINCIPALS, who), pick(&ACTIONS, what));
                let when = pick(&CONDITIONS, when);
                format!(
                    r#"{{"Effect":"{effect}","Principal":{who},"Action":"{what}","Resource":"*","Condition":{when}}}"#
                )
            })
            .collect();
        // A key has always a policy: one that says nothing about anybody stands for none.
        let silent = r#"{"Effect":"Allow","Principal":"*"}"#.to_owned();
        let key_policy = policy(&[&[silent], of_key.as_slice()].concat(), PolicyKind::Key);
        let of = |list: &[(bool, u8, u8)], kind: AttachmentKind| {
            let statements = list.iter().map(|&(allows, what, when)| {
                let (effect, what, when) = (effect(allows), pick(&ACTIONS, what), pick(&CONDITIONS, when));
                format!(r#"{{"Effect":"{effect}","Action":"{what}","Resource":"*","Condition":{when}}}"#)
            });
            let other = r#"{"Effect":"Allow","Action":"s3:*","Resource":"*"}"#.to_owned();
            let statements: Vec<String> = std::iter::once(other).chain(statements).collect();
            attachment(kind, policy(&statements, PolicyKind::IdentityManaged))
        };
        let attached = Attached {
            identity: vec![of(&self.identity, AttachmentKind::UserInline)],
            boundary: self.boundary.as_ref().map(|list| of(list, AttachmentKind::Boundary)),
            session: self.session.as_ref().map(|list| vec![of(list, AttachmentKind::Session)]),
            service_control: self.scp.iter().map(|list| vec![of(list, AttachmentKind::ServiceControl)]).collect(),
        };
        let operations = [GrantOperation::Decrypt, GrantOperation::Encrypt];
        let grants =
            All(self.grants.iter().map(|&(to, what)| grant(pick(&GRANTEES, to), pick(&operations, what))).collect());
        let mut keys = Listed::new();
        keys.set("aws:SecureTransport", "true");
        let target = Target::Resource {
            arn: KEY,
            account: ACCOUNT,
            policy: &key_policy,
            bindings: &NoBindings,
            grants: &grants,
        };
        evaluate(&Question {
            actor: caller(self.caller),
            attached: &attached,
            action: "kms:Decrypt",
            target,
            keys: &keys,
            encryption_context: &[],
            asks: Asks::Plain,
            grants_suffice_cross_account: true,
        })
        .allowed
    }
}

fn worlds() -> impl Strategy<Value = World> {
    let mostly = || prop::bool::weighted(0.8);
    let list = move || prop::collection::vec((mostly(), any::<u8>(), any::<u8>()), 0..3);
    (
        any::<u8>(),
        prop::collection::vec((mostly(), any::<u8>(), any::<u8>(), any::<u8>()), 0..4),
        list(),
        prop::option::weighted(0.4, list()),
        prop::option::weighted(0.4, list()),
        prop::option::weighted(0.3, list()),
        prop::collection::vec((any::<u8>(), any::<u8>()), 0..3),
    )
        .prop_map(|(caller, key_policy, identity, boundary, session, scp, grants)| World {
            caller,
            key_policy,
            identity,
            boundary,
            session,
            scp,
            grants,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn adding_a_deny_never_allows(world in worlds(), place in 0..5_u8, who: u8, what: u8, when: u8) {
        let mut more = world.clone();
        add(&mut more, false, place, (who, what, when));
        prop_assert!(world.allows() || !more.allows());
    }

    #[test]
    fn adding_an_allow_never_denies(world in worlds(), place in 0..5_u8, who: u8, what: u8, when: u8) {
        let mut more = world.clone();
        add(&mut more, true, place, (who, what, when));
        prop_assert!(!world.allows() || more.allows());
    }

    #[test]
    fn removing_all_grants_never_widens(world in worlds()) {
        let without = World { grants: Vec::new(), ..world.clone() };
        prop_assert!(world.allows() || !without.allows());
    }

    /// In the key's own account, where a key policy can give all that a grant gives.
    #[test]
    fn a_grant_never_exceeds_the_same_statement(world in worlds(), to in 0..4_u8) {
        let caller = world.caller % 4;
        let principals = [1, 2, 3, 4];
        let by_grant = World { caller, grants: vec![(to, 0)], ..world.clone() };
        let mut by_policy = World { caller, grants: Vec::new(), ..world };
        by_policy.key_policy.push((true, principals[usize::from(to)], 0, 0));
        prop_assert!(!by_grant.allows() || by_policy.allows());
    }
}

fn add(world: &mut World, allows: bool, place: u8, (who, what, when): (u8, u8, u8)) {
    match (place, &mut world.boundary, &mut world.session, &mut world.scp) {
        (1, Some(list), _, _) | (2, _, Some(list), _) | (3, _, _, Some(list)) => list.push((allows, what, when)),
        (4, ..) => world.identity.push((allows, what, when)),
        _ => world.key_policy.push((allows, who, what, when)),
    }
}

fn told(actor: Actor<'_>, policy: &Policy, action: &str, named: Named) -> (String, String) {
    let attached = Attached::default();
    let target = Target::Resource { arn: KEY, account: ACCOUNT, policy, bindings: &NoBindings, grants: &NoGrants };
    let question = Question {
        actor,
        attached: &attached,
        action,
        target,
        keys: &Listed::new(),
        encryption_context: &[],
        asks: Asks::Plain,
        grants_suffice_cross_account: true,
    };
    let verdict = evaluate(&question);
    assert!(!verdict.allowed);
    (verdict.told(&question, named), verdict.message(&question))
}

#[test]
fn another_account_is_not_told_what_there_is() {
    let hidden = "because the resource does not exist in this Region, no resource-based policies allow access, or a \
                  resource-based policy explicitly denies access";
    let eve = "User: arn:aws:iam::444455556666:user/eve is not authorized to perform: kms:Decrypt";
    let admin = policy(&[says("Allow", r#"{"AWS":"111122223333"}"#, "kms:*")], PolicyKind::Key);
    let denies = policy(&[says("Allow", r#""*""#, "kms:*"), says("Deny", r#""*""#, "kms:*")], PolicyKind::Key);
    let lets_in = policy(&[says("Allow", r#"{"AWS":"444455556666"}"#, "kms:*")], PolicyKind::Key);
    for policy in [&admin, &denies] {
        assert_eq!(
            told(stranger(), policy, "kms:Decrypt", Named::Directly).0,
            format!("{eve} on this resource {hidden}")
        );
        assert_eq!(
            told(stranger(), policy, "kms:Decrypt", Named::ByCiphertext).0,
            format!("{eve} on the resource associated with this ciphertext {hidden}")
        );
    }
    let (said, full) = told(stranger(), &lets_in, "kms:Decrypt", Named::Directly);
    assert_eq!(said, full);
    assert!(said.ends_with("because no identity-based policy allows the kms:Decrypt action"), "{said}");
    let (said, _) = told(stranger(), &lets_in, "kms:ScheduleKeyDeletion", Named::Directly);
    assert!(said.ends_with(hidden), "{said}");
    // In the key's own account all is told, but for a ciphertext whose key the caller cannot reach.
    let (said, full) = told(alice(), &admin, "kms:Decrypt", Named::ByCiphertext);
    assert_eq!(said, full);
    let (said, _) = told(alice(), &lets_in, "kms:Decrypt", Named::ByCiphertext);
    assert!(said.contains("on the resource associated with this ciphertext"), "{said}");
}

#[test]
fn sts_has_texts_of_its_own() {
    let nobody = policy(
        &[r#"{"Effect":"Allow","Principal":{"AWS":"444455556666"},"Action":"sts:AssumeRole"}"#.to_owned()],
        PolicyKind::Trust,
    );
    let (said, _) = told(alice(), &nobody, "sts:AssumeRole", Named::Directly);
    assert_eq!(said, format!("User: {ALICE} is not authorized to perform: sts:AssumeRole on resource: {KEY}"));
    let provider = "arn:aws:iam::111122223333:oidc-provider/x";
    let bearer = Actor { kind: ActorKind::WebIdentity, arn: provider, account: None, ..alice() };
    let (said, _) = told(bearer, &nobody, "sts:AssumeRoleWithWebIdentity", Named::Directly);
    assert_eq!(said, "Not authorized to perform sts:AssumeRoleWithWebIdentity");
}

fn assumes(actor: Actor<'_>, statement: &str, identity: bool) -> bool {
    let trust = policy(&[statement.to_owned()], PolicyKind::Trust);
    let own = policy(
        &[r#"{"Effect":"Allow","Action":"sts:AssumeRole","Resource":"arn:aws:iam::111122223333:role/app"}"#.to_owned()],
        PolicyKind::IdentityManaged,
    );
    let mut attached = Attached::default();
    if identity {
        attached.identity.push(attachment(AttachmentKind::UserInline, own));
    }
    let arn = "arn:aws:iam::111122223333:role/app";
    let target = Target::Resource { arn, account: ACCOUNT, policy: &trust, bindings: &NoBindings, grants: &NoGrants };
    let action = match actor.kind {
        ActorKind::WebIdentity => "sts:AssumeRoleWithWebIdentity",
        _ => "sts:AssumeRole",
    };
    let keys = Listed::new();
    let question = Question {
        actor,
        attached: &attached,
        action,
        target,
        keys: &keys,
        encryption_context: &[],
        asks: Asks::Plain,
        grants_suffice_cross_account: true,
    };
    evaluate(&question).allowed
}

#[test]
fn roles_are_assumed_as_their_trust_policies_say() {
    let trusts = |who: &str| format!(r#"{{"Effect":"Allow","Principal":{{"AWS":"{who}"}},"Action":"sts:AssumeRole"}}"#);
    assert!(assumes(alice(), &trusts(ALICE), false));
    assert!(assumes(alice(), &trusts(ACCOUNT), true));
    assert!(!assumes(alice(), &trusts(ACCOUNT), false));
    assert!(assumes(stranger(), &trusts("444455556666"), true));
    assert!(!assumes(stranger(), &trusts("arn:aws:iam::444455556666:user/eve"), false));
    let root = Actor { kind: ActorKind::Root, arn: "arn:aws:iam::111122223333:root", ..alice() };
    assert!(!assumes(root, &trusts(ACCOUNT), true), "the root user assumes no roles");
    let provider = "arn:aws:iam::111122223333:oidc-provider/x";
    let bearer = Actor { kind: ActorKind::WebIdentity, arn: provider, account: None, ..alice() };
    let trusts = |who: &str| {
        format!(r#"{{"Effect":"Allow","Principal":{{"Federated":"{who}"}},"Action":"sts:AssumeRoleWithWebIdentity"}}"#)
    };
    assert!(assumes(bearer, &trusts(provider), false));
    assert!(!assumes(bearer, &trusts("arn:aws:iam::111122223333:oidc-provider/xy"), false));
    let everyone = r#"{"Effect":"Allow","Principal":"*","Action":"sts:*"}"#;
    assert!(!assumes(bearer, everyone, false), "`*` means identities of AWS");
}

#[test]
fn the_verdict_names_its_statement_and_the_trace_the_rest() {
    let key_policy = policy(
        &[says("Allow", r#"{"AWS":"444455556666"}"#, "kms:*"), says("Allow", r#"{"AWS":"111122223333"}"#, "kms:*")],
        PolicyKind::Key,
    );
    let own = policy(
        &[
            r#"{"Effect":"Deny","Action":"kms:Encrypt","Resource":"*"}"#.to_owned(),
            r#"{"Effect":"Allow","Action":"kms:*","Resource":"arn:aws:kms:*:*:key/0*"}"#.to_owned(),
            r#"{"Effect":"Deny","Action":"kms:*","Resource":"*","Condition":{"Bool":{"a:b":"true"}}}"#.to_owned(),
            r#"{"Sid":"mine","Effect":"Allow","Action":"kms:*","Resource":"*"}"#.to_owned(),
        ],
        PolicyKind::IdentityManaged,
    );
    let attached = Attached { identity: vec![attachment(AttachmentKind::UserInline, own)], ..Attached::default() };
    let grants = All(vec![grant(ALICE, GrantOperation::Encrypt)]);
    let keys = Listed::new();
    let target =
        Target::Resource { arn: KEY, account: ACCOUNT, policy: &key_policy, bindings: &NoBindings, grants: &grants };
    let question = Question {
        actor: alice(),
        attached: &attached,
        action: "kms:Decrypt",
        target,
        keys: &keys,
        encryption_context: &[],
        asks: Asks::Plain,
        grants_suffice_cross_account: true,
    };
    let (verdict, trace) = evaluate_traced(&question);
    assert_eq!(verdict, evaluate(&question));
    let statement = verdict.statement.unwrap();
    assert_eq!((statement.kind, statement.sid.as_deref(), statement.index), ("user-inline", Some("mine"), 3));
    let whys: Vec<(&str, &str)> =
        trace.policies.iter().flat_map(|p| p.statements.iter().map(|s| (p.kind, s.why.as_str()))).collect();
    assert_eq!(
        whys,
        [
            ("user-inline", "another action"),
            ("user-inline", "another resource"),
            ("user-inline", "condition not met: Bool a:b"),
            ("user-inline", ""),
            ("key-policy", "another principal"),
            ("key-policy", "principal: account"),
        ]
    );
    assert_eq!(trace.grants.len(), 1);
    assert!(!trace.grants[0].applies);
}

#[test]
fn a_grant_across_accounts_can_be_made_to_need_both_sides() {
    let key_policy = policy(&[says("Allow", r#"{"AWS":"111122223333"}"#, "kms:*")], PolicyKind::Key);
    let grants = All(vec![grant("arn:aws:iam::444455556666:user/eve", GrantOperation::Decrypt)]);
    let own =
        policy(&[r#"{"Effect":"Allow","Action":"kms:*","Resource":"*"}"#.to_owned()], PolicyKind::IdentityManaged);
    let with = Attached { identity: vec![attachment(AttachmentKind::UserInline, own)], ..Attached::default() };
    let without = Attached::default();
    let target =
        Target::Resource { arn: KEY, account: ACCOUNT, policy: &key_policy, bindings: &NoBindings, grants: &grants };
    for (attached, suffice, expected) in
        [(&without, true, true), (&without, false, false), (&with, false, true), (&with, true, true)]
    {
        let question = Question {
            actor: stranger(),
            attached,
            action: "kms:Decrypt",
            target,
            keys: &Listed::new(),
            encryption_context: &[],
            asks: Asks::Plain,
            grants_suffice_cross_account: suffice,
        };
        assert_eq!(evaluate(&question).allowed, expected, "{suffice}");
    }
}

#[test]
fn a_grantee_made_again_does_not_inherit() {
    let key_policy = policy(&[says("Allow", r#"{"AWS":"444455556666"}"#, "kms:*")], PolicyKind::Key);
    let mut given = grant(ALICE, GrantOperation::Decrypt);
    given.grantee = GrantPrincipal::Aws { arn: ALICE.to_owned(), id: Some("AIDAOLD".to_owned()) };
    let grants = All(vec![given]);
    let attached = Attached::default();
    let target =
        Target::Resource { arn: KEY, account: ACCOUNT, policy: &key_policy, bindings: &NoBindings, grants: &grants };
    for (id, expected) in [("AIDAOLD", true), ("AIDANEW", false)] {
        let question = Question {
            actor: Actor { unique_id: Some(id), ..alice() },
            attached: &attached,
            action: "kms:Decrypt",
            target,
            keys: &Listed::new(),
            encryption_context: &[],
            asks: Asks::Plain,
            grants_suffice_cross_account: true,
        };
        assert_eq!(evaluate(&question).allowed, expected, "{id}");
    }
}
