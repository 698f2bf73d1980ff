//! The Query protocol's requests: a form in the body, or, for GET, in the query string.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::StsError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StsRequest {
    GetCallerIdentity,
}

/// AWS STS's only version.
const VERSION: &str = "2011-06-15";

/// AWS's other actions, so that a caller learns what is not served from what does not exist.
const NOT_SERVED: &[&str] = &[
    "AssumeRole",
    "AssumeRoleWithSAML",
    "AssumeRoleWithWebIdentity",
    "AssumeRoot",
    "DecodeAuthorizationMessage",
    "GetAccessKeyInfo",
    "GetDelegatedAccessToken",
    "GetFederationToken",
    "GetSessionToken",
    "GetWebIdentityToken",
];

/// Unknown parameters are ignored, as AWS does. The query string of a POST is not read: what it asks stands in its body.
pub fn parse(method: &str, query: &str, body: &[u8]) -> Result<StsRequest, StsError> {
    let form = match method {
        "GET" => query,
        "POST" => std::str::from_utf8(body).map_err(|_| StsError::Malformed("it is not text in UTF-8"))?,
        _ => return Err(StsError::Malformed("the method is neither GET nor POST")),
    };
    let (mut action, mut version) = (None, None);
    for pair in form.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let slot = match &*decode(name)? {
            "Action" => &mut action,
            "Version" => &mut version,
            _ => continue,
        };
        if slot.replace(decode(value)?).is_some() {
            return Err(StsError::Malformed("it names Action or Version twice"));
        }
    }
    let action = action.filter(|action| !action.is_empty()).ok_or(StsError::MissingAction)?;
    let version = version.unwrap_or_default();
    if version == VERSION {
        if action == "GetCallerIdentity" {
            return Ok(StsRequest::GetCallerIdentity);
        }
        if let Some(known) = NOT_SERVED.iter().find(|known| **known == action) {
            return Err(StsError::NotServed(known));
        }
    }
    Err(StsError::InvalidAction { action: action.into_owned(), version: version.into_owned() })
}

/// `application/x-www-form-urlencoded`: here `+` is a space.
fn decode(text: &str) -> Result<Cow<'_, str>, StsError> {
    const NOT_TEXT: StsError = StsError::Malformed("it is not text in UTF-8");
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        let decoded = percent_decode_str(&spaced).decode_utf8().map_err(|_| NOT_TEXT)?;
        return Ok(Cow::Owned(decoded.into_owned()));
    }
    percent_decode_str(text).decode_utf8().map_err(|_| NOT_TEXT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rows() {
        let invalid = |action: &str, version: &str| {
            Err(StsError::InvalidAction { action: action.to_owned(), version: version.to_owned() })
        };
        let twice = Err(StsError::Malformed("it names Action or Version twice"));
        for (form, expected) in [
            ("Action=GetCallerIdentity&Version=2011-06-15", Ok(StsRequest::GetCallerIdentity)),
            ("Version=2011-06-15&X=%zz&&Action=Get%43allerIdentity", Ok(StsRequest::GetCallerIdentity)),
            ("Action=AssumeRole&Version=2011-06-15&RoleArn=x", Err(StsError::NotServed("AssumeRole"))),
            ("Action=Get+It&Version=2011-06-15", invalid("Get It", "2011-06-15")),
            ("Action=getcalleridentity&Version=2011-06-15", invalid("getcalleridentity", "2011-06-15")),
            ("Action=GetCallerIdentity", invalid("GetCallerIdentity", "")),
            ("Action=AssumeRole&Version=2010-05-08", invalid("AssumeRole", "2010-05-08")),
            ("", Err(StsError::MissingAction)),
            ("Action=&Version=2011-06-15", Err(StsError::MissingAction)),
            ("Action=GetCallerIdentity&Action=GetCallerIdentity&Version=2011-06-15", twice),
            ("Action=%ff", Err(StsError::Malformed("it is not text in UTF-8"))),
        ] {
            assert_eq!(parse("POST", "Action=ListUsers", form.as_bytes()), expected, "{form}");
            assert_eq!(parse("GET", form, b"Action=ListUsers"), expected, "{form}");
        }
        assert_eq!(parse("POST", "", b"\xff"), Err(StsError::Malformed("it is not text in UTF-8")));
        assert_eq!(
            parse("PUT", "Action=GetCallerIdentity&Version=2011-06-15", b""),
            Err(StsError::Malformed("the method is neither GET nor POST"))
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(method in "GET|POST", query in any::<String>(), body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&method, &query, &body);
        }
    }
}
