//! Adoption: a key that somebody else made in the token comes under management.

use super::{CallContext, Done, ErrorClass, Generated, KeyKind, MaterialId, ObjectFacts, Token, TokenError};

/// A key that was found, with what makes it a key of the bridge.
#[derive(Debug, Clone)]
pub struct Adopted {
    pub kind: KeyKind,
    pub generated: Generated,
    /// All objects with the id, as they were found.
    pub objects: Vec<ObjectFacts>,
}

impl Token {
    /// Finds the key with this `CKA_ID` (one secret key, or one private and one public key), makes its fingerprint as for
    /// a generated key, and places its id as `place` does. Whether it may be adopted is the caller's matter.
    pub async fn adopt(
        &self,
        _ctx: &CallContext,
        _cka_id: Vec<u8>,
        _material: MaterialId,
    ) -> Result<Done<Adopted>, TokenError> {
        Err(TokenError::own(ErrorClass::Unsupported, "adopt", "not done yet"))
    }
}
