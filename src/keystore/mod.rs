//! Key stores: connected tokens. Today there is one, the default key store (`Origin = AWS_KMS`).

pub use crate::token::{
    Adopted, CallContext, Capabilities, Curve, Done, ErrorClass, Evidence, Facts, GcmOutput, Generated, Hash, KeyKind,
    KeyRef, LoginForm, Looked, MaterialId, ObjectFacts, ObjectReport, ObjectSelector, OpenFailure, Profile, Rung,
    Selector, SignMechanism, Status, SystemKey, Token, TokenError, TokenInfo, certificate, look,
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
