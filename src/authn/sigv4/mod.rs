//! AWS Signature Version 4, the verifier's side. Each file is one noun of the procedure in authorization.md §3.1; the
//! order in which they are asked is [`Authenticator::authenticate`](super::Authenticator::authenticate).
//!
//! The functions are public for the published vectors and for fuzzing; they decide nothing by themselves.

pub mod authorization;
pub mod cache;
pub mod canonical;
pub mod date;
pub mod derive;
pub mod scope;
pub mod signed_headers;

use std::borrow::Cow;

pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What a request says about its signature, before anything of it is believed.
#[derive(PartialEq, Eq)]
pub struct Claim<'a> {
    pub credential: Cow<'a, str>,
    /// As listed, joined with `;`.
    pub signed_headers: Cow<'a, str>,
    pub signature: Cow<'a, str>,
    pub date: Cow<'a, str>,
    /// Seconds; only in the query form.
    pub expires: Option<i64>,
    /// The session token that came along.
    pub token: Option<Cow<'a, str>>,
    pub form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Header,
    /// Pre-signed: the claim stands in the query string, which is signed without `X-Amz-Signature`.
    Query,
}

/// A caller's own text as a message may repeat it: short, and without control characters. The limit is below the length of
/// a secret access key, should one have been put in a wrong place.
pub(super) fn echo(text: &str) -> String {
    const LIMIT: usize = 32;
    let mut shown: String = text.chars().take(LIMIT).map(|c| if c.is_control() { '?' } else { c }).collect();
    if text.chars().nth(LIMIT).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_short_and_printable() {
        assert_eq!(echo("a\r\nb"), "a??b");
        assert_eq!(echo(&"x".repeat(40)), format!("{}…", "x".repeat(32)));
        assert_eq!(echo(&"é".repeat(32)), "é".repeat(32));
    }
}
