//! Signatures to be implemented.
#![allow(unused_variables)]
use super::*;

/// Verifies signatures; holds the cache of derived signing keys.
pub struct Authenticator {}

#[allow(unused_variables, clippy::unused_async)]
impl Authenticator {
    pub fn new(settings: Settings) -> Self {
        unimplemented!()
    }
    /// `now`: seconds since the epoch.
    pub async fn authenticate(
        &self,
        request: &PlainRequest<'_>,
        service: Service,
        directory: &dyn Directory,
        secrets: &dyn OpenSecret,
        now: i64,
    ) -> Result<Caller, AuthnError> {
        unimplemented!()
    }
}

pub fn new_access_key_id(random: [u8; 10]) -> AccessKeyId {
    unimplemented!()
}
pub fn new_user_id(random: [u8; 11]) -> String {
    unimplemented!()
}
pub fn new_secret(random: [u8; 30]) -> SecretString {
    unimplemented!()
}
pub fn seal_aad(id: &AccessKeyId, account: &AccountId, owner: &str) -> Vec<u8> {
    unimplemented!()
}
impl Principal {
    pub fn owner(&self) -> &str {
        unimplemented!()
    }
}
