//! The STS front: Query protocol, version 2011-06-15, for GetCallerIdentity alone. A client with a global
//! `AWS_ENDPOINT_URL` sends its STS calls to the KMS endpoint. Source: authorization.md §4.2 and §3.1 (error mapping).
//!
//! GetCallerIdentity needs no permission: who is told apart may know who they are.

mod error;
mod query;

use std::fmt::Write;

pub use error::{StsError, error_xml};
pub use query::{StsRequest, parse};

use crate::authn::Caller;

pub const CONTENT_TYPE: &str = "text/xml";
const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// The answer to GetCallerIdentity.
pub fn render(caller: &Caller, request_id: &str) -> String {
    let mut xml = String::with_capacity(480);
    let _ = write!(
        xml,
        "<GetCallerIdentityResponse xmlns=\"{NAMESPACE}\">\n  <GetCallerIdentityResult>\n    <Arn>{}</Arn>\n    \
         <UserId>{}</UserId>\n    <Account>{}</Account>\n  </GetCallerIdentityResult>\n  <ResponseMetadata>\n    \
         <RequestId>{}</RequestId>\n  </ResponseMetadata>\n</GetCallerIdentityResponse>\n",
        escape(&caller.arn()),
        escape(&caller.unique_id()),
        escape(caller.account().as_str()),
        escape(request_id),
    );
    xml
}

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
    use crate::authn::Principal;
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
            let xml = render(&Caller::in_test(principal, account.clone()), "5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11");
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
            assert_eq!(texts(&xml), expected);
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
