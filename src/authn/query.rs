//! The pre-signed form: the claim stands in the query string. Only STS GetCallerIdentity is asked for so (the pattern by
//! which Kubernetes and Vault tell AWS callers apart). Source: authorization.md §3.1, "Query (pre-signed) form".

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::AuthnError;
use super::sigv4::{ALGORITHM, Claim, Form, echo};

/// A week, AWS's limit.
const LONGEST_EXPIRES: i64 = 604_800;

/// Whether the query string carries a claim.
pub(super) fn is_presigned(query: &str) -> bool {
    pairs(query).any(|(name, _)| decode(name).is_ok_and(|name| name == "X-Amz-Algorithm"))
}

/// Whether the query string asks for GetCallerIdentity, and nothing else.
pub(super) fn asks_caller_identity(query: &str) -> bool {
    let mut actions = pairs(query).filter(|(name, _)| decode(name).is_ok_and(|name| name == "Action"));
    matches!((actions.next(), actions.next()), (Some((_, "GetCallerIdentity")), None))
}

/// RULE authorization.md §3.1, query form: each parameter decoded once; what is missing is one message.
pub fn parse_query<'a>(query: &'a str, token_in_header: Option<Cow<'a, str>>) -> Result<Claim<'a>, AuthnError> {
    let incomplete = |text: String| Err(AuthnError::IncompleteSignature(text));
    let mut parts = Parts::default();
    for (name, value) in pairs(query) {
        let name = decode(name)?;
        let slot = match &*name {
            "X-Amz-Algorithm" => &mut parts.algorithm,
            "X-Amz-Credential" => &mut parts.credential,
            "X-Amz-Date" => &mut parts.date,
            "X-Amz-Expires" => &mut parts.expires,
            "X-Amz-SignedHeaders" => &mut parts.signed_headers,
            "X-Amz-Signature" => &mut parts.signature,
            "X-Amz-Security-Token" => &mut parts.token,
            _ => continue,
        };
        if slot.replace(decode(value)?).is_some() {
            return incomplete(format!("AWS query-string parameters have more than one '{name}'."));
        }
    }

    let algorithm = parts.algorithm.unwrap_or_default();
    if algorithm != ALGORITHM {
        return incomplete(format!("Unsupported AWS 'algorithm': '{}'.", echo(&algorithm)));
    }
    let (credential, signature, signed_headers, date) =
        match (parts.credential, parts.signature, parts.signed_headers, parts.date) {
            (Some(credential), Some(signature), Some(signed_headers), Some(date)) => {
                (credential, signature, signed_headers, date)
            }
            (credential, signature, signed_headers, date) => {
                return incomplete(missing(&[
                    (credential.is_none(), "X-Amz-Credential"),
                    (signature.is_none(), "X-Amz-Signature"),
                    (signed_headers.is_none(), "X-Amz-SignedHeaders"),
                    (date.is_none(), "X-Amz-Date"),
                ]));
            }
        };
    let expires = parts.expires.map(|text| expires(&text)).transpose()?;
    let token = match (token_in_header, parts.token) {
        // Two tokens are none that opens.
        (Some(_), Some(_)) => Some(Cow::Borrowed("")),
        (header, parameter) => header.or(parameter),
    };
    Ok(Claim { credential, signed_headers, signature, date, expires, token, form: Form::Query })
}

#[derive(Default)]
struct Parts<'a> {
    algorithm: Option<Cow<'a, str>>,
    credential: Option<Cow<'a, str>>,
    date: Option<Cow<'a, str>>,
    expires: Option<Cow<'a, str>>,
    signed_headers: Option<Cow<'a, str>>,
    signature: Option<Cow<'a, str>>,
    token: Option<Cow<'a, str>>,
}

fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn decode(text: &str) -> Result<Cow<'_, str>, AuthnError> {
    percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| AuthnError::IncompleteSignature("AWS query-string parameters must be text in UTF-8.".to_owned()))
}

fn expires(text: &str) -> Result<i64, AuthnError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(seconds) if digits && (1..=LONGEST_EXPIRES).contains(&seconds) => Ok(seconds),
        _ => Err(AuthnError::IncompleteSignature(format!(
            "X-Amz-Expires must be a number of seconds from 1 to {LONGEST_EXPIRES}, got '{}'.",
            echo(text)
        ))),
    }
}

fn missing(checks: &[(bool, &str)]) -> String {
    let mut text = String::new();
    for (_, name) in checks.iter().filter(|(absent, _)| *absent) {
        text.push_str(&format!("AWS query-string parameters must include '{name}'. "));
    }
    text + "Re-examine the query-string parameters."
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters_are_decoded_once() {
        let query = "Action=GetCallerIdentity&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=A%2Fb%252F&\
                     X-Amz-Date=d&X-Amz-Expires=60&X-Amz-SignedHeaders=host%3Bx&X-Amz-Signature=s";
        assert!(is_presigned(query) && asks_caller_identity(query));
        let claim = parse_query(query, None).map_err(|error| error.to_string()).unwrap_or_else(|text| panic!("{text}"));
        assert_eq!((&*claim.credential, &*claim.signed_headers), ("A/b%2F", "host;x"));
        assert_eq!((claim.expires, claim.token), (Some(60), None));
        let with_token = format!("{query}&X-Amz-Security-Token=t");
        assert!(parse_query(&with_token, None).is_ok_and(|claim| claim.token.as_deref() == Some("t")));
    }

    #[test]
    fn only_one_action() {
        assert!(!asks_caller_identity("Action=AssumeRole"));
        assert!(!asks_caller_identity("Action=GetCallerIdentity&Action=GetCallerIdentity"));
        assert!(!asks_caller_identity("Action=GetCallerIdentity&%41ction=AssumeRole"));
        assert!(!asks_caller_identity(""));
    }

    #[test]
    fn refusals() {
        let base =
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=c&X-Amz-Date=d&X-Amz-SignedHeaders=h&X-Amz-Signature=s";
        for (query, text) in [
            ("X-Amz-Algorithm=AWS4", "Unsupported AWS 'algorithm': 'AWS4'."),
            (
                "X-Amz-Algorithm=AWS4-HMAC-SHA256",
                "AWS query-string parameters must include 'X-Amz-Credential'. AWS query-string parameters must include \
                 'X-Amz-Signature'. AWS query-string parameters must include 'X-Amz-SignedHeaders'. AWS query-string \
                 parameters must include 'X-Amz-Date'. Re-examine the query-string parameters.",
            ),
            (&format!("{base}&X-Amz-Date=d"), "AWS query-string parameters have more than one 'X-Amz-Date'."),
            (&format!("{base}&%ff"), "AWS query-string parameters must be text in UTF-8."),
            (
                &format!("{base}&X-Amz-Expires=0"),
                "X-Amz-Expires must be a number of seconds from 1 to 604800, got '0'.",
            ),
            (
                &format!("{base}&X-Amz-Expires=604801"),
                "X-Amz-Expires must be a number of seconds from 1 to 604800, got '604801'.",
            ),
            (
                &format!("{base}&X-Amz-Expires=+5"),
                "X-Amz-Expires must be a number of seconds from 1 to 604800, got '+5'.",
            ),
        ] {
            let error = parse_query(query, None).err().unwrap();
            assert_eq!(error, AuthnError::IncompleteSignature(text.to_owned()), "{query}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_no_harm(text in any::<String>(), tail in "[&=%A-Za-z0-9é-]{0,80}") {
            let _ = (is_presigned(&text), asks_caller_identity(&text), parse_query(&text, Some("t".into())).is_ok());
            let _ = parse_query(&format!("X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-{tail}"), None).is_ok();
        }
    }
}
