//! The `Authorization` header: `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`.

use std::borrow::Cow;

use super::{ALGORITHM, Claim, Form, echo};
use crate::authn::AuthnError;

/// RULE authorization.md §3.1.3. `date` is the `X-Amz-Date` or `Date` header, whose absence belongs to the same message as
/// that of the other parts. `token` is the `X-Amz-Security-Token` header.
pub fn parse_authorization<'a>(
    header: &'a [u8],
    date: Option<Cow<'a, str>>,
    token: Option<Cow<'a, str>>,
) -> Result<Claim<'a>, AuthnError> {
    let incomplete = |text: String| Err(AuthnError::IncompleteSignature(text));
    let Ok(header) = std::str::from_utf8(header) else {
        return incomplete("Authorization header must be text in UTF-8.".to_owned());
    };
    let header = header.trim();
    let (algorithm, rest) = header.split_once(' ').unwrap_or((header, ""));
    if algorithm != ALGORITHM {
        return incomplete(format!("Unsupported AWS 'algorithm': '{}'.", echo(algorithm)));
    }

    let mut parts = Parts::default();
    let rest = rest.trim();
    for pair in rest.split(',').map(str::trim).filter(|_| !rest.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            return incomplete(format!(
                "'{}' not a valid key=value pair (missing equal-sign) in Authorization header: '{ALGORITHM}'.",
                echo(pair)
            ));
        };
        let slot = match name {
            "Credential" => &mut parts.credential,
            "SignedHeaders" => &mut parts.signed_headers,
            "Signature" => &mut parts.signature,
            _ => continue,
        };
        if slot.replace(value).is_some() {
            return incomplete(format!("Authorization header has more than one '{name}' parameter."));
        }
    }

    match (parts.credential, parts.signed_headers, parts.signature, date) {
        (Some(credential), Some(signed_headers), Some(signature), Some(date)) => Ok(Claim {
            credential: credential.into(),
            signed_headers: signed_headers.into(),
            signature: signature.into(),
            date,
            expires: None,
            token,
            form: Form::Header,
        }),
        (credential, signed_headers, signature, date) => incomplete(missing(&[
            (credential.is_none(), "Authorization header requires 'Credential' parameter."),
            (signature.is_none(), "Authorization header requires 'Signature' parameter."),
            (signed_headers.is_none(), "Authorization header requires 'SignedHeaders' parameter."),
            (date.is_none(), "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."),
        ])),
    }
}

#[derive(Default)]
struct Parts<'a> {
    credential: Option<&'a str>,
    signed_headers: Option<&'a str>,
    signature: Option<&'a str>,
}

/// One message for all that is missing. AWS ends it with the header's text; ours names the algorithm only, so that no
/// signature gets into a log.
fn missing(checks: &[(bool, &str)]) -> String {
    let mut text = String::new();
    for (_, message) in checks.iter().filter(|(absent, _)| *absent) {
        text.push_str(message);
        text.push(' ');
    }
    text + "Authorization=" + ALGORITHM
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(header: &str) -> Result<Claim<'_>, String> {
        parse_authorization(header.as_bytes(), Some("20260101T000000Z".into()), None).map_err(|error| match error {
            AuthnError::IncompleteSignature(text) => text,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn spaces_around_commas_do_not_matter() {
        for header in [
            "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=h;i, Signature=s",
            "AWS4-HMAC-SHA256 Credential=a/b,SignedHeaders=h;i,Signature=s",
            " AWS4-HMAC-SHA256   Signature=s ,X=y, SignedHeaders=h;i,Credential=a/b ",
        ] {
            let claim = parse(header).unwrap_or_else(|text| panic!("{header}: {text}"));
            assert_eq!(
                (&*claim.credential, &*claim.signed_headers, &*claim.signature, &*claim.date),
                ("a/b", "h;i", "s", "20260101T000000Z")
            );
        }
    }

    #[test]
    fn refusals() {
        for (header, text) in [
            ("", "Unsupported AWS 'algorithm': ''."),
            ("Bearer abc", "Unsupported AWS 'algorithm': 'Bearer'."),
            (
                "AWS4-ECDSA-P256-SHA256 Credential=a, SignedHeaders=b, Signature=c",
                "Unsupported AWS 'algorithm': 'AWS4-ECDSA-P256-SHA256'.",
            ),
            (
                "AWS4-HMAC-SHA256 Credential=a, tok, Signature=c",
                "'tok' not a valid key=value pair (missing equal-sign) in Authorization header: 'AWS4-HMAC-SHA256'.",
            ),
            (
                "AWS4-HMAC-SHA256 Credential=a, Credential=a, SignedHeaders=b, Signature=c",
                "Authorization header has more than one 'Credential' parameter.",
            ),
            (
                "AWS4-HMAC-SHA256 SignedHeaders=b",
                "Authorization header requires 'Credential' parameter. Authorization header requires 'Signature' parameter. \
                 Authorization=AWS4-HMAC-SHA256",
            ),
        ] {
            assert_eq!(parse(header).err().as_deref(), Some(text), "{header}");
        }
    }

    #[test]
    fn all_missing_parts_are_one_message() {
        let error = parse_authorization(b"AWS4-HMAC-SHA256", None, None).err().unwrap();
        assert_eq!(
            error.to_string(),
            "Authorization header requires 'Credential' parameter. Authorization header requires 'Signature' parameter. \
             Authorization header requires 'SignedHeaders' parameter. Authorization header requires existence of either a \
             'X-Amz-Date' or a 'Date' header. Authorization=AWS4-HMAC-SHA256"
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_authorization(&bytes, None, None);
        }

        #[test]
        fn arbitrary_parts_do_no_harm(rest in "[A-Za-z=,; /é]{0,120}") {
            let date = Some(rest.as_str().into());
            let header = format!("AWS4-HMAC-SHA256 {rest}");
            let _ = parse_authorization(header.as_bytes(), date, Some(rest.as_str().into()));
        }
    }
}
