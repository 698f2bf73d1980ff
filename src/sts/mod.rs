//! The STS front: Query protocol, version 2011-06-15. A client with a global `AWS_ENDPOINT_URL` sends its STS calls to the KMS
//! endpoint. Source: authorization.md §4.2 and §3.1 (error mapping).

mod audit;
mod error;
mod form;
mod query;
mod render;

pub use audit::{audit_parameters, audit_response};
pub use error::{StsError, error_xml};
pub use query::{Parsed, action_name, is_web_identity, parse};
pub use render::render;

pub const CONTENT_TYPE: &str = "text/xml";
const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// Text as XML 1.0 may hold it: markup escaped, characters that XML forbids replaced.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\n' | '\t' | ' '.. if !matches!(character, '\u{fffe}' | '\u{ffff}') => escaped.push(character),
            _ => escaped.push('\u{fffd}'),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::{Caller, Principal};
    use crate::ops::{Credentials, RoleCredentials, StsResponse};
    use crate::secret::SecretString;
    use proptest::prelude::*;
    use quick_xml::events::Event;

    /// The texts of all elements, in order, read by somebody else's parser.
    fn texts(xml: &str) -> Vec<(String, String)> {
        let mut reader = quick_xml::Reader::from_str(xml);
        let (mut path, mut found) = (Vec::new(), Vec::<(String, String)>::new());
        loop {
            match reader.read_event().unwrap() {
                Event::Start(start) => {
                    path.push(start.name().as_ref().to_owned());
                    found.push((start.name().as_ref().to_owned(), String::new()));
                }
                Event::End(_) => drop(path.pop()),
                Event::Text(text) => found.last_mut().unwrap().1.push_str(&text),
                Event::GeneralRef(entity) => {
                    let text = format!("&{};", &*entity);
                    found.last_mut().unwrap().1.push_str(&quick_xml::escape::unescape(&text).unwrap());
                }
                Event::Eof => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(path.is_empty());
        found.into_iter().map(|(name, text)| (name, text.trim().to_owned())).collect()
    }

    #[test]
    fn the_identity_has_the_shape_of_aws() {
        let account: crate::ids::AccountId = "111122223333".parse().unwrap();
        let user = Principal::User {
            name: "Alice".parse().unwrap(),
            path: "/".parse().unwrap(),
            user_id: "AIDAAAAAAAAAAAAAAAAAA".into(),
        };
        for (principal, arn, user_id) in [
            (Principal::Root, "arn:aws:iam::111122223333:root", "111122223333"),
            (user, "arn:aws:iam::111122223333:user/Alice", "AIDAAAAAAAAAAAAAAAAAA"),
        ] {
            let caller = Caller::in_test(principal, account.clone());
            let xml = render(&StsResponse::CallerIdentity, &caller, "5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11");
            let xml = std::str::from_utf8(xml.expose()).unwrap();
            assert!(
                xml.starts_with("<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n")
            );
            let expected = [
                ("GetCallerIdentityResponse", ""),
                ("GetCallerIdentityResult", ""),
                ("Arn", arn),
                ("UserId", user_id),
                ("Account", "111122223333"),
                ("ResponseMetadata", ""),
                ("RequestId", "5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11"),
            ];
            let expected: Vec<_> =
                expected.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
            assert_eq!(texts(xml), expected);
        }
    }

    #[test]
    fn credentials_have_the_shape_of_aws() {
        let credentials = Credentials {
            access_key: "ASIAGAYTEMZUGU3DOOBZ".parse().unwrap(),
            secret: SecretString::new("s+/=".into()),
            session_token: SecretString::new("t+/=".into()),
            expiration: 1_767_231_000,
        };
        let role = RoleCredentials {
            credentials: credentials.clone(),
            arn: "arn:aws:sts::111122223333:assumed-role/ops/one".into(),
            id: "AROAAAAAAAAAAAAAAAAAA:one".into(),
            packed_policy_size: 6,
            source_identity: Some("alice".into()),
            web_identity: None,
        };
        let web = RoleCredentials {
            source_identity: None,
            web_identity: Some(("sub".into(), "aud".into(), "https://issuer.example".into())),
            ..role.clone()
        };
        let in_credentials = "AccessKeyId=ASIAGAYTEMZUGU3DOOBZ SecretAccessKey=s+/= SessionToken=t+/= \
                              Expiration=2026-01-01T01:30:00Z";
        let in_role = format!(
            "AssumedRoleUser= Arn=arn:aws:sts::111122223333:assumed-role/ops/one AssumedRoleId=AROAAAAAAAAAAAAAAAAAA:one \
             Credentials= {in_credentials} PackedPolicySize=6"
        );
        let federated = StsResponse::Federated {
            credentials: Box::new(credentials.clone()),
            arn: "arn:f".into(),
            id: "111122223333:f".into(),
            packed_policy_size: 0,
        };
        for (response, name, expected) in [
            (StsResponse::Role(Box::new(role)), "AssumeRole", format!("SourceIdentity=alice {in_role}")),
            (
                StsResponse::Role(Box::new(web)),
                "AssumeRoleWithWebIdentity",
                format!("SubjectFromWebIdentityToken=sub Audience=aud Provider=https://issuer.example {in_role}"),
            ),
            (StsResponse::Session(Box::new(credentials)), "GetSessionToken", format!("Credentials= {in_credentials}")),
            (
                federated,
                "GetFederationToken",
                format!(
                    "Credentials= {in_credentials} FederatedUser= FederatedUserId=111122223333:f Arn=arn:f PackedPolicySize=0"
                ),
            ),
            (
                StsResponse::AccessKeyInfo { account: "111122223333".into() },
                "GetAccessKeyInfo",
                "Account=111122223333".to_owned(),
            ),
        ] {
            let caller = Caller::in_test(Principal::Root, "111122223333".parse().unwrap());
            let xml = render(&response, &caller, "id-1");
            let found = texts(std::str::from_utf8(xml.expose()).unwrap());
            let found: Vec<_> = found.into_iter().map(|(name, text)| format!("{name}={text}")).collect();
            let expected = format!("{name}Response= {name}Result= {expected} ResponseMetadata= RequestId=id-1");
            assert_eq!(found.join(" "), expected);
            let date = |ms: i64| ms.to_string();
            let recorded = audit_response(&response, date).map_or(String::new(), |told| told.get().to_owned());
            assert!(!recorded.contains("s+/=") && !recorded.contains("t+/="), "{recorded}");
        }
    }

    #[test]
    fn markup_is_escaped() {
        assert_eq!(escape("<a b='\"&\">"), "&lt;a b=&apos;&quot;&amp;&quot;&gt;");
        assert_eq!(escape("a\0\u{1b}\u{ffff}\n"), "a\u{fffd}\u{fffd}\u{fffd}\n");
    }

    proptest! {
        #[test]
        fn any_text_gives_well_formed_xml(text in any::<String>()) {
            let xml = error_xml(&StsError::InvalidAction { action: text.clone(), version: text }, "id");
            let found = texts(&xml);
            prop_assert_eq!(found.len(), 6);
            prop_assert_eq!(&found[3].1, "InvalidAction");
        }
    }
}
