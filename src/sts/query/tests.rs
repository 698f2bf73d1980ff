use super::*;
use proptest::prelude::*;

const V: &str = "Version=2011-06-15";
const ROLE: &str = "RoleArn=arn:aws:iam::111122223333:role/ops&RoleSessionName=one";

fn post(form: &str) -> Result<Parsed, StsError> {
    parse("POST", "", form.as_bytes())
}

fn of(action: &str, form: &str) -> Result<StsRequest, StsError> {
    post(&format!("Action={action}&{V}&{form}")).map(|parsed| parsed.request)
}

fn assume(form: &str) -> AssumeRole {
    match of("AssumeRole", &format!("{ROLE}&{form}")).unwrap() {
        StsRequest::AssumeRole(request) => *request,
        other => panic!("{other:?}"),
    }
}

fn refused(action: &str, form: &str) -> String {
    of(action, form).unwrap_err().message()
}

#[test]
fn actions() {
    let invalid = |action: &str, version: &str| {
        Some(StsError::InvalidAction { action: action.to_owned(), version: version.to_owned() })
    };
    let twice = Some(StsError::Malformed("it names a parameter twice"));
    for (form, expected) in [
        ("Action=GetCallerIdentity&Version=2011-06-15", None),
        ("Version=2011-06-15&X=%zz&&Action=Get%43allerIdentity", None),
        ("Action=AssumeRoleWithSAML&Version=2011-06-15", Some(StsError::NotServed("AssumeRoleWithSAML"))),
        (
            "Action=DecodeAuthorizationMessage&Version=2011-06-15",
            Some(StsError::NotServed("DecodeAuthorizationMessage")),
        ),
        ("Action=Get+It&Version=2011-06-15", invalid("Get It", "2011-06-15")),
        ("Action=getcalleridentity&Version=2011-06-15", invalid("getcalleridentity", "2011-06-15")),
        ("Action=GetCallerIdentity", invalid("GetCallerIdentity", "")),
        ("Action=GetCallerIdentity&Version=2010-05-08", invalid("GetCallerIdentity", "2010-05-08")),
        ("Version=2011-06-15", Some(StsError::MissingAction)),
        ("Action=&Version=2011-06-15", Some(StsError::MissingAction)),
        ("", Some(StsError::MissingAction)),
        ("Action=A&Action=B&Version=2011-06-15", twice.clone()),
        ("Action=GetCallerIdentity&Version=2011-06-15&%41ction=B", twice),
        ("Action=%ff&Version=2011-06-15", Some(StsError::Malformed("it is not text in UTF-8"))),
    ] {
        assert_eq!(post(form).err(), expected, "{form}");
        assert_eq!(parse("GET", form, b"").err(), expected, "{form}");
    }
    assert_eq!(parse("POST", "Action=GetCallerIdentity&Version=2011-06-15", b"").unwrap_err(), StsError::MissingAction);
    assert!(matches!(parse("PUT", "", b""), Err(StsError::Malformed(_))));
}

#[test]
fn all_of_assume_role() {
    let request = assume(
        "DurationSeconds=900&ExternalId=a/b&Policy=%7B%7D&PolicyArns.member.1.arn=arn:aws:iam::111122223333:policy/p&\
         Tags.member.2.Key=b&Tags.member.2.Value=&Tags.member.1.Key=a+b&Tags.member.1.Value=%C3%A9&\
         TransitiveTagKeys.member.1=b&SourceIdentity=alice",
    );
    assert_eq!(request.role_arn, "arn:aws:iam::111122223333:role/ops");
    assert_eq!((&*request.session_name, request.duration_seconds), ("one", Some(900)));
    assert_eq!(request.external_id.as_deref(), Some("a/b"));
    assert_eq!(request.policies.policy.as_deref(), Some("{}"));
    assert_eq!(request.policies.policy_arns, ["arn:aws:iam::111122223333:policy/p"]);
    assert_eq!(request.tags, [("a b".into(), "é".into()), ("b".into(), String::new())]);
    assert_eq!(request.transitive_tag_keys, ["b"]);
    assert_eq!(request.source_identity.as_deref(), Some("alice"));
    let bare = assume("");
    assert!(bare.tags.is_empty() && bare.policies.policy.is_none() && bare.duration_seconds.is_none());
}

#[test]
fn members_stand_in_the_order_of_their_numbers() {
    let tags: String = (1..=12).rev().map(|n| format!("&Tags.member.{n}.Key=k{n}&Tags.member.{n}.Value=v")).collect();
    let keys: Vec<_> = assume(&tags).tags.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, (1..=12).map(|n| format!("k{n}")).collect::<Vec<_>>());
}

#[test]
fn what_is_wrong_is_said_as_aws_says_it() {
    const ONE: &str = "1 validation error detected: ";
    let at = |value: &str, place: &str, constraint: &str| {
        format!("{ONE}Value {value} at '{place}' failed to satisfy constraint: Member must {constraint}")
    };
    let arn = "RoleArn=arn:aws:iam::111122223333:role/ops";
    for (form, expected) in [
        (format!("{arn}&RoleSessionName=x"), at("'x'", "roleSessionName", "have length greater than or equal to 2")),
        (
            format!("{arn}&RoleSessionName={}", "x".repeat(65)),
            at(&format!("'{}'", "x".repeat(65)), "roleSessionName", "have length less than or equal to 64"),
        ),
        (
            format!("{arn}&RoleSessionName=a+b"),
            at("'a b'", "roleSessionName", r"satisfy regular expression pattern: [\w+=,.@-]*"),
        ),
        (arn.to_owned(), at("null", "roleSessionName", "not be null")),
        (
            "RoleArn=short&RoleSessionName=one".into(),
            at("'short'", "roleArn", "have length greater than or equal to 20"),
        ),
        (
            format!("{ROLE}&DurationSeconds=899"),
            at("'899'", "durationSeconds", "have value greater than or equal to 900"),
        ),
        (
            format!("{ROLE}&DurationSeconds=43201"),
            at("'43201'", "durationSeconds", "have value less than or equal to 43200"),
        ),
        (format!("{ROLE}&DurationSeconds=1h"), at("'1h'", "durationSeconds", "be an integer")),
        (
            format!("{ROLE}&Tags.member.1.Key=a%3F&Tags.member.1.Value=b"),
            at("'a?'", "tags.1.member.key", r"satisfy regular expression pattern: [\p{L}\p{Z}\p{N}_.:/=+\-@]+"),
        ),
        (format!("{ROLE}&Tags.member.1.Key=a"), at("null", "tags.1.member.value", "not be null")),
        (
            format!("{ROLE}&Policy=%E2%82%AC"),
            at("'€'", "policy", r"satisfy regular expression pattern: [\u0009\u000A\u000D\u0020-\u00FF]+"),
        ),
        (
            format!("{ROLE}&Tags.member.1.Key=a&Tags.member.1.Value=b&Tags.member.2.Key=A&Tags.member.2.Value=b"),
            "Duplicate tag keys found. Please note that Tag keys are case insensitive.".into(),
        ),
        (
            format!("{ROLE}&TransitiveTagKeys.member.1=a"),
            "The specified transitive tag key must be included in the requested tags.".into(),
        ),
        (
            format!("{ROLE}&SerialNumber=arn:aws:iam::111122223333:mfa/a&TokenCode=123456"),
            "MultiFactorAuthentication failed with invalid MFA one time pass code.".into(),
        ),
    ] {
        assert_eq!(refused("AssumeRole", &form), expected, "{form}");
    }
    let eleven: String =
        (1..=11).map(|n| format!("&PolicyArns.member.{n}.arn=arn:aws:iam::111122223333:policy/p{n}")).collect();
    assert!(refused("AssumeRole", &format!("{ROLE}{eleven}")).contains("'policyArns' failed"));
    assert!(refused("AssumeRole", "").starts_with("2 validation errors detected: Value null at 'roleArn'"));
    assert!(refused("GetFederationToken", "Name=x").contains("at 'name'"));
    assert!(refused("GetSessionToken", "DurationSeconds=129601").contains("equal to 129600"));
    assert!(refused("GetAccessKeyInfo", "AccessKeyId=AKIA").contains("at 'accessKeyId'"));
    assert_eq!(of("GetSessionToken", "TokenCode=123456").unwrap_err().status(), 403);
}

#[test]
fn a_web_identity_token_is_not_repeated() {
    let action = "AssumeRoleWithWebIdentity";
    let long = "s".repeat(20_001);
    let text = refused(action, &format!("{ROLE}&WebIdentityToken={long}"));
    assert!(text.contains("'***' at 'webIdentityToken'") && !text.contains("sss"), "{text}");
    let form = format!("Action={action}&{V}&{ROLE}&WebIdentityToken=canary.canary.canary");
    let parsed = post(&form).unwrap();
    assert_eq!(parsed.web_identity_token.as_ref().unwrap().expose(), "canary.canary.canary");
    assert!(!format!("{parsed:?}").contains("canary"));
    assert!(is_web_identity("POST", "", form.as_bytes()) && !is_web_identity("POST", "", b"Action=AssumeRole"));
    assert!(!is_web_identity("POST", &form, b""), "the query string of a POST is not read");
}

proptest! {
    #[test]
    fn any_form_is_read_or_refused(form in ".{0,200}", body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = (post(&form).is_ok(), parse("GET", &form, b"").is_ok(), parse("POST", "", &body).is_ok());
    }

    #[test]
    fn any_parameters_of_an_action_are_read_or_refused(
        action in prop::sample::select(vec!["AssumeRole", "AssumeRoleWithWebIdentity", "GetSessionToken", "GetFederationToken"]),
        name in "(Tags|PolicyArns|TransitiveTagKeys)\\.member\\.[0-9]{1,12}(\\.(Key|Value|arn))?|DurationSeconds|Policy|Name",
        value in ".{0,40}",
    ) {
        let value = percent_encoding::utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC).to_string();
        let _ = of(action, &format!("{ROLE}&{name}={value}"));
    }
}
