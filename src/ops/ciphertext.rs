//! The ciphertext blob: a documented, versioned binary form (docs/ciphertext-format.md). The parser faces attackers: it
//! reads with bounds only and knows one form; anything else is `InvalidCiphertext` before the token is asked.

use crate::ids::KeyId;
use crate::ops::{EncryptionContext, OpError};

/// `HBK` and the format version.
const MAGIC: [u8; 4] = [0x48, 0x42, 0x4b, 0x01];
const FLAG_MULTI_REGION: u8 = 0x01;
const TAG_LEN: usize = 16;
/// Everything before the IV.
const HEADER_LEN: usize = 27;
/// First string of the associated data. Every other use of AES-GCM has its own.
const AAD_LABEL: &[u8] = b"hsm-bridge/kms/1";
/// Bytes of an encryption context in canonical form, at most.
pub const MAX_CONTEXT: usize = 8_192;

/// Fixes the algorithm, the length of the tag and the one length of the IV.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// Tag of 16 bytes, IV of 12.
    Aes256Gcm,
    /// Tag of 16 bytes, IV of 16: of tokens that make such IVs themselves (Luna 7 in FIPS mode).
    Aes256GcmLongIv,
}

/// Which key and which generation of it made a blob, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub suite: Suite,
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

impl Suite {
    const ALL: [Suite; 2] = [Suite::Aes256Gcm, Suite::Aes256GcmLongIv];

    fn number(self) -> u8 {
        match self {
            Suite::Aes256Gcm => 0x01,
            Suite::Aes256GcmLongIv => 0x02,
        }
    }

    fn iv_len(self) -> u8 {
        match self {
            Suite::Aes256Gcm => 12,
            Suite::Aes256GcmLongIv => 16,
        }
    }

    /// The suite of a token whose IVs have this length.
    pub fn of_iv_len(len: usize) -> Result<Suite, OpError> {
        let found = Suite::ALL.into_iter().find(|suite| usize::from(suite.iv_len()) == len);
        found.ok_or_else(|| OpError::Internal(format!("there is no suite for IVs of {len} bytes")))
    }
}

impl Header {
    fn bytes(&self) -> [u8; HEADER_LEN] {
        let mut out = [0u8; HEADER_LEN];
        let flags = if self.key.is_multi_region() { FLAG_MULTI_REGION } else { 0 };
        let fields = MAGIC
            .into_iter()
            .chain([self.suite.number(), flags])
            .chain(self.key.bytes())
            .chain(self.generation.to_be_bytes())
            .chain([self.suite.iv_len()]);
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
        if iv.len() != usize::from(self.suite.iv_len()) {
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
        let suite = Suite::ALL.into_iter().find(|known| known.number() == suite).ok_or_else(invalid)?;
        if *magic != MAGIC || flags & !FLAG_MULTI_REGION != 0 || iv_len != [suite.iv_len()] {
            return Err(invalid());
        }
        let (iv, ciphertext) = rest.split_at_checked(suite.iv_len().into()).ok_or_else(invalid)?;
        if ciphertext.len() < TAG_LEN {
            return Err(invalid());
        }
        let key = KeyId::new(*id, flags & FLAG_MULTI_REGION != 0);
        Ok(Self { header: Header { suite, key, generation: u32::from_be_bytes(*generation) }, iv, ciphertext })
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

    fn header(suite: Suite) -> Header {
        Header { suite, key: "5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11".parse().unwrap(), generation: 7 }
    }

    fn sealed(suite: Suite, ciphertext: &[u8]) -> Vec<u8> {
        header(suite).seal(&vec![1; suite.iv_len().into()], ciphertext).unwrap()
    }

    fn pairs(list: &[(&str, &str)]) -> EncryptionContext {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_blob_round_trips() {
        for (suite, start) in [
            (Suite::Aes256Gcm, "48424b0101005f0c6a0e3d524b0c9a5e6d1d7f3b2c11000000070c"),
            (Suite::Aes256GcmLongIv, "48424b0102005f0c6a0e3d524b0c9a5e6d1d7f3b2c110000000710"),
        ] {
            let blob = sealed(suite, &[2; 20]);
            assert_eq!(hex::encode(&blob[..27]), start);
            let parsed = Blob::parse(&blob).unwrap();
            assert_eq!((parsed.header, parsed.ciphertext), (header(suite), &[2u8; 20][..]));
            assert_eq!(parsed.iv, vec![1; suite.iv_len().into()]);
        }
    }

    #[test]
    fn every_fixed_field_is_checked() {
        for suite in Suite::ALL {
            let blob = sealed(suite, &[2; 20]);
            for at in [0, 1, 2, 3, 4, 26] {
                for bit in 0..8 {
                    let mut changed = blob.clone();
                    changed[at] ^= 1 << bit;
                    assert!(Blob::parse(&changed).is_err(), "{suite:?} byte {at} bit {bit}");
                }
            }
            for bit in 1..8 {
                let mut changed = blob.clone();
                changed[5] ^= 1 << bit;
                assert!(Blob::parse(&changed).is_err(), "{suite:?} flag {bit}");
            }
            for len in 0..27 + usize::from(suite.iv_len()) + TAG_LEN {
                assert!(Blob::parse(&blob[..len]).is_err(), "{suite:?} {len}");
            }
            assert!(Blob::parse(&sealed(suite, &[2; 15])).is_err());
        }
    }

    #[test]
    fn a_suite_has_one_length_of_iv() {
        for (suite, wrong) in [(Suite::Aes256Gcm, 16), (Suite::Aes256GcmLongIv, 12)] {
            assert!(header(suite).seal(&vec![1; wrong], &[2; 20]).is_err());
            let mut relabelled = sealed(suite, &[2; 40]);
            relabelled[26] = wrong as u8;
            assert!(Blob::parse(&relabelled).is_err(), "{suite:?}");
            assert_eq!(Suite::of_iv_len(suite.iv_len().into()).unwrap(), suite);
        }
        assert!([0, 8, 11, 13, 15, 17].into_iter().all(|len| Suite::of_iv_len(len).is_err()));
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
        fn what_is_sealed_is_parsed(
            long in any::<bool>(),
            generation in any::<u32>(),
            iv in proptest::collection::vec(any::<u8>(), 16),
            ciphertext in proptest::collection::vec(any::<u8>(), 16..80),
        ) {
            let suite = if long { Suite::Aes256GcmLongIv } else { Suite::Aes256Gcm };
            let header = Header { generation, ..header(suite) };
            let iv = &iv[..suite.iv_len().into()];
            let blob = header.seal(iv, &ciphertext).unwrap();
            let parsed = Blob::parse(&blob).unwrap();
            prop_assert_eq!((parsed.header, parsed.iv, parsed.ciphertext), (header, iv, ciphertext.as_slice()));
        }

        /// No other bytes mean the same: what parses is what `seal` gives.
        #[test]
        fn what_is_parsed_is_what_is_sealed(suite in 0u8..4, iv_len in 10u8..18, tail in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = sealed(Suite::Aes256Gcm, &[]);
            bytes.truncate(HEADER_LEN);
            bytes[4] = suite;
            bytes[26] = iv_len;
            bytes.extend(tail);
            if let Ok(blob) = Blob::parse(&bytes) {
                prop_assert!([(1, 12), (2, 16)].contains(&(suite, iv_len)));
                prop_assert_eq!(blob.header.seal(blob.iv, blob.ciphertext).unwrap(), bytes.clone());
            }
        }

        #[test]
        fn the_parser_never_panics_behind_a_good_start(tail in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(tail);
            let _ = Blob::parse(&bytes);
        }
    }
}
