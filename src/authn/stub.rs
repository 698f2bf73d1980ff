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
