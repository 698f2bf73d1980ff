//! What an officer and the reconciliation ask of a token: its objects with their attributes, the places of keys whose ids
//! are not the bridge's own, and the signature under an attestation.

use std::sync::Arc;

use super::{CallContext, Done, ErrorClass, MaterialId, ObjectFacts, ObjectSelector, SystemKey, Token, TokenError};
use crate::secret::SecretBytes;

impl Token {
    /// From now on the objects of these materials are those with this `CKA_ID` (adopted keys, short ids).
    pub fn place(&self, _places: Vec<(MaterialId, Vec<u8>)>) {}

    /// The attributes of the objects that fit.
    pub async fn inspect(
        &self,
        _ctx: &CallContext,
        _selector: &ObjectSelector,
    ) -> Result<Vec<ObjectFacts>, TokenError> {
        Err(TokenError::own(ErrorClass::Unsupported, "inspect", "not done yet"))
    }

    /// The attributes of all objects, read in slices, so that keys are made and destroyed in between. `progress` is told
    /// how many of how many are done. Each slice has a deadline of its own.
    pub async fn inventory(
        &self,
        _ctx: &CallContext,
        _progress: Arc<dyn Fn(u64, u64) + Send + Sync>,
    ) -> Result<Vec<ObjectFacts>, TokenError> {
        Err(TokenError::own(ErrorClass::Unsupported, "inventory", "not done yet"))
    }

    /// RSASSA-PKCS1-v1_5 with SHA-256 of a digest, by a system key that signs (`SystemKey::Attest`).
    pub async fn sign_system(
        &self,
        _ctx: &CallContext,
        _key: SystemKey,
        _digest: SecretBytes,
    ) -> Result<Done<Vec<u8>>, TokenError> {
        Err(TokenError::own(ErrorClass::Unsupported, "sign_system", "not done yet"))
    }

    /// SubjectPublicKeyInfo (DER) of a system key that signs.
    pub async fn system_public_key(&self, _ctx: &CallContext, _key: SystemKey) -> Result<Vec<u8>, TokenError> {
        Err(TokenError::own(ErrorClass::Unsupported, "system_public_key", "not done yet"))
    }
}
