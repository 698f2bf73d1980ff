use super::*;
use crate::authn::Session;

fn session(tags: &[(&str, &str)], transitive: &[&str], source_identity: Option<&str>) -> Caller {
    let role = Principal::AssumedRole {
        role: "first".parse().unwrap(),
        path: "/".parse().unwrap(),
        role_id: "AROAAAAAAAAAAAAAAAAAA".into(),
        session_name: "one".into(),
    };
    let session = Session {
        issued: 0,
        expires: 1,
        mfa_at: None,
        source_identity: source_identity.map(Into::into),
        tags: tags.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        transitive: transitive.iter().map(|key| (*key).into()).collect(),
        policies: None,
        federated_provider: None,
        claims: Vec::new(),
        chained: false,
    };
    Caller::simulated(role, "111122223333".parse().unwrap(), Some(session))
}

fn request(tags: &[(&str, &str)], source_identity: Option<&str>) -> AssumeRole {
    AssumeRole {
        role_arn: "arn:aws:iam::111122223333:role/second".into(),
        session_name: "two".into(),
        duration_seconds: None,
        external_id: None,
        policies: SessionPolicyInput::default(),
        tags: tags.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        transitive_tag_keys: Vec::new(),
        source_identity: source_identity.map(Into::into),
        inherited: Inherited::default(),
    }
}

fn asked(request: AssumeRole, caller: &Caller) -> Result<AssumeRole, OpError> {
    match StsRequest::AssumeRole(Box::new(request)).asked_by(caller)? {
        StsRequest::AssumeRole(request) => Ok(*request),
        other => panic!("{other:?}"),
    }
}

fn actions(request: &AssumeRole) -> Vec<&'static str> {
    let role = RoleSubject::of_assume_role(request, &crate::store::Snapshot::default()).unwrap();
    let (request, subject) = (StsRequest::AssumeRole(Box::new(request.clone())), Subject::Role(Box::new(role)));
    request.checks(&subject).iter().map(|check| check.action).collect()
}

#[test]
fn transitive_tags_and_the_source_identity_go_on() {
    let caller = session(&[("team", "a"), ("own", "b")], &["team"], Some("alice"));
    let asked = asked(request(&[("more", "c")], None), &caller).unwrap();
    let tags: Vec<_> = asked.effective_tags().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(tags, ["team=a", "more=c"]);
    assert_eq!(asked.effective_source_identity().map(String::as_str), Some("alice"));
    assert_eq!(actions(&asked), ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]);
}

#[test]
fn federated_users_assume_no_roles() {
    let federated = Principal::FederatedUser {
        name: "carol".into(),
        user: "alice".parse().unwrap(),
        user_path: "/".parse().unwrap(),
        user_id: "AIDAAAAAAAAAAAAAAAAAA".into(),
    };
    let of_role = session(&[], &[], None);
    let caller = Caller::simulated(
        federated,
        of_role.account().clone(),
        of_role.session().map(|session| session.as_ref().clone()),
    );
    assert!(matches!(asked(request(&[], None), &caller), Err(OpError::Sts(StsRefusal::Denied(_)))));
    assert!(asked(request(&[], None), &of_role).is_ok());
}

#[test]
fn what_goes_on_cannot_be_changed() {
    let caller = session(&[("Team", "a")], &["Team"], Some("alice"));
    for (tags, identity) in [(&[("team", "b")][..], None), (&[], Some("bob"))] {
        assert!(matches!(asked(request(tags, identity), &caller), Err(OpError::Sts(_))));
    }
    assert!(asked(request(&[], Some("alice")), &caller).is_ok());
    let many: Vec<_> = (0..50).map(|n| format!("k{n}")).collect();
    let many: Vec<_> = many.iter().map(|key| (key.as_str(), "v")).collect();
    assert!(matches!(asked(request(&many, None), &caller), Err(OpError::Sts(StsRefusal::Validation(_)))));
}

#[test]
fn a_bare_request_asks_one_thing() {
    let caller = Caller::in_test(Principal::Root, "111122223333".parse().unwrap());
    assert_eq!(actions(&asked(request(&[], None), &caller).unwrap()), ["sts:AssumeRole"]);
    assert_eq!(actions(&request(&[("a", "b")], None)), ["sts:AssumeRole", "sts:TagSession"]);
    assert_eq!(actions(&request(&[], Some("alice"))), ["sts:AssumeRole", "sts:SetSourceIdentity"]);
}

#[test]
fn a_role_is_known_by_its_whole_arn() {
    for (arn, account) in [
        ("arn:aws:iam::111122223333:role/ops", Some("111122223333")),
        ("arn:aws:iam::111122223333:role/a/b/ops", Some("111122223333")),
        ("arn:aws:iam::111122223333:user/ops", None),
        ("arn:aws:iam::111122223333:rolex/ops", None),
        ("arn:aws:iam:eu-central-1:111122223333:role/ops", None),
        ("arn:aws:kms::111122223333:role/ops", None),
        ("arn:aws-cn:iam::111122223333:role/ops", None),
        ("arn:aws:iam::1:role/ops", None),
        ("ops", None),
    ] {
        assert_eq!(account_of_role(arn).map(|account| account.to_string()).as_deref(), account, "{arn}");
    }
}
