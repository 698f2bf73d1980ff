//! The ciphertext blob: a documented, versioned binary form (docs/ciphertext-format.md). The parser faces attackers: it
//! reads with bounds only and knows one form; anything else is `InvalidCiphertext` before the token is asked.

use crate::ids::KeyId;
use crate::ops::{EncryptionContext, OpError};

/// `HBK` and the format version.
const MAGIC: [u8; 4] = [0x48, 0x42, 0x4b, 0x01];
/// AES-256-GCM, tag of 16 bytes, IV of 12 bytes.
const SUITE_AES_256_GCM: u8 = 0x01;
const FLAG_MULTI_REGION: u8 = 0x01;
const IV_LEN: usize = 12;
const TAG_LEN: usize = 16;
/// Everything before the IV.
const HEADER_LEN: usize = 27;
/// First string of the associated data. Every other use of AES-GCM has its own.
const AAD_LABEL: &[u8] = b"hsm-bridge/kms/1";
/// Bytes of an encryption context in canonical form, at most.
pub const MAX_CONTEXT: usize = 8_192;

/// Which key and which generation of it made a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub key: KeyId,
    pub generation: u32,
}

/// A blob taken apart; nothing in it is authenticated until the token has opened it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob<'a> {
    pub header: Header,
    pub iv: &'a [u8],
    /// Ciphertext ‖ tag.
    pub ciphertext: &'a [u8],
}

impl Header {
    fn bytes(&self) -> [u8; HEADER_LEN] {
        let mut out = [0u8; HEADER_LEN];
        let flags = if self.key.is_multi_region() { FLAG_MULTI_REGION } else { 0 };
        let fields = MAGIC
            .into_iter()
            .chain([SUITE_AES_256_GCM, flags])
            .chain(self.key.bytes())
            .chain(self.generation.to_be_bytes())
            .chain([IV_LEN as u8]);
        for (slot, byte) in out.iter_mut().zip(fields) {
            *slot = byte;
        }
        out
    }

    /// The associated data: label ‖ the fields before the IV ‖ canonical encryption context. The first two have fixed
    /// lengths, so the parts cannot be shifted against each other. The IV is not in it: GCM authenticates it.
    pub fn associated_data(&self, canonical_context: &[u8]) -> Vec<u8> {
        [AAD_LABEL, &self.bytes(), canonical_context].concat()
    }

    /// The whole blob.
    pub fn seal(&self, iv: &[u8], ciphertext: &[u8]) -> Result<Vec<u8>, OpError> {
        if iv.len() != IV_LEN {
            return Err(OpError::Internal(format!("the token used an IV of {} bytes", iv.len())));
        }
        Ok([&self.bytes(), iv, ciphertext].concat())
    }
}

impl<'a> Blob<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, OpError> {
        let invalid = || OpError::InvalidCiphertext;
        let (fixed, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or_else(invalid)?;
        let (magic, fixed) = fixed.split_first_chunk::<4>().ok_or_else(invalid)?;
        let (kind, fixed) = fixed.split_first_chunk::<2>().ok_or_else(invalid)?;
        let (id, fixed) = fixed.split_first_chunk::<16>().ok_or_else(invalid)?;
        let (generation, iv_len) = fixed.split_first_chunk::<4>().ok_or_else(invalid)?;
        let [suite, flags] = *kind;
        if *magic != MAGIC || suite != SUITE_AES_256_GCM || flags & !FLAG_MULTI_REGION != 0 || iv_len != [IV_LEN as u8]
        {
            return Err(invalid());
        }
        let (iv, ciphertext) = rest.split_at_checked(IV_LEN).ok_or_else(invalid)?;
        if ciphertext.len() < TAG_LEN {
            return Err(invalid());
        }
        let key = KeyId::new(*id, flags & FLAG_MULTI_REGION != 0);
        Ok(Self { header: Header { key, generation: u32::from_be_bytes(*generation) }, iv, ciphertext })
    }
}

/// Pairs sorted by the bytes of the key, each string with its length before it (4 bytes, big endian). An empty context
/// is no bytes at all, so it equals an absent one.
pub fn canonical_context(context: &EncryptionContext) -> Result<Vec<u8>, OpError> {
    let mut pairs: Vec<(&[u8], &[u8])> = context.iter().map(|(k, v)| (k.as_bytes(), v.as_bytes())).collect();
    pairs.sort_unstable();
    let size: usize = pairs.iter().map(|(k, v)| 8 + k.len() + v.len()).sum();
    if size > MAX_CONTEXT {
        return Err(OpError::Validation(format!(
            "EncryptionContext is too long: it takes {size} bytes in canonical form, the most is {MAX_CONTEXT}."
        )));
    }
    let mut out = Vec::with_capacity(size);
    for text in pairs.iter().flat_map(|(k, v)| [k, v]) {
        // The sum above is at most 8,192, so each length fits.
        out.extend_from_slice(&(text.len() as u32).to_be_bytes());
        out.extend_from_slice(text);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header { key: "5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11".parse().unwrap(), generation: 7 }
    }

    fn pairs(list: &[(&str, &str)]) -> EncryptionContext {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_blob_round_trips() {
        let blob = header().seal(&[1; 12], &[2; 20]).unwrap();
        assert_eq!(hex::encode(&blob[..27]), "48424b0101005f0c6a0e3d524b0c9a5e6d1d7f3b2c11000000070c");
        let parsed = Blob::parse(&blob).unwrap();
        assert_eq!((parsed.header, parsed.iv, parsed.ciphertext), (header(), &[1u8; 12][..], &[2u8; 20][..]));
    }

    #[test]
    fn every_fixed_field_is_checked() {
        let blob = header().seal(&[1; 12], &[2; 20]).unwrap();
        for at in [0, 1, 2, 3, 4, 26] {
            for bit in 0..8 {
                let mut changed = blob.clone();
                changed[at] ^= 1 << bit;
                assert!(Blob::parse(&changed).is_err(), "byte {at} bit {bit}");
            }
        }
        for bit in 1..8 {
            let mut changed = blob.clone();
            changed[5] ^= 1 << bit;
            assert!(Blob::parse(&changed).is_err(), "flag {bit}");
        }
        for len in 0..55 {
            assert!(Blob::parse(&blob[..len.min(blob.len())]).is_err(), "{len}");
        }
        assert!(Blob::parse(&header().seal(&[1; 12], &[2; 15]).unwrap()).is_err());
    }

    #[test]
    fn context_order_does_not_matter_and_boundaries_do() {
        let a = canonical_context(&pairs(&[("a", "1"), ("b", "2")])).unwrap();
        assert_eq!(a, canonical_context(&pairs(&[("b", "2"), ("a", "1")])).unwrap());
        assert_eq!(hex::encode(&a), "00000001610000000131000000016200000001 32".replace(' ', ""));
        assert_ne!(
            canonical_context(&pairs(&[("ab", "c")])).unwrap(),
            canonical_context(&pairs(&[("a", "bc")])).unwrap()
        );
        assert!(canonical_context(&Vec::new()).unwrap().is_empty());
    }

    #[test]
    fn the_context_has_a_limit() {
        let fits = "v".repeat(MAX_CONTEXT - 9);
        assert!(canonical_context(&pairs(&[("k", &fits)])).is_ok());
        assert!(canonical_context(&pairs(&[("k", &format!("{fits}v"))])).is_err());
    }

    proptest! {
        #[test]
        fn the_parser_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = Blob::parse(&bytes);
        }

        #[test]
        fn the_parser_never_panics_behind_a_good_start(tail in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(tail);
            let _ = Blob::parse(&bytes);
        }
    }
}
