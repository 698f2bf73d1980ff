//! Fingerprints: what shows that the object behind a handle is the key that it was when it was made. AES: a known answer
//! that must open. HMAC: the MAC of a fixed string. Pairs: the digest of the public key, and a signature that verifies.

use aws_lc_rs::digest;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectHandle};

use super::error::{CallError, Reaction};
use super::gcm::{IV_LEN, LUNA_IV_LEN};
use super::raw::{SignCall, TAG_LEN};
use super::seat::Seat;
use super::template::ED25519_PARAMETERS;
use super::{ErrorClass, Hash, MlDsa, spki};

/// First AAD string of the known answer, and the message of the known MAC: no KMS ciphertext begins so.
const KNOWN_ANSWER: &[u8] = b"hsm-bridge/kat/1";
const VERSION: u8 = 1;
/// A known answer with an IV of 12 bytes.
const AES: u8 = 1;
/// The same with 16 bytes.
const AES_LONG_IV: u8 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fingerprint {
    Aes { iv: Vec<u8>, ciphertext: Vec<u8> },
    Hmac { hash: Hash, mac: Vec<u8> },
    Pair { spki_sha256: Vec<u8> },
}

/// Why a check did not pass.
#[derive(Debug)]
pub(super) enum Mismatch {
    /// The token answers, and the object is not the key.
    WrongKey(&'static str),
    /// The token did not answer.
    Call(CallError),
}

impl From<CallError> for Mismatch {
    fn from(error: CallError) -> Self {
        Mismatch::Call(error)
    }
}

impl Fingerprint {
    /// version ‖ kind ‖ fields; opaque to callers.
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Fingerprint::Aes { iv, ciphertext } => {
                let kind = if iv.len() == LUNA_IV_LEN { AES_LONG_IV } else { AES };
                [&[VERSION, kind], iv.as_slice(), ciphertext].concat()
            }
            Fingerprint::Hmac { hash, mac } => [&[VERSION, 2, hash_number(*hash)], mac.as_slice()].concat(),
            Fingerprint::Pair { spki_sha256 } => [&[VERSION, 3], spki_sha256.as_slice()].concat(),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Fingerprint> {
        match bytes {
            [VERSION, kind @ (AES | AES_LONG_IV), rest @ ..] => {
                let iv_len = if *kind == AES { IV_LEN } else { LUNA_IV_LEN };
                let (iv, ciphertext) = rest.split_at_checked(iv_len)?;
                (ciphertext.len() >= TAG_LEN)
                    .then(|| Fingerprint::Aes { iv: iv.to_vec(), ciphertext: ciphertext.to_vec() })
            }
            [VERSION, 2, number, mac @ ..] => {
                let hash = super::mechanism::ALL_HASHES.into_iter().find(|hash| hash_number(*hash) == *number)?;
                (mac.len() == hash.length()).then(|| Fingerprint::Hmac { hash, mac: mac.to_vec() })
            }
            [VERSION, 3, sha256 @ ..] if sha256.len() == 32 => Some(Fingerprint::Pair { spki_sha256: sha256.to_vec() }),
            _ => None,
        }
    }

    /// Of an AES key that was just made.
    pub(super) fn of_aes(seat: &mut Seat, key: ObjectHandle) -> Result<Fingerprint, CallError> {
        let known = seat.random(16)?;
        let sealed = seat.encrypt(key, KNOWN_ANSWER, known.expose())?;
        let opened = seat.decrypt(key, &sealed.iv, KNOWN_ANSWER, &sealed.ciphertext)?;
        if opened.as_ref() != Some(&known) {
            return Err(CallError { function: "C_Decrypt", rv: 0 });
        }
        Ok(Fingerprint::Aes { iv: sealed.iv, ciphertext: sealed.ciphertext })
    }

    pub(super) fn of_hmac(seat: &mut Seat, key: ObjectHandle, hash: Hash) -> Result<Fingerprint, CallError> {
        Ok(Fingerprint::Hmac { hash, mac: known_mac(seat, key, hash)? })
    }

    /// Of a pair that was just made; `spki` was read from its public half.
    pub(super) fn of_pair(seat: &mut Seat, private: ObjectHandle, spki: &[u8]) -> Result<Fingerprint, Mismatch> {
        prove_pair(seat, private, spki)?;
        Ok(Fingerprint::Pair { spki_sha256: sha256(spki) })
    }

    /// Checks the object behind `key` (the private half of a pair) against this fingerprint.
    pub(super) fn check(
        &self,
        seat: &mut Seat,
        key: ObjectHandle,
        public: Option<ObjectHandle>,
    ) -> Result<(), Mismatch> {
        match self {
            Fingerprint::Aes { iv, ciphertext } => match seat.decrypt(key, iv, KNOWN_ANSWER, ciphertext) {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err(Mismatch::WrongKey("the recorded known answer has a wrong form")),
                Err(error) => match error.reaction() {
                    // SoftHSM says CKR_GENERAL_ERROR for a wrong tag: a key that works otherwise is another key.
                    Reaction::Ambiguous | Reaction::Report(ErrorClass::Data) => {
                        round_trip(seat, key)?;
                        Err(Mismatch::WrongKey("the known answer does not open"))
                    }
                    _ => Err(foreign_type(error, "the object is not an AES key for encryption")),
                },
            },
            Fingerprint::Hmac { hash, mac } => match known_mac(seat, key, *hash) {
                Ok(found) if found == *mac => Ok(()),
                Ok(_) => Err(Mismatch::WrongKey("the known MAC differs")),
                Err(error) => Err(foreign_type(error, "the object is not an HMAC key of this length")),
            },
            Fingerprint::Pair { spki_sha256 } => {
                let public = public.ok_or(Mismatch::WrongKey("the token has no single public key with this id"))?;
                let spki = read_spki(seat, public)?.ok_or(Mismatch::WrongKey("the public key cannot be read"))?;
                if sha256(&spki) != *spki_sha256 {
                    return Err(Mismatch::WrongKey("the public key differs"));
                }
                prove_pair(seat, key, &spki)
            }
        }
    }
}

/// Whether the key works at all.
pub(super) fn round_trip(seat: &mut Seat, key: ObjectHandle) -> Result<(), CallError> {
    Fingerprint::of_aes(seat, key).map(|_| ())
}

/// The SubjectPublicKeyInfo of a public key object; `None` where its attributes make none.
pub(super) fn read_spki(seat: &mut Seat, public: ObjectHandle) -> Result<Option<Vec<u8>>, CallError> {
    let found = seat.attributes(
        public,
        &[
            AttributeType::KeyType,
            AttributeType::Modulus,
            AttributeType::PublicExponent,
            AttributeType::EcParams,
            AttributeType::EcPoint,
        ],
    )?;
    let (mut key_type, mut modulus, mut exponent, mut parameters, mut point) = (None, None, None, None, None);
    for attribute in found {
        match attribute {
            Attribute::KeyType(value) => key_type = Some(value),
            Attribute::Modulus(value) => modulus = Some(value),
            Attribute::PublicExponent(value) => exponent = Some(value),
            Attribute::EcParams(value) => parameters = Some(value),
            Attribute::EcPoint(value) => point = Some(value),
            _ => {}
        }
    }
    Ok(match (key_type, modulus, exponent, parameters, point) {
        (Some(KeyType::RSA), Some(modulus), Some(exponent), ..) => spki::rsa(&modulus, &exponent),
        (Some(KeyType::EC), _, _, Some(parameters), Some(point)) => spki::ec(&parameters, &point),
        (Some(KeyType::EC_EDWARDS), _, _, Some(parameters), Some(point)) if is_ed25519(&parameters) => {
            spki::ed25519(&point)
        }
        (Some(KeyType::ML_DSA), ..) => read_ml_dsa(seat, public)?,
        _ => None,
    })
}

/// Asked for alone: other kinds of public keys have no `CKA_VALUE`, and of private keys it is nobody's to ask for.
fn read_ml_dsa(seat: &mut Seat, public: ObjectHandle) -> Result<Option<Vec<u8>>, CallError> {
    let (mut set, mut value) = (None, None);
    for attribute in seat.attributes(public, &[AttributeType::ParameterSet, AttributeType::Value])? {
        match attribute {
            Attribute::ParameterSet(number) => set = MlDsa::from_parameter_set(**number),
            Attribute::Value(bytes) => value = Some(bytes),
            _ => {}
        }
    }
    Ok(set.zip(value).and_then(|(set, value)| spki::ml_dsa(set, &value)))
}

/// The object identifier, or the name that older drafts used.
pub(super) fn is_ed25519(parameters: &[u8]) -> bool {
    parameters == ED25519_PARAMETERS || parameters == b"\x13\x0cedwards25519"
}

/// One signature, verified in software. The message cannot be one that a caller chose.
fn prove_pair(seat: &mut Seat, private: ObjectHandle, spki: &[u8]) -> Result<(), Mismatch> {
    let (mechanism, hash) =
        spki::proof(spki).ok_or(Mismatch::WrongKey("the public key is of a kind that is not used here"))?;
    let message = [KNOWN_ANSWER, seat.random(32)?.expose()].concat();
    let input = match hash {
        None => message.clone(),
        Some(hash) => digest::digest(digest_algorithm(hash), &message).as_ref().to_vec(),
    };
    match seat.sign_input(private, mechanism, &input) {
        Ok(Some(signature)) if spki::verifies(spki, &message, &signature) => Ok(()),
        Ok(_) => Err(Mismatch::WrongKey("a signature does not verify with the public key")),
        Err(error) => Err(foreign_type(error, "the object is not a private key for this signature")),
    }
}

fn known_mac(seat: &mut Seat, key: ObjectHandle, hash: Hash) -> Result<Vec<u8>, CallError> {
    seat.sign(key, SignCall::Plain(hash.hmac_mechanism().0), KNOWN_ANSWER)
}

/// A token that says "not with this kind of key" has answered: the object is another one.
fn foreign_type(error: CallError, detail: &'static str) -> Mismatch {
    match error.reaction() {
        Reaction::Report(ErrorClass::Unsupported) => Mismatch::WrongKey(detail),
        _ => Mismatch::Call(error),
    }
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}

fn digest_algorithm(hash: Hash) -> &'static digest::Algorithm {
    match hash {
        Hash::Sha224 => &digest::SHA224,
        Hash::Sha256 => &digest::SHA256,
        Hash::Sha384 => &digest::SHA384,
        Hash::Sha512 => &digest::SHA512,
    }
}

fn hash_number(hash: Hash) -> u8 {
    match hash {
        Hash::Sha224 => 1,
        Hash::Sha256 => 2,
        Hash::Sha384 => 3,
        Hash::Sha512 => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for fingerprint in [
            Fingerprint::Aes { iv: vec![1; 12], ciphertext: vec![2; 32] },
            Fingerprint::Aes { iv: vec![1; 16], ciphertext: vec![2; 32] },
            Fingerprint::Hmac { hash: Hash::Sha384, mac: vec![3; 48] },
            Fingerprint::Pair { spki_sha256: vec![4; 32] },
        ] {
            assert_eq!(Fingerprint::decode(&fingerprint.encode()), Some(fingerprint));
        }
    }

    #[test]
    fn stored_forms_do_not_change() {
        let aes = Fingerprint::Aes { iv: vec![1; 12], ciphertext: vec![2; 32] };
        assert_eq!(hex::encode(aes.encode()), format!("0101{}{}", "01".repeat(12), "02".repeat(32)));
        let long = Fingerprint::Aes { iv: vec![1; 16], ciphertext: vec![2; 32] };
        assert_eq!(hex::encode(long.encode()), format!("0104{}{}", "01".repeat(16), "02".repeat(32)));
        let hmac = Fingerprint::Hmac { hash: Hash::Sha256, mac: vec![3; 32] };
        assert_eq!(hex::encode(hmac.encode()), format!("010202{}", "03".repeat(32)));
        let pair = Fingerprint::Pair { spki_sha256: vec![4; 32] };
        assert_eq!(hex::encode(pair.encode()), format!("0103{}", "04".repeat(32)));
    }

    #[test]
    fn other_bytes_are_refused() {
        let cut = Fingerprint::Aes { iv: vec![1; 12], ciphertext: vec![2; 15] }.encode();
        let long_cut = Fingerprint::Aes { iv: vec![1; 16], ciphertext: vec![2; 15] }.encode();
        let short = Fingerprint::Hmac { hash: Hash::Sha256, mac: vec![3; 28] }.encode();
        for bytes in [vec![], vec![1], vec![2, 1], vec![1, 9, 0], cut, long_cut, short, vec![1, 3, 0]] {
            assert_eq!(Fingerprint::decode(&bytes), None, "{bytes:?}");
        }
    }
}
