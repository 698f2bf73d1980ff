//! Signing keys and signatures: HMAC-SHA-256 four times over the scope, once over the string to sign.
//! Source: authorization.md §3.1.10.

use std::fmt;

use aws_lc_rs::hmac;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// kSigning: good for one access key, day, Region and service.
pub struct SigningKey(Zeroizing<[u8; 32]>);

impl SigningKey {
    /// `day` is `YYYYMMDD`.
    pub fn derive(secret: &str, day: &str, region: &str, service: &str) -> Self {
        let mut first = Zeroizing::new(Vec::with_capacity(4 + secret.len()));
        first.extend_from_slice(b"AWS4");
        first.extend_from_slice(secret.as_bytes());
        let date_key = hmac_sha256(&first, day.as_bytes());
        let region_key = hmac_sha256(date_key.as_slice(), region.as_bytes());
        let service_key = hmac_sha256(region_key.as_slice(), service.as_bytes());
        Self(hmac_sha256(service_key.as_slice(), b"aws4_request"))
    }

    /// Stands in where there is no key, so that the same work is done.
    pub fn dummy() -> Self {
        Self(Zeroizing::new([0x5a; 32]))
    }

    /// Whether `signature`, 64 lower-case hex digits, is that of `string_to_sign`. The right one never leaves this function.
    pub fn verify(&self, string_to_sign: &str, signature: &str) -> bool {
        let mut given = [0; 32];
        let well_formed = signature.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            && hex::decode_to_slice(signature, &mut given).is_ok();
        let expected = hmac_sha256(self.0.as_slice(), string_to_sign.as_bytes());
        bool::from(expected.as_slice().ct_eq(&given)) && well_formed
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(redacted)")
    }
}

fn hmac_sha256(key: &[u8], data: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut tag = Zeroizing::new([0; 32]);
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign_to_buffer(&key, data, tag.as_mut_slice()).expect("an HMAC-SHA-256 tag has 32 bytes");
    tag
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worked example of AWS's page "Deriving the signing key".
    #[test]
    fn published_example() {
        let key = SigningKey::derive("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "20150830", "us-east-1", "iam");
        assert_eq!(hex::encode(key.0.as_slice()), "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9");
        assert_eq!(format!("{key:?}"), "SigningKey(redacted)");
    }

    #[test]
    fn only_64_lower_case_hex_digits_verify() {
        let key = SigningKey::dummy();
        let right = hex::encode(hmac_sha256(key.0.as_slice(), b"text").as_slice());
        assert!(key.verify("text", &right));
        assert!(!key.verify("texT", &right));
        let zeros = "0".repeat(64);
        for wrong in
            ["", "00", &right[..62], &format!("{right}00"), &right.to_uppercase(), &format!(" {right}"), &zeros]
        {
            assert!(!key.verify("text", wrong), "{wrong}");
        }
        assert!(!key.verify("text", &format!("g{}", &right[1..])));
    }
}
