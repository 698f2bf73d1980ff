//! RFC 3161: what a time-stamping authority is asked, and whether its answer is about what was asked. Its signature is for the
//! auditor to check, who has the authority's certificate (`openssl ts -verify`).

use aws_lc_rs::digest;
use x509_cert::der::asn1::{AnyRef, ObjectIdentifier, OctetStringRef, UintRef};
use x509_cert::der::{Encode, Tag};

/// Identifier octets, as they stand in DER.
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
/// No authority's answer with its certificates comes near.
pub const LARGEST_RESPONSE: usize = 256 * 1024;

/// A request that waits for its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeStampRequest {
    /// TimeStampReq, DER.
    pub der: Vec<u8>,
    imprint: Vec<u8>,
    nonce: Vec<u8>,
}

impl TimeStampRequest {
    /// Asks for a stamp on SHA-256 of `data`, with the authority's certificate. `None`: it cannot be encoded.
    pub fn over(data: &[u8], nonce: [u8; 8]) -> Option<TimeStampRequest> {
        let hash = digest::digest(&digest::SHA256, data);
        let algorithm = sequence(&[SHA256.to_der().ok()?, AnyRef::NULL.to_der().ok()?])?;
        let imprint = sequence(&[algorithm, OctetStringRef::new(hash.as_ref()).ok()?.to_der().ok()?])?;
        let nonce = UintRef::new(&nonce).ok()?.to_der().ok()?;
        // RULE RFC 3161 §2.4.1: version 1, messageImprint, nonce, certReq TRUE.
        let der = sequence(&[1u8.to_der().ok()?, imprint.clone(), nonce.clone(), true.to_der().ok()?])?;
        Some(TimeStampRequest { der, imprint, nonce })
    }

    /// Whether the response (TimeStampResp, DER) is a stamp on what was asked, and on this request. Nothing is said about who
    /// made it.
    pub fn is_answered_by(&self, response: &[u8]) -> Result<(), String> {
        let broken = || "the answer is no time-stamp response".to_owned();
        let whole = Value::read(response, SEQUENCE).ok_or_else(broken)?;
        let status_info = Value::read(whole.content, SEQUENCE).ok_or_else(broken)?;
        let status = Value::read(status_info.content, INTEGER).ok_or_else(broken)?;
        // RULE RFC 3161 §2.4.2: granted (0) and grantedWithMods (1) carry a token.
        if !matches!(status.content, [0 | 1]) {
            return Err(format!("the authority grants no stamp (status {})", hex::encode(status.content)));
        }
        let info = stamp_info(status_info.rest).ok_or_else(broken)?;
        let version = Value::read(info, INTEGER).ok_or_else(broken)?;
        let policy = Value::read(version.rest, OBJECT_IDENTIFIER).ok_or_else(broken)?;
        if !policy.rest.starts_with(&self.imprint) {
            return Err("the stamp is on something else".to_owned());
        }
        let mut rest = policy.rest;
        while let Some(value) = Value::any(rest) {
            let whole = rest.get(..rest.len() - value.rest.len()).unwrap_or_default();
            // serialNumber stands right behind the imprint, and is no nonce.
            if whole == self.nonce && rest.len() != policy.rest.len() - self.imprint.len() {
                return Ok(());
            }
            rest = value.rest;
        }
        Err("the stamp answers another request".to_owned())
    }
}

/// TSTInfo's members: ContentInfo → SignedData → encapContentInfo → eContent. RULE RFC 5652 §5.1.
fn stamp_info(token: &[u8]) -> Option<&[u8]> {
    const EXPLICIT_0: u8 = 0xa0;
    let content_info = Value::read(token, SEQUENCE)?;
    let kind = Value::read(content_info.content, OBJECT_IDENTIFIER)?;
    let signed_data = Value::read(Value::read(kind.rest, EXPLICIT_0)?.content, SEQUENCE)?;
    let version = Value::read(signed_data.content, INTEGER)?;
    let digests = Value::read(version.rest, SET)?;
    let encapsulated = Value::read(digests.rest, SEQUENCE)?;
    let kind = Value::read(encapsulated.content, OBJECT_IDENTIFIER)?;
    let content = Value::read(Value::read(kind.rest, EXPLICIT_0)?.content, OCTET_STRING)?;
    Some(Value::read(content.content, SEQUENCE)?.content)
}

/// One DER value, and what follows it.
struct Value<'a> {
    content: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Value<'a> {
    fn read(bytes: &'a [u8], tag: u8) -> Option<Value<'a>> {
        (bytes.first() == Some(&tag)).then(|| Value::any(bytes)).flatten()
    }

    /// Tags of one byte and lengths of at most four are all there is in a stamp.
    fn any(bytes: &'a [u8]) -> Option<Value<'a>> {
        let (_, bytes) = bytes.split_first()?;
        let (first, bytes) = bytes.split_first()?;
        let (length, bytes) = match first {
            0..=0x7f => (usize::from(*first), bytes),
            0x81..=0x84 => {
                let (length, rest) = bytes.split_at_checked(usize::from(first & 0x7f))?;
                (length.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = bytes.split_at_checked(length)?;
        Some(Value { content, rest })
    }
}

fn sequence(parts: &[Vec<u8>]) -> Option<Vec<u8>> {
    AnyRef::new(Tag::Sequence, &parts.concat()).ok()?.to_der().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let mut out = vec![tag, 0x82];
        out.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        [out, content].concat()
    }

    fn response(status: u8, imprint: &[u8], nonce: &[u8]) -> Vec<u8> {
        let info =
            tlv(0x30, &[&[2, 1, 1], &[6, 1, 0x2a], imprint, &[2, 1, 9], &tlv(0x18, &[b"20260101000000Z"]), nonce]);
        let encapsulated = tlv(0x30, &[&[6, 1, 0x2a], &tlv(0xa0, &[&tlv(4, &[&info])])]);
        let signed = tlv(0x30, &[&[2, 1, 3], &tlv(0x31, &[]), &encapsulated]);
        let token = tlv(0x30, &[&[6, 1, 0x2a], &tlv(0xa0, &[&signed])]);
        tlv(0x30, &[&tlv(0x30, &[&[2, 1, status]]), &token])
    }

    #[test]
    fn the_answer_is_to_this_request() {
        let asked = TimeStampRequest::over(b"checkpoint", [0x80, 1, 2, 3, 4, 5, 6, 7]).unwrap();
        let other = TimeStampRequest::over(b"other", [1; 8]).unwrap();
        assert_eq!(asked.is_answered_by(&response(0, &asked.imprint, &asked.nonce)), Ok(()));
        assert_eq!(asked.is_answered_by(&response(1, &asked.imprint, &asked.nonce)), Ok(()));
        let refused = |response: &[u8]| asked.is_answered_by(response).unwrap_err();
        assert!(refused(&response(2, &asked.imprint, &asked.nonce)).contains("status 02"));
        assert!(refused(&response(0, &other.imprint, &asked.nonce)).contains("something else"));
        assert!(refused(&response(0, &asked.imprint, &other.nonce)).contains("another request"));
        assert!(refused(&response(0, &asked.imprint, &[])).contains("another request"));
    }

    #[test]
    fn a_broken_answer_is_refused_and_nothing_panics() {
        let asked = TimeStampRequest::over(b"checkpoint", [1; 8]).unwrap();
        let whole = response(0, &asked.imprint, &asked.nonce);
        for length in 0..whole.len() {
            assert!(asked.is_answered_by(&whole[..length]).is_err(), "{length}");
        }
        for place in 0..whole.len() {
            for bit in 0..8 {
                let mut broken = whole.clone();
                broken[place] ^= 1 << bit;
                let _ = asked.is_answered_by(&broken);
            }
        }
    }
}
