//! Which headers a signature must cover.

use super::echo;
use crate::authn::AuthnError;

/// RULE authorization.md §3.1.5: the list is in canonical form, holds `host`, names no absent header, and holds
/// `content-type` where there is one and every `x-amz-…` header of the request. (`amz-sdk-…` headers are added after signing.)
pub fn check_signed_headers(list: &str, headers: &[(&str, &[u8])]) -> Result<(), AuthnError> {
    let invalid = |text: String| Err(AuthnError::InvalidSignature(text));
    let names: Vec<&str> = if list.is_empty() { Vec::new() } else { list.split(';').collect() };

    let mut last = "";
    for name in &names {
        if *name <= last || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return invalid(
                "'SignedHeaders' must be lower-case, sorted and unique in the AWS Authorization.".to_owned(),
            );
        }
        last = name;
    }
    if !names.contains(&"host") {
        return invalid("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.".to_owned());
    }
    // Before the next loop, so that a long list of invented names costs little.
    for name in &names {
        if !headers.iter().any(|(present, _)| present == name) {
            return invalid(format!(
                "'{}' is a 'SignedHeader' in the AWS Authorization but not a header of the request.",
                echo(name)
            ));
        }
    }
    for (name, _) in headers {
        if (name.starts_with("x-amz-") || *name == "content-type") && !names.contains(name) {
            return invalid(format!("'{}' must be a 'SignedHeader' in the AWS Authorization.", echo(name)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        const FORM: &str = "'SignedHeaders' must be lower-case, sorted and unique";
        const HEADERS: &[(&str, &[u8])] = &[
            ("host", b"h"),
            ("content-type", b"c"),
            ("x-amz-date", b"d"),
            ("x-amz-target", b"t"),
            ("amz-sdk-request", b"r"),
            ("authorization", b"a"),
        ];
        for (list, expected) in [
            ("content-type;host;x-amz-date;x-amz-target", None),
            ("amz-sdk-request;content-type;host;x-amz-date;x-amz-target", None),
            ("content-type;x-amz-date;x-amz-target", Some("'Host' or ':authority' must be")),
            ("", Some("'Host' or ':authority' must be")),
            ("host;x-amz-date;x-amz-target", Some("'content-type' must be")),
            ("content-type;host;x-amz-target", Some("'x-amz-date' must be")),
            ("content-type;host;x-amz-date", Some("'x-amz-target' must be")),
            ("host;content-type;x-amz-date;x-amz-target", Some(FORM)),
            ("content-type;host;host;x-amz-date;x-amz-target", Some(FORM)),
            ("content-type;Host;x-amz-date;x-amz-target", Some(FORM)),
            (";content-type;host;x-amz-date;x-amz-target", Some(FORM)),
            ("content-type;host;x-amz-date;x-amz-target;", Some(FORM)),
            ("content-type;host;x-amz-date;x-amz-target;x-none", Some("'x-none' is a 'SignedHeader'")),
        ] {
            let found = check_signed_headers(list, HEADERS).map_err(|error| match error {
                AuthnError::InvalidSignature(text) => text,
                other => panic!("{other:?}"),
            });
            match expected {
                None => assert_eq!(found, Ok(()), "{list}"),
                Some(start) => assert!(found.as_ref().is_err_and(|text| text.starts_with(start)), "{list}: {found:?}"),
            }
        }
    }
}
