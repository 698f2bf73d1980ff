//! Key stores: connected tokens. Today there is one, the default key store (`Origin = AWS_KMS`).

pub use crate::token::{
    CallContext, Capabilities, Curve, Done, ErrorClass, Evidence, Facts, GcmOutput, Generated, Hash, KeyKind, KeyRef,
    MaterialId, ObjectReport, SignMechanism, Status, SystemKey, Token, TokenError, TokenInfo,
};

/// The default key store.
#[derive(Clone)]
pub struct KeyStore {
    token: Token,
}

impl KeyStore {
    pub fn new(token: Token) -> Self {
        Self { token }
    }

    pub fn token(&self) -> &Token {
        &self.token
    }
}
