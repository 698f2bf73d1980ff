//! The canonical request and the string to sign. Source: authorization.md §3.1.9.

use std::borrow::Cow;

use aws_lc_rs::digest;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{ALGORITHM, Form};

/// RFC 3986's unreserved characters stay as they are.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const RESERVED_IN_PATH: &AsciiSet = &RESERVED.remove(b'/');

/// The path by the rule for all services but S3: dot segments and empty segments removed, then encoded once more.
/// `normalize = false` leaves the segments, as the published vectors want to see too.
pub fn canonical_uri(path: &str, normalize: bool) -> String {
    let path = if normalize { Cow::Owned(without_dot_segments(path)) } else { Cow::Borrowed(path) };
    if path.is_empty() {
        "/".to_owned()
    } else {
        percent_encoding::utf8_percent_encode(&path, RESERVED_IN_PATH).to_string()
    }
}

fn without_dot_segments(path: &str) -> String {
    let mut kept = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            other => kept.push(other),
        }
    }
    let is_folder = path.ends_with('/') || path.ends_with("/.") || path.ends_with("/..");
    let end = if is_folder && !kept.is_empty() { "/" } else { "" };
    format!("/{}{end}", kept.join("/"))
}

/// The path by S3's rule: decoded and encoded once, never normalised: `..` and `//` are parts of a key like any other.
pub fn canonical_s3_uri(path: &str) -> String {
    let bytes: Vec<u8> = percent_decode_str(path).collect();
    if bytes.is_empty() {
        "/".to_owned()
    } else {
        percent_encoding::percent_encode(&bytes, RESERVED_IN_PATH).to_string()
    }
}

/// Each name and value decoded and encoded anew, sorted. In the query form without `X-Amz-Signature`; in the header form
/// such a parameter is one like any other, so that it cannot be added after signing.
pub fn canonical_query(query: &str, form: Form) -> String {
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encode_anew(name), encode_anew(value)))
        .filter(|(name, _)| form == Form::Header || name != "X-Amz-Signature")
        .collect();
    pairs.sort_unstable();
    let mut text = String::with_capacity(query.len() + 16);
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(&name);
        text.push('=');
        text.push_str(&value);
    }
    text
}

/// `+` is a plus sign, not a space; a `%` without two hex digits is itself.
fn encode_anew(text: &str) -> String {
    if !text.contains('%') {
        return utf8_percent_encode(text, RESERVED).to_string();
    }
    let bytes: Vec<u8> = percent_decode_str(text).collect();
    percent_encoding::percent_encode(&bytes, RESERVED).to_string()
}

/// How the value of `host` gets into the canonical request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    LowerCase,
    AsReceived,
}

/// `signed_headers` as listed in the claim, `payload_hash` in hex. `uri` and `query` are canonical.
pub fn canonical_request(
    method: &str,
    uri: &str,
    query: &str,
    headers: &[(&str, &[u8])],
    host: Host,
    signed_headers: &str,
    payload_hash: &str,
) -> Vec<u8> {
    let values: usize = headers.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    let mut text = Vec::with_capacity(
        method.len() + uri.len() + query.len() + values + signed_headers.len() + payload_hash.len() + 8,
    );
    for line in [method, uri, query] {
        text.extend_from_slice(line.as_bytes());
        text.push(b'\n');
    }
    for name in signed_headers.split(';') {
        text.extend_from_slice(name.as_bytes());
        text.push(b':');
        for (at, (_, value)) in headers.iter().filter(|(present, _)| *present == name).enumerate() {
            if at > 0 {
                text.push(b',');
            }
            let start = text.len();
            push_value(&mut text, value);
            if name == "host" && host == Host::LowerCase {
                text.iter_mut().skip(start).for_each(|byte| byte.make_ascii_lowercase());
            }
        }
        text.push(b'\n');
    }
    text.push(b'\n');
    text.extend_from_slice(signed_headers.as_bytes());
    text.push(b'\n');
    text.extend_from_slice(payload_hash.as_bytes());
    text
}

/// Trimmed, and with one space where there were several, inside quotes too.
fn push_value(text: &mut Vec<u8>, value: &[u8]) {
    let blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let Some(first) = value.iter().position(|byte| !blank(byte)) else {
        return;
    };
    let last = value.iter().rposition(|byte| !blank(byte)).unwrap_or(first);
    let mut after_space = false;
    for byte in value.get(first..=last).unwrap_or_default() {
        if !(after_space && *byte == b' ') {
            text.push(*byte);
        }
        after_space = *byte == b' ';
    }
}

/// `date` in ISO 8601 basic format.
pub fn string_to_sign(date: &str, region: &str, service: &str, canonical_request: &[u8]) -> String {
    let day = date.get(..8).unwrap_or(date);
    let hash = sha256(canonical_request);
    let mut text = String::with_capacity(160);
    for part in [ALGORITHM, "\n", date, "\n", day, "/", region, "/", service, "/aws4_request\n", hash.as_str()] {
        text.push_str(part);
    }
    text
}

/// SHA-256 in lower-case hex, without the heap.
pub fn sha256(bytes: &[u8]) -> HexDigest {
    let mut hex = [0; 64];
    hex::encode_to_slice(digest::digest(&digest::SHA256, bytes), &mut hex).expect("32 bytes are 64 hex digits");
    HexDigest(hex)
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HexDigest([u8; 64]);

impl HexDigest {
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hex digits are ASCII")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths() {
        for (path, expected) in [
            ("", "/"),
            ("/", "/"),
            ("//", "/"),
            ("/a/./b/../c//d/", "/a/c/d/"),
            ("/../..", "/"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/%3A é", "/%253A%20%C3%A9"),
        ] {
            assert_eq!(canonical_uri(path, true), expected, "{path}");
        }
        assert_eq!(canonical_uri("//a/./", false), "//a/./");
    }

    #[test]
    fn paths_of_s3() {
        for (path, expected) in [
            ("", "/"),
            ("/", "/"),
            ("/b/a//../c", "/b/a//../c"),
            ("/b/%41%2f%2B+%20é", "/b/A/%2B%2B%20%C3%A9"),
            ("/b/%zz%", "/b/%25zz%25"),
        ] {
            assert_eq!(canonical_s3_uri(path), expected, "{path}");
        }
    }

    #[test]
    fn queries() {
        for (query, expected) in [
            ("", ""),
            ("&&", ""),
            ("a", "a="),
            ("b=1&a=2&a=1&a-b=0", "a=1&a=2&a-b=0&b=1"),
            ("a=+%20%2b%7e%zz%", "a=%2B%20%2B~%25zz%25"),
            ("a=b=c", "a=b%3Dc"),
            ("%ff=\u{1234}", "%FF=%E1%88%B4"),
            ("a=1&X-Amz-Signature=x", "X-Amz-Signature=x&a=1"),
        ] {
            assert_eq!(canonical_query(query, Form::Header), expected, "{query}");
        }
        assert_eq!(canonical_query("a=1&X-Amz-Signatur%65=x&X-Amz-Signature", Form::Query), "a=1");
    }

    #[test]
    fn headers() {
        let request = |host| {
            let headers: &[(&str, &[u8])] =
                &[("b", b"\t x  \"y   z\" "), ("host", b" Example:8443"), ("b", b"   "), ("c", b"no"), ("b", b"2")];
            String::from_utf8(canonical_request("POST", "/", "", headers, host, "b;host", "hash")).unwrap()
        };
        assert_eq!(request(Host::LowerCase), "POST\n/\n\nb:x \"y z\",,2\nhost:example:8443\n\nb;host\nhash");
        assert_eq!(request(Host::AsReceived), "POST\n/\n\nb:x \"y z\",,2\nhost:Example:8443\n\nb;host\nhash");
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_no_harm(text in any::<String>(), bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            canonical_uri(&text, true);
            canonical_query(&text, Form::Query);
            let headers: &[(&str, &[u8])] = &[(&text, &bytes), ("host", &bytes)];
            canonical_request(&text, &text, &text, headers, Host::LowerCase, &text, &text);
            string_to_sign(&text, &text, &text, &bytes);
        }

        #[test]
        fn a_canonical_query_is_a_fixed_point(query in "[ab&=%2+é~-]{0,60}") {
            let once = canonical_query(&query, Form::Header);
            prop_assert_eq!(canonical_query(&once, Form::Header), once);
        }
    }
}
