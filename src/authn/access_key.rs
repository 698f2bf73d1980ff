//! The material of access keys: ids, secrets, and the associated data under which a secret is sealed. Randomness is a
//! parameter (secrets come from the token). Source: authorization.md §4.1.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroize;

use crate::ids::{AccessKeyId, AccountId};
use crate::secret::SecretString;

/// `AKIA` and 16 base32 characters.
pub fn new_access_key_id(random: [u8; 10]) -> AccessKeyId {
    base32("AKIA", &random, 16).parse().expect("AKIA and 16 characters of A-Z2-7 are an access key id")
}

/// Of temporary credentials: `ASIA` and 16 base32 characters.
pub fn new_temporary_key_id(random: [u8; 10]) -> AccessKeyId {
    base32("ASIA", &random, 16).parse().expect("ASIA and 16 characters of A-Z2-7 are an access key id")
}

/// `AIDA` and 17 base32 characters, as long as AWS's.
pub fn new_user_id(random: [u8; 11]) -> String {
    base32("AIDA", &random, 17)
}

/// A unique id: `prefix` (`AROA` of a role, and so on) and 17 base32 characters.
pub fn new_unique_id(prefix: &str, random: [u8; 11]) -> String {
    base32(prefix, &random, 17)
}

/// A secret access key: 40 characters of base64.
pub fn new_secret(mut random: [u8; 30]) -> SecretString {
    let secret = SecretString::new(STANDARD.encode(random));
    random.zeroize();
    secret
}

/// The associated data of a sealed secret, so that a row put in another's place does not open. `owner` is
/// [`Principal::owner`](super::Principal::owner).
// RULE authorization.md §4.1: access key id, principal and account are bound to the secret.
pub fn seal_aad(id: &AccessKeyId, account: &AccountId, owner: &str) -> Vec<u8> {
    let fields = ["hsm-bridge/iam-ak/1", id.as_str(), account.as_str(), owner];
    let mut aad = Vec::with_capacity(fields.iter().map(|field| 4 + field.len()).sum());
    for field in fields {
        let length = u32::try_from(field.len()).expect("ids and names are shorter than 4 GiB");
        aad.extend_from_slice(&length.to_be_bytes());
        aad.extend_from_slice(field.as_bytes());
    }
    aad
}

/// The first `characters` base32 characters (RFC 4648 §6) of `bytes` behind `prefix`.
fn base32(prefix: &str, bytes: &[u8], characters: usize) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut text = String::with_capacity(prefix.len() + characters);
    text.push_str(prefix);
    let (mut bits, mut count) = (0u32, 0u32);
    let mut written = 0;
    for byte in bytes {
        bits = (bits << 8) | u32::from(*byte);
        count += 8;
        while count >= 5 && written < characters {
            count -= 5;
            let index = (bits >> count) & 31;
            text.push(char::from(*ALPHABET.get(index as usize).expect("five bits are below 32")));
            written += 1;
        }
        bits &= 0xff;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_base32_of_all_random_bits() {
        // RFC 4648 §10: BASE32("foobar") = MZXW6YTBOI======
        assert_eq!(base32("", b"foobar", 9), "MZXW6YTBO");
        assert_eq!(new_access_key_id([0; 10]).as_str(), "AKIAAAAAAAAAAAAAAAAA");
        assert_eq!(new_access_key_id([255; 10]).as_str(), "AKIA7777777777777777");
        assert_eq!(new_access_key_id(*b"0123456789").as_str(), "AKIAGAYTEMZUGU3DOOBZ");
        assert_eq!(new_user_id([255; 11]), "AIDA77777777777777777");
    }

    #[test]
    fn a_secret_has_40_characters() {
        assert_eq!(new_secret([0; 30]).expose(), "A".repeat(40));
        assert_eq!(new_secret([255; 30]).expose(), "/".repeat(40));
    }

    #[test]
    fn associated_data_tells_fields_apart() {
        let id: AccessKeyId = "AKIAGAYTEMZUGU3DOOBZ".parse().unwrap();
        let account: AccountId = "111122223333".parse().unwrap();
        let aad = seal_aad(&id, &account, "root");
        assert!(aad.starts_with(b"\0\0\0\x13hsm-bridge/iam-ak/1\0\0\0\x14AKIAGAYTEMZUGU3DOOBZ\0\0\0\x0c111122223333"));
        assert!(aad.ends_with(b"\0\0\0\x04root"));
        assert_ne!(aad, seal_aad(&id, &"111122223334".parse().unwrap(), "root"));
        assert_ne!(aad, seal_aad(&"AKIAGAYTEMZUGU3DOOBA".parse().unwrap(), &account, "root"));
        assert_ne!(aad, seal_aad(&id, &account, "AIDAAAAAAAAAAAAAAAAAA"));
    }
}
