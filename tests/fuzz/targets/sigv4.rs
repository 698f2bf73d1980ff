//! Signatures in the header and in the query string, and the canonical form of what is signed.

#![no_main]

use hsm_bridge::authn::query::parse_query;
use hsm_bridge::authn::session_token::SealedToken;
use hsm_bridge::authn::sigv4::authorization::parse_authorization;
use hsm_bridge::authn::sigv4::canonical::{canonical_s3_uri, canonical_uri};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = parse_authorization(bytes, Some("20261122T000000Z".into()), None);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = parse_query(text, None);
    let _ = SealedToken::parse(text);
    let _ = canonical_s3_uri(text);
    let path = canonical_uri(text, true);
    assert!(path.starts_with("/"), "{path}");
});
