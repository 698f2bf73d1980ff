//! Grant tokens: they name a grant and prove that it was made here. They are no secret and give nothing: a grant is in force
//! when CreateGrant answers, so a token is checked and has no further effect.
//!
//! `base64url(version ‖ multi-Region flag ‖ key id ‖ grant id ‖ random ‖ HMAC-SHA-256 of all before it)`

use aws_lc_rs::{constant_time, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::ids::{GrantId, KeyId};
use crate::ops::OpError;
use crate::secret::SecretBytes;

const VERSION: u8 = 1;
const TAG_LEN: usize = 32;

/// Makes and opens grant tokens. The key is derived from the store key: tokens survive a restart, and no other deployment's
/// open.
pub struct GrantTokenKey(hmac::Key);

impl GrantTokenKey {
    pub fn new(key: &SecretBytes) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.expose()))
    }

    #[cfg(test)]
    pub(in crate::ops) fn in_test() -> Self {
        Self::new(&SecretBytes::new(vec![7; 32]))
    }

    /// Another token of the same grant for each `random`; all are worth the same.
    pub fn make(&self, key: KeyId, grant: &GrantId, random: [u8; 16]) -> Result<String, OpError> {
        let grant = hex::decode(grant.as_str()).map_err(|e| OpError::Internal(format!("grant id {grant}: {e}")))?;
        let flag = u8::from(key.is_multi_region());
        let mut token = [&[VERSION, flag][..], &key.bytes(), &grant, &random].concat();
        let tag = hmac::sign(&self.0, &token);
        token.extend_from_slice(tag.as_ref());
        Ok(URL_SAFE_NO_PAD.encode(token))
    }

    /// Key and grant that a token names. Whether the grant is still there is for the caller to look.
    pub fn open(&self, token: &str) -> Result<(KeyId, GrantId), OpError> {
        self.opened(token).ok_or(OpError::InvalidGrantToken)
    }

    fn opened(&self, token: &str) -> Option<(KeyId, GrantId)> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (named, tag) = bytes.split_at_checked(bytes.len().checked_sub(TAG_LEN)?)?;
        constant_time::verify_slices_are_equal(hmac::sign(&self.0, named).as_ref(), tag).ok()?;
        let (head, rest) = named.split_first_chunk::<2>()?;
        let (key, rest) = rest.split_first_chunk::<16>()?;
        let (grant, random) = rest.split_first_chunk::<32>()?;
        let multi_region = match head {
            [VERSION, 0] => false,
            [VERSION, 1] => true,
            _ => return None,
        };
        if random.len() != 16 {
            return None;
        }
        Some((KeyId::new(*key, multi_region), hex::encode(grant).parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::key_id;

    fn grant(digit: &str) -> GrantId {
        digit.repeat(64).parse().unwrap()
    }

    #[test]
    fn a_token_names_its_grant_and_every_one_is_another() {
        let own = GrantTokenKey::in_test();
        let (one, two) = (own.make(key_id(1), &grant("a"), [1; 16]), own.make(key_id(1), &grant("a"), [2; 16]));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_ne!(one, two);
        for token in [&one, &two] {
            assert_eq!(own.open(token).unwrap(), (key_id(1), grant("a")));
        }
        let multi = KeyId::new([9; 16], true);
        assert_eq!(own.open(&own.make(multi, &grant("b"), [0; 16]).unwrap()).unwrap(), (multi, grant("b")));
    }

    #[test]
    fn what_was_changed_or_made_elsewhere_is_refused() {
        let own = GrantTokenKey::in_test();
        let token = own.make(key_id(1), &grant("a"), [1; 16]).unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(own.open(&URL_SAFE_NO_PAD.encode(changed)), Err(OpError::InvalidGrantToken), "byte {at}");
        }
        let elsewhere =
            GrantTokenKey::new(&SecretBytes::new(vec![8; 32])).make(key_id(1), &grant("a"), [1; 16]).unwrap();
        for wrong in ["", "x", "any", "é", &elsewhere, &token[1..], &format!("{token}A"), &format!("{token}=")] {
            assert_eq!(own.open(wrong), Err(OpError::InvalidGrantToken), "{wrong}");
        }
    }
}
