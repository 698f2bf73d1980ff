//! What a token key sealed for the store (access key secrets, KeyStorePasswords, the store key) as one string of bytes, in two
//! forms: an IV of 12 bytes ‖ ciphertext ‖ tag, and, from tokens that make longer IVs, a mark ‖ an IV of 16 bytes ‖ ciphertext ‖ tag.

use crate::keystore::GcmOutput;

const IV_LEN: usize = 12;
const LONG_IV_LEN: usize = 16;
/// The other form begins with an IV; that such a one begins so is as likely as guessing 8 bytes, and is looked for in `join`.
const LONG_IV: &[u8] = b"HBSL\x00IV\x10";

/// `Err`: what was sealed is of neither form; sealing again helps where the token makes 12 bytes.
pub(super) fn join(sealed: GcmOutput) -> Result<Vec<u8>, String> {
    let GcmOutput { iv, ciphertext } = sealed;
    match iv.len() {
        IV_LEN if !iv.starts_with(LONG_IV) => Ok([iv, ciphertext].concat()),
        IV_LEN => Err("the IV looks like the mark of another form".to_owned()),
        LONG_IV_LEN => Ok([LONG_IV, &iv, &ciphertext].concat()),
        other => Err(format!("the token used an IV of {other} bytes")),
    }
}

/// IV, and ciphertext ‖ tag. `None`: too short.
pub(super) fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    match bytes.strip_prefix(LONG_IV) {
        Some(rest) => rest.split_at_checked(LONG_IV_LEN),
        None => bytes.split_at_checked(IV_LEN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(iv: &[u8]) -> GcmOutput {
        GcmOutput { iv: iv.to_vec(), ciphertext: vec![2; 20] }
    }

    #[test]
    fn both_forms_come_back() {
        for len in [12, 16] {
            let iv = vec![1; len];
            let joined = join(sealed(&iv)).unwrap();
            assert_eq!(split(&joined), Some((iv.as_slice(), &[2u8; 20][..])));
        }
    }

    #[test]
    fn stored_forms_do_not_change() {
        assert_eq!(hex::encode(join(sealed(&[1; 12])).unwrap()), format!("{}{}", "01".repeat(12), "02".repeat(20)));
        let long = format!("4842534c00495610{}{}", "01".repeat(16), "02".repeat(20));
        assert_eq!(hex::encode(join(sealed(&[1; 16])).unwrap()), long);
    }

    #[test]
    fn other_lengths_are_refused() {
        for len in [0, 8, 11, 13, 15, 17, 32] {
            assert!(join(sealed(&vec![1; len])).is_err(), "{len}");
        }
        assert!(join(sealed(b"HBSL\x00IV\x10abcd")).is_err());
        assert!(split(&[1; 11]).is_none() && split(&[LONG_IV, &[1; 15]].concat()).is_none());
    }
}
