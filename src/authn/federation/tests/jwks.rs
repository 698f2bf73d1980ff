//! What a key set may hold.

use serde_json::{Value, json};

use super::super::{Algorithm, KeySet, KeySetError, LARGEST_KEY_SET};

/// The set of the fixtures' third provider, by kid.
fn key(kid: &str) -> Value {
    let jwks = &super::fixtures().providers[2].jwks;
    let key = jwks["keys"].as_array().unwrap().iter().find(|key| key["kid"] == kid).unwrap();
    key.clone()
}

fn with(kid: &str, member: &str, value: Value) -> Value {
    let mut key = key(kid);
    key[member] = value;
    key
}

fn parse(keys: &[Value]) -> Result<(usize, usize), KeySetError> {
    KeySet::parse(&json!({ "keys": keys }).to_string()).map(|set| (set.usable(), set.skipped()))
}

#[test]
fn keys_that_are_not_for_us_are_skipped() {
    let set = KeySet::parse(&super::fixtures().providers[2].jwks.to_string()).unwrap();
    // rsa-a, rsa-b, p256, p384, ed, twice twin, only-ps; skipped: six of no known shape, 1024 bits, enc, ops.
    assert_eq!((set.usable(), set.skipped()), (8, 9));
}

#[test]
fn a_key_must_be_whole() {
    let no = Err(KeySetError::NoneUsable(1));
    for (kid, member, value) in [
        ("rsa-b", "n", json!(null)),
        ("rsa-b", "n", json!("")),
        ("rsa-b", "n", json!("not base64!")),
        ("rsa-b", "n", json!("A".repeat(342))),
        ("rsa-b", "e", json!("AQ")),
        ("rsa-b", "e", json!("Ag")),
        ("rsa-b", "e", json!("")),
        ("rsa-b", "e", json!("AQAAAAAB")),
        ("rsa-b", "use", json!("enc")),
        ("rsa-b", "key_ops", json!(["sign"])),
        ("rsa-b", "kid", json!(7)),
        ("rsa-b", "kty", json!("EC")),
        ("p256", "crv", json!("P-384")),
        ("p256", "x", json!("AAAA")),
        ("p256", "y", json!(null)),
        ("p384", "crv", json!("P-256")),
        ("ed", "crv", json!("Ed448")),
        ("ed", "x", json!("AAAA")),
    ] {
        assert_eq!(parse(&[with(kid, member, value.clone())]), no, "{kid} {member} {value}");
    }
    for kid in ["rsa-a", "rsa-b", "p256", "p384", "ed"] {
        assert_eq!(parse(&[key(kid)]), Ok((1, 0)), "{kid}");
        assert_eq!(parse(&[with(kid, "x5c", json!(7)), json!(null)]), Ok((1, 1)), "{kid}: certificates are not read");
    }
}

#[test]
fn a_modulus_may_have_a_sign_byte() {
    use base64::Engine;
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let bare = engine.decode(key("rsa-b")["n"].as_str().unwrap()).unwrap();
    let signed = engine.encode([&[0][..], &bare].concat());
    assert_eq!(parse(&[with("rsa-b", "n", json!(signed))]), Ok((1, 0)));
    let short = [&[0, 0x7f][..], &bare[1..]].concat();
    assert_eq!(parse(&[with("rsa-b", "n", json!(engine.encode(short)))]), Err(KeySetError::NoneUsable(1)), "2047 bits");
}

#[test]
fn sets_have_borders() {
    assert_eq!(KeySet::parse(&" ".repeat(LARGEST_KEY_SET + 1)).unwrap_err(), KeySetError::TooLarge);
    for text in ["", "{}", "[]", "null", r#"{"keys": {}}"#, r#"{"keys": [}"#] {
        assert!(matches!(KeySet::parse(text), Err(KeySetError::Malformed(_))), "{text}");
    }
    assert_eq!(parse(&[]), Err(KeySetError::NoneUsable(0)));
    assert_eq!(parse(&vec![key("p256"); 100]), Ok((100, 0)));
    assert_eq!(parse(&vec![key("p256"); 101]), Err(KeySetError::TooMany));
}

#[test]
fn algorithms_by_name() {
    for algorithm in Algorithm::ALL {
        assert_eq!(algorithm.name().parse(), Ok(algorithm));
    }
    for bad in ["none", "HS256", "HS384", "HS512", "rs256", "ES512", ""] {
        assert!(bad.parse::<Algorithm>().is_err(), "{bad}");
    }
}
