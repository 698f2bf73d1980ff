use super::*;
use crate::kms::parse as parse_body;
use crate::ops::Operation as O;

fn refused(operation: O, body: &str) -> (&'static str, String) {
    let error = parse_body(operation, body.as_bytes()).unwrap_err();
    (error.code, error.message.unwrap_or_default())
}

fn created(body: &str) -> CreateGrant {
    match parse_body(O::CreateGrant, body.as_bytes()).unwrap() {
        Request::CreateGrant(request) => *request,
        other => panic!("{other:?}"),
    }
}

const USER: &str = "arn:aws:iam::111122223333:user/a";

#[test]
fn everything_that_a_grant_says() {
    let request = created(&format!(
        r#"{{"KeyId":"k","GranteePrincipal":"{USER}","RetiringServicePrincipal":"s3.us-east-1.amazonaws.com",
            "Operations":["Decrypt","Decrypt","CreateGrant"],"Name":"n","GrantTokens":["t"],"DryRun":true,
            "Constraints":{{"EncryptionContextEquals":{{}},"EncryptionContextSubset":{{"b":"2","a":"1"}},
                "SourceArn":"arn:aws:s3:eu-central-1:111122223333:bucket"}}}}"#
    ));
    assert_eq!(request.grantee, GrantPrincipalText::Principal(USER.into()));
    assert_eq!(request.retiring, Some(GrantPrincipalText::Service("s3.us-east-1.amazonaws.com".into())));
    assert_eq!(request.operations, [GrantOperation::Decrypt, GrantOperation::Decrypt, GrantOperation::CreateGrant]);
    assert_eq!((request.name.as_deref(), request.dry_run), (Some("n"), true));
    assert_eq!(request.grant_tokens, ["t"]);
    let pairs = [("a", "1"), ("b", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let expected = GrantConstraints {
        // Calls without an encryption context: no less strict than any other.
        equals: Some(BTreeMap::new()),
        subset: Some(pairs.into()),
        source_arn: Some("arn:aws:s3:eu-central-1:111122223333:bucket".into()),
    };
    assert_eq!(request.constraints, expected);
    let bare = created(&format!(r#"{{"KeyId":"k","GranteePrincipal":"{USER}","Operations":["Sign"]}}"#));
    assert_eq!((bare.retiring, bare.constraints, bare.name), (None, GrantConstraints::default(), None));
    let known = |name: &str| GrantOperation::from_wire(name).is_some();
    let listed = &crate::kms::model::input(O::CreateGrant).iter().find(|m| m.name == "Operations").unwrap().shape;
    let crate::kms::model::Kind::List(member) = &listed.kind else { panic!("{listed:?}") };
    assert!(member.values.iter().all(|name| known(name)), "an operation of the model would be left out in silence");
}

#[test]
fn what_a_grant_must_not_say() {
    let one = |rest: &str| format!("1 validation error detected: {rest}");
    let create = |rest: &str| refused(O::CreateGrant, &format!(r#"{{"KeyId":"k",{rest}}}"#));
    let to_user = format!(r#""GranteePrincipal":"{USER}""#);
    let service = r#""GranteeServicePrincipal":"s3.us-east-1.amazonaws.com""#;
    let pairs = |n: usize| (0..n).map(|i| format!(r#""k{i}":"v""#)).collect::<Vec<_>>().join(",");
    let constraint = |name: &str, pairs: &str| {
        format!(r#"{to_user},"Operations":["Decrypt"],"Constraints":{{"{name}":{{{pairs}}}}}"#)
    };
    let source = r#""Constraints":{"SourceArn":"arn:aws:s3:eu-central-1:111122223333:bucket"}"#;
    let needs = "A grant with a GranteeServicePrincipal needs a SourceArn constraint, and a RetiringPrincipal or a \
                 RetiringServicePrincipal.";
    let long = "v".repeat(385);
    for (body, told) in [
        (
            r#""Operations":["Decrypt"]"#.to_owned(),
            one("Value null at 'granteePrincipal' failed to satisfy constraint: Member must not be null"),
        ),
        (
            format!(r#"{to_user},{service},"Operations":["Decrypt"]"#),
            "You must specify either GranteePrincipal or GranteeServicePrincipal, but not both.".to_owned(),
        ),
        (
            format!(
                r#"{to_user},"RetiringPrincipal":"{USER}","RetiringServicePrincipal":"a.b.c","Operations":["Decrypt"]"#
            ),
            "You must specify either RetiringPrincipal or RetiringServicePrincipal, but not both.".to_owned(),
        ),
        (
            format!(r#"{to_user},"Operations":[]"#),
            one(
                "Value at 'operations' failed to satisfy constraint: Member must have length greater than or equal to 1",
            ),
        ),
        (to_user.clone(), one("Value null at 'operations' failed to satisfy constraint: Member must not be null")),
        (
            constraint("EncryptionContextEquals", &pairs(9)),
            "EncryptionContextEquals can have at most 8 encryption context pairs.".to_owned(),
        ),
        (
            constraint("EncryptionContextSubset", &format!(r#""k":"{long}""#)),
            "A value in EncryptionContextSubset can have at most 384 characters.".to_owned(),
        ),
        (format!(r#"{service},{source},"Operations":["Decrypt"]"#), needs.to_owned()),
        (format!(r#"{service},"RetiringPrincipal":"{USER}","Operations":["Decrypt"]"#), needs.to_owned()),
    ] {
        assert_eq!(create(&body), ("ValidationException", told), "{body}");
    }
    let most = constraint("EncryptionContextEquals", &pairs(8));
    assert_eq!(created(&format!(r#"{{"KeyId":"k",{most}}}"#)).constraints.equals.unwrap().len(), 8);
    let longest = constraint("EncryptionContextSubset", &format!(r#""k":"{}""#, &long[1..]));
    assert!(created(&format!(r#"{{"KeyId":"k",{longest}}}"#)).constraints.subset.is_some());
    created(&format!(r#"{{"KeyId":"k",{service},{source},"RetiringPrincipal":"{USER}","Operations":["Decrypt"]}}"#));
    let (code, told) = create(&format!(r#"{to_user},"Operations":["Delete"]"#));
    assert!(code == "ValidationException" && told.contains("Member must satisfy enum value set"), "{told}");
    let (code, _) = create(&format!(r#"{to_user},"Operations":["Decrypt"],"Name":"a b""#));
    assert_eq!(code, "ValidationException");
    assert_eq!(
        refused(O::ListRetirableGrants, "{}"),
        (
            "ValidationException",
            one("Value null at 'retiringPrincipal' failed to satisfy constraint: Member must not be null")
        )
    );
    assert_eq!(
        refused(O::ListRetirableGrants, &format!(r#"{{"RetiringPrincipal":"{USER}","Limit":101}}"#)).0,
        "ValidationException"
    );
}

#[test]
fn the_token_form_of_retire_grant_has_no_parameters_in_the_record() {
    let shown = |body: &str| {
        let request = parse_body(O::RetireGrant, body.as_bytes()).unwrap();
        audit_parameters(&request).map(|raw| raw.get().to_owned())
    };
    assert_eq!(shown(r#"{"GrantToken":"t"}"#), None);
    assert_eq!(shown(r#"{"KeyId":"k","GrantId":"g"}"#).unwrap(), r#"{"keyId":"k","grantId":"g"}"#);
}
