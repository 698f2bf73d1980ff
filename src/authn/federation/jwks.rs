//! An issuer's public keys, as a JSON Web Key Set (RFC 7517) has them.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use serde_json::Value;

/// Bytes of a set's text.
pub const LARGEST_KEY_SET: usize = 256 << 10;
/// What one token may make us try.
const MOST_KEYS: usize = 100;
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// What a provider may be registered with. Neither `none` nor a MAC is among them: a public key is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    pub const ALL: [Algorithm; 9] = [
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
        Algorithm::Ps256,
        Algorithm::Ps384,
        Algorithm::Ps512,
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::EdDsa,
    ];

    /// Where the operator names none: what AD FS and Kubernetes sign with.
    pub const DEFAULT: [Algorithm; 2] = [Algorithm::Rs256, Algorithm::Es256];

    /// As RFC 7518 §3.1 and RFC 8037 spell it.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Ps256 => "PS256",
            Algorithm::Ps384 => "PS384",
            Algorithm::Ps512 => "PS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::EdDsa => "EdDSA",
        }
    }

    pub(super) fn jwa(self) -> jsonwebtoken::Algorithm {
        match self {
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::Rs384 => jsonwebtoken::Algorithm::RS384,
            Algorithm::Rs512 => jsonwebtoken::Algorithm::RS512,
            Algorithm::Ps256 => jsonwebtoken::Algorithm::PS256,
            Algorithm::Ps384 => jsonwebtoken::Algorithm::PS384,
            Algorithm::Ps512 => jsonwebtoken::Algorithm::PS512,
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::Es384 => jsonwebtoken::Algorithm::ES384,
            Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        }
    }

    fn kind(self) -> Kind {
        match self {
            Algorithm::Rs256 | Algorithm::Rs384 | Algorithm::Rs512 => Kind::Rsa,
            Algorithm::Ps256 | Algorithm::Ps384 | Algorithm::Ps512 => Kind::Rsa,
            Algorithm::Es256 => Kind::P256,
            Algorithm::Es384 => Kind::P384,
            Algorithm::EdDsa => Kind::Ed25519,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Algorithm::ALL.into_iter().map(Algorithm::name).collect();
            format!("`{text}` is no algorithm of an OIDC provider: choose from {}", names.join(", "))
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    #[error("the key set is larger than {LARGEST_KEY_SET} bytes")]
    TooLarge,
    #[error("no JSON Web Key Set: {0}")]
    Malformed(String),
    #[error("the key set has more than {MOST_KEYS} keys")]
    TooMany,
    #[error("none of the {0} keys of the set can verify a signature here")]
    NoneUsable(usize),
}

/// The keys of a set that can verify signatures.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Key>,
    skipped: usize,
}

impl KeySet {
    /// Keys of other kinds and uses are skipped, as RFC 7517 §5 asks; a set without any usable key is an error.
    pub fn parse(text: &str) -> Result<Self, KeySetError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        if text.len() > LARGEST_KEY_SET {
            return Err(KeySetError::TooLarge);
        }
        let set: Set = serde_json::from_str(text).map_err(|e| KeySetError::Malformed(e.to_string()))?;
        let all = set.keys.len();
        if all > MOST_KEYS {
            return Err(KeySetError::TooMany);
        }
        let keys: Vec<Key> = set.keys.into_iter().filter_map(Key::read).collect();
        if keys.is_empty() {
            return Err(KeySetError::NoneUsable(all));
        }
        Ok(Self { skipped: all - keys.len(), keys })
    }

    pub fn usable(&self) -> usize {
        self.keys.len()
    }

    /// How many keys of the set are of no use here.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// The keys that may have made such a signature: each one of that `kid`, for several may have it (RFC 7517 §4.5). Without a
    /// `kid`, each one of that kind.
    pub(super) fn candidates<'a>(
        &'a self,
        kid: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a DecodingKey> {
        self.keys
            .iter()
            .filter(move |key| kid.is_none_or(|kid| key.kid.as_deref() == Some(kid)) && key.fits(algorithm))
            .map(|key| &key.key)
    }
}

struct Key {
    kid: Option<String>,
    /// `alg`: the one that the issuer uses it with.
    algorithm: Option<String>,
    kind: Kind,
    key: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Certificates (`x5c`, `x5u`, `x5t`) are not read: the set itself is what is trusted.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    intended_use: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Key {
    /// `None`: not for us.
    fn read(value: Value) -> Option<Key> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        if jwk.intended_use.as_deref().is_some_and(|intended| intended != "sig")
            || jwk.key_ops.as_ref().is_some_and(|all| !all.iter().any(|one| one == "verify"))
        {
            return None;
        }
        let (kind, key) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => (Kind::Rsa, rsa(&jwk)?),
            ("EC", Some("P-256")) => (Kind::P256, point(&jwk, 32)?),
            ("EC", Some("P-384")) => (Kind::P384, point(&jwk, 48)?),
            ("OKP", Some("Ed25519")) => (Kind::Ed25519, DecodingKey::from_ed_der(&decoded(&jwk.x, 32)?)),
            _ => return None,
        };
        Some(Key { kid: jwk.kid, algorithm: jwk.alg, kind, key })
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        self.kind == algorithm.kind() && self.algorithm.as_deref().is_none_or(|own| own == algorithm.name())
    }
}

fn rsa(jwk: &Jwk) -> Option<DecodingKey> {
    // Some issuers write the sign byte of ASN.1 as well.
    let number = |text: &Option<String>| {
        let bytes = URL_SAFE_NO_PAD.decode(text.as_ref()?).ok()?;
        Some(bytes.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<u8>>())
    };
    let (modulus, exponent) = (number(&jwk.n)?, number(&jwk.e)?);
    let bits = modulus.len() * 8 - modulus.first()?.leading_zeros() as usize;
    let odd = exponent.last()? & 1 == 1;
    (RSA_BITS.contains(&bits) && odd && exponent != [1] && exponent.len() <= 4)
        .then(|| DecodingKey::from_rsa_raw_components(&modulus, &exponent))
}

fn point(jwk: &Jwk, length: usize) -> Option<DecodingKey> {
    let uncompressed = [&[4][..], &decoded(&jwk.x, length)?, &decoded(&jwk.y, length)?].concat();
    Some(DecodingKey::from_ec_der(&uncompressed))
}

fn decoded(text: &Option<String>, length: usize) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.as_ref()?).ok().filter(|bytes| bytes.len() == length)
}
