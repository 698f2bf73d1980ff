//! Key stores: connected tokens. The default key store (`Origin = AWS_KMS`) is always there; custom key stores
//! (`Origin = AWS_CLOUDHSM`) are connected and disconnected while the service runs.

pub use crate::token::{
    Adopted, CallContext, Capabilities, Curve, Done, Enforcement, ErrorClass, Evidence, Facts, GcmOutput, Generated,
    Hash, KeyKind, KeyRef, LoginForm, Looked, MaterialId, ObjectFacts, ObjectReport, ObjectSelector, OpenFailure,
    Profile, Rung, Selector, SignMechanism, SlotFacts, Status, SystemKey, Token, TokenError, TokenInfo, certificate,
    look, slots,
};

use crate::ids::KeyStoreId;

/// All key stores of this instance.
#[derive(Clone)]
pub struct KeyStores {
    token: Token,
}

impl KeyStores {
    pub fn new(token: Token) -> Self {
        Self { token }
    }

    /// The default key store's token.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// The token that holds the keys of a key store; `None`: it is not connected.
    pub fn token_of(&self, store: Option<&KeyStoreId>) -> Option<Token> {
        match store {
            None => Some(self.token.clone()),
            Some(_) => None,
        }
    }
}
