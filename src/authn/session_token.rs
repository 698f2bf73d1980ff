//! Session tokens: what temporary credentials carry, sealed, so that the bridge keeps no list of sessions. Randomness and
//! time are parameters. Source: authorization.md §4.3.
//!
//! A token is base64 of version (1 byte) ‖ key id (4) ‖ nonce (12) ‖ AES-256-GCM of the claims as JSON ‖ tag (16).

use std::fmt;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::{Session, SessionPolicies};
use crate::ids::{AccessKeyId, AccountId, PolicyArn, PolicyDocument, RoleName, UserName};
use crate::secret::{SecretBytes, SecretString, associated_data};

/// Characters of a token at most.
pub const LONGEST_TOKEN: usize = 4096;

const VERSION: u8 = 1;
const KEY_ID_LEN: usize = 4;
pub const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
/// Bytes of JSON that fit.
const ROOM: usize = LONGEST_TOKEN / 4 * 3 - 1 - KEY_ID_LEN - NONCE_LEN - TAG_LEN;
/// First strings of the associated data: of tokens, and of the keys that seal them.
const TOKEN_LABEL: &str = "hsm-bridge/sts/1";
const KEY_LABEL: &str = "hsm-bridge/sts-key/1";

/// Names the key of a token. Random; not secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKeyId(pub [u8; KEY_ID_LEN]);

impl fmt::Display for SessionKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl SessionKeyId {
    /// As records have it.
    pub fn parse(hex: &str) -> Option<Self> {
        let mut id = [0; KEY_ID_LEN];
        hex::decode_to_slice(hex, &mut id).ok()?;
        Some(Self(id))
    }

    /// The associated data under which a token key wraps the key of this id.
    pub fn wrap_aad(self, deployment: &str) -> Vec<u8> {
        associated_data(&[KEY_LABEL, deployment, &self.to_string()])
    }
}

/// A key that seals session tokens of one deployment. Zeroised when dropped.
pub struct SessionKey {
    id: SessionKeyId,
    cipher: Aes256Gcm,
    aad: Vec<u8>,
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SessionKey {
    /// `None`: `key` has not 32 bytes.
    pub fn new(id: SessionKeyId, key: &SecretBytes, deployment: &str) -> Option<Self> {
        let cipher = Aes256Gcm::new_from_slice(key.expose()).ok()?;
        let version = VERSION.to_string();
        Some(Self { id, cipher, aad: associated_data(&[TOKEN_LABEL, &version, deployment, &id.to_string()]) })
    }

    pub fn id(&self) -> SessionKeyId {
        self.id
    }

    /// The token, and how much of the room for session policies and tags it takes, in percent. `nonce` is never used twice
    /// with one key.
    pub fn seal(&self, claims: &SessionClaims, nonce: [u8; NONCE_LEN]) -> Result<(SecretString, u32), SealError> {
        let packed = claims.packed_policy_size()?;
        let plain = claims.json()?;
        if packed > 100 || plain.len() > ROOM {
            return Err(SealError::TooLarge { percent: packed.max(101) });
        }
        let payload = Payload { msg: &plain, aad: &self.aad };
        let sealed = self.cipher.encrypt(&Nonce::from(nonce), payload).map_err(|_| SealError::Failed)?;
        let mut bytes = Vec::with_capacity(1 + KEY_ID_LEN + NONCE_LEN + sealed.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.id.0);
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&sealed);
        Ok((SecretString::new(STANDARD.encode(bytes)), packed))
    }

    /// `None`: this key did not seal it, for this deployment, as it is.
    pub fn open(&self, token: &SealedToken) -> Option<SessionClaims> {
        if token.key != self.id {
            return None;
        }
        let payload = Payload { msg: &token.sealed, aad: &self.aad };
        let plain = Zeroizing::new(self.cipher.decrypt(&Nonce::from(token.nonce), payload).ok()?);
        serde_json::from_slice(&plain).ok()
    }
}

/// Why credentials cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("session policies and tags take {percent} percent of their room")]
    TooLarge { percent: u32 },
    #[error("sealing failed")]
    Failed,
}

/// A token as it came: nothing of it is believed yet.
pub struct SealedToken {
    key: SessionKeyId,
    nonce: [u8; NONCE_LEN],
    sealed: Vec<u8>,
}

impl SealedToken {
    /// `None`: not the form of a token.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > LONGEST_TOKEN {
            return None;
        }
        let bytes = STANDARD.decode(text).ok()?;
        let (version, rest) = bytes.split_first()?;
        let (key, rest) = rest.split_first_chunk()?;
        let (nonce, sealed) = rest.split_first_chunk()?;
        (*version == VERSION && sealed.len() >= TAG_LEN).then(|| Self {
            key: SessionKeyId(*key),
            nonce: *nonce,
            sealed: sealed.to_vec(),
        })
    }

    pub fn key(&self) -> SessionKeyId {
        self.key
    }
}

/// Whose session it is. Names find the record, ids tell whether it is still the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Holder {
    /// GetSessionToken by the root user.
    Root,
    /// GetSessionToken.
    User { id: String, name: UserName },
    /// AssumeRole and its kin.
    Role { id: String, name: RoleName, session: String },
    /// GetFederationToken: the session's name, and who asked for it.
    Federated { name: String, id: String, user: UserName },
}

/// What a token says. Members have short names: the token has 4,096 characters.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionClaims {
    /// Binds the token to the access key id that the signature names.
    #[serde(rename = "ak")]
    pub access_key: AccessKeyId,
    #[serde(rename = "sk", with = "secret_text")]
    pub secret: SecretString,
    #[serde(rename = "acct")]
    pub account: AccountId,
    #[serde(rename = "who")]
    pub holder: Holder,
    /// Milliseconds since the epoch.
    #[serde(rename = "iat")]
    pub issued: i64,
    /// Seconds since the epoch.
    #[serde(rename = "exp")]
    pub expires: i64,
    #[serde(rename = "mfa", default, skip_serializing_if = "Option::is_none")]
    pub mfa_at: Option<i64>,
    #[serde(rename = "src", default, skip_serializing_if = "Option::is_none")]
    pub source_identity: Option<String>,
    #[serde(rename = "tags", default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<(String, String)>,
    #[serde(rename = "ttk", default, skip_serializing_if = "Vec::is_empty")]
    pub transitive: Vec<String>,
    /// Inline session policy: JSON without white space.
    #[serde(rename = "pol", default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Box<RawValue>>,
    #[serde(rename = "arns", default, skip_serializing_if = "Vec::is_empty")]
    pub policy_arns: Vec<PolicyArn>,
    #[serde(rename = "fed", default, skip_serializing_if = "Option::is_none")]
    pub federated_provider: Option<String>,
    #[serde(rename = "claims", default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<(String, Vec<String>)>,
    #[serde(rename = "ch", default, skip_serializing_if = "std::ops::Not::not")]
    pub chained: bool,
}

impl SessionClaims {
    /// What the pipeline knows of a session beside its principal.
    pub fn session(&self) -> Session {
        let inline = self.policy.as_deref().map(|policy| PolicyDocument::plain(policy.get()));
        let some = inline.is_some() || !self.policy_arns.is_empty();
        Session {
            issued: self.issued.div_euclid(1000),
            expires: self.expires,
            mfa_at: self.mfa_at,
            source_identity: self.source_identity.clone(),
            tags: self.tags.clone(),
            transitive: self.transitive.clone(),
            policies: some.then(|| SessionPolicies { inline, arns: self.policy_arns.clone() }),
            federated_provider: self.federated_provider.clone(),
            claims: self.claims.clone(),
            chained: self.chained,
        }
    }

    fn json(&self) -> Result<Zeroizing<Vec<u8>>, SealError> {
        // Of its final size at once: growing would leave copies of the secret behind.
        let mut plain = Zeroizing::new(Vec::with_capacity(2 * LONGEST_TOKEN));
        serde_json::to_writer(&mut *plain, self).map_err(|_| SealError::Failed)?;
        Ok(plain)
    }

    /// Percent of the room that what the rest leaves is taken by session policies and tags.
    fn packed_policy_size(&self) -> Result<u32, SealError> {
        let bare =
            Self { tags: Vec::new(), transitive: Vec::new(), policy: None, policy_arns: Vec::new(), ..self.clone() };
        let (all, bare) = (self.json()?.len(), bare.json()?.len());
        let room = ROOM.saturating_sub(bare).max(1);
        Ok(u32::try_from((all - bare).saturating_mul(100).div_ceil(room)).unwrap_or(u32::MAX))
    }
}

impl fmt::Debug for SessionClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionClaims")
            .field("access_key", &self.access_key)
            .field("holder", &self.holder)
            .finish_non_exhaustive()
    }
}

mod secret_text {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::secret::SecretString;

    pub fn serialize<S: Serializer>(secret: &SecretString, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(secret.expose())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SecretString, D::Error> {
        String::deserialize(from).map(SecretString::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEPLOYMENT: &str = "5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11";
    const ID: SessionKeyId = SessionKeyId([1, 2, 3, 4]);

    fn key_of(id: SessionKeyId, byte: u8, deployment: &str) -> SessionKey {
        SessionKey::new(id, &SecretBytes::new(vec![byte; 32]), deployment).unwrap()
    }

    fn key() -> SessionKey {
        key_of(ID, 7, DEPLOYMENT)
    }

    fn claims() -> SessionClaims {
        SessionClaims {
            access_key: "ASIAGAYTEMZUGU3DOOBZ".parse().unwrap(),
            secret: SecretString::new("s".repeat(40)),
            account: "111122223333".parse().unwrap(),
            holder: Holder::Role {
                id: "AROAAAAAAAAAAAAAAAAAA".into(),
                name: "ops".parse().unwrap(),
                session: "one".into(),
            },
            issued: 1_767_227_400_123,
            expires: 1_767_231_000,
            mfa_at: None,
            source_identity: None,
            tags: Vec::new(),
            transitive: Vec::new(),
            policy: None,
            policy_arns: Vec::new(),
            federated_provider: None,
            claims: Vec::new(),
            chained: false,
        }
    }

    fn opened(token: &str, key: &SessionKey) -> Option<SessionClaims> {
        key.open(&SealedToken::parse(token)?)
    }

    #[test]
    fn what_was_sealed_comes_back() {
        let full = SessionClaims {
            mfa_at: Some(5),
            source_identity: Some("alice".into()),
            tags: vec![("team".into(), "a \"b\" é".into())],
            transitive: vec!["team".into()],
            policy: Some(RawValue::from_string(r#"{"Statement":[]}"#.into()).unwrap()),
            policy_arns: vec!["arn:aws:iam::111122223333:policy/p".parse().unwrap()],
            federated_provider: Some("arn".into()),
            claims: vec![("i:sub".into(), vec!["x".into()])],
            chained: true,
            ..claims()
        };
        for claims in [claims(), full] {
            let (token, _) = key().seal(&claims, [9; NONCE_LEN]).unwrap();
            let back = opened(token.expose(), &key()).unwrap();
            assert_eq!(*back.json().unwrap(), *claims.json().unwrap());
            assert_eq!(back.session(), claims.session());
            assert!(token.expose().len() <= LONGEST_TOKEN);
        }
    }

    #[test]
    fn no_session_policy_is_none_and_not_an_empty_one() {
        assert_eq!(claims().session().policies, None);
        let arns = vec!["arn:aws:iam::111122223333:policy/p".parse().unwrap()];
        assert!(SessionClaims { policy_arns: arns, ..claims() }.session().policies.is_some());
    }

    #[test]
    fn only_the_same_key_of_the_same_deployment_opens() {
        let (token, _) = key().seal(&claims(), [9; NONCE_LEN]).unwrap();
        assert!(opened(token.expose(), &key()).is_some());
        for other in [
            key_of(ID, 8, DEPLOYMENT),
            key_of(ID, 7, "0f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11"),
            key_of(SessionKeyId([1, 2, 3, 5]), 7, DEPLOYMENT),
        ] {
            assert!(opened(token.expose(), &other).is_none(), "{other:?}");
        }
    }

    #[test]
    fn forms_that_are_no_tokens() {
        let (token, _) = key().seal(&claims(), [9; NONCE_LEN]).unwrap();
        let token = token.expose();
        let mut other_version = STANDARD.decode(token).unwrap();
        other_version[0] = 2;
        let long = format!("{token}{}", "A".repeat(LONGEST_TOKEN));
        for text in
            ["", "AQ==", "not base64!", &STANDARD.encode(&other_version), &STANDARD.encode([1; 32]), &long, &token[1..]]
        {
            assert!(opened(text, &key()).is_none(), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_size() {
        let tags = |n: usize| (0..n).map(|i| (format!("key-{i:03}"), "v".repeat(100))).collect();
        let (_, small) = key().seal(&SessionClaims { tags: tags(1), ..claims() }, [0; NONCE_LEN]).unwrap();
        let (_, large) = key().seal(&SessionClaims { tags: tags(20), ..claims() }, [0; NONCE_LEN]).unwrap();
        assert!(small > 0 && large > small && large <= 100, "{small} {large}");
        assert_eq!(key().seal(&claims(), [0; NONCE_LEN]).unwrap().1, 0);
        let refused = key().seal(&SessionClaims { tags: tags(50), ..claims() }, [0; NONCE_LEN]).unwrap_err();
        assert!(matches!(refused, SealError::TooLarge { percent } if percent > 100), "{refused:?}");
    }

    #[test]
    fn nothing_shows_the_secret() {
        let secret = "q".repeat(40);
        let claims = SessionClaims { secret: SecretString::new(secret.clone()), ..claims() };
        assert!(!format!("{claims:?} {:?}", key()).contains(&secret));
    }

    #[test]
    fn a_wrapped_key_is_bound_to_its_id_and_deployment() {
        let aad = ID.wrap_aad(DEPLOYMENT);
        assert_eq!(aad, associated_data(&["hsm-bridge/sts-key/1", DEPLOYMENT, "01020304"]));
        assert_eq!(SessionKeyId::parse("01020304"), Some(ID));
        assert_eq!(SessionKeyId::parse("0102030"), None);
    }

    proptest! {
        #[test]
        fn a_changed_token_never_opens(at in 0usize..2000, bit in 0u8..8) {
            let (token, _) = key().seal(&claims(), [9; NONCE_LEN]).unwrap();
            let mut bytes = STANDARD.decode(token.expose()).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(opened(&STANDARD.encode(&bytes), &key()).is_none());
            bytes.truncate(at);
            prop_assert!(opened(&STANDARD.encode(&bytes), &key()).is_none());
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,300}", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = opened(&text, &key());
            let mut versioned = vec![VERSION];
            versioned.extend(bytes);
            prop_assert!(opened(&STANDARD.encode(&versioned), &key()).is_none());
        }
    }
}
