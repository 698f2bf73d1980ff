//! Brings the keys of OIDC issuers from the network to authn, which knows none.

use std::future::Future;
use std::pin::Pin;

use crate::authn::federation::{FetchKeys, KeyLocation, LARGEST_KEY_SET};
use crate::client::https_get;

pub struct IssuerKeys;

impl FetchKeys for IssuerKeys {
    fn fetch<'a>(&'a self, from: &'a KeyLocation) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send + 'a>> {
        Box::pin(https_get::key_set(&from.issuer, from.jwks_url.as_deref(), from.ca.as_deref(), LARGEST_KEY_SET))
    }
}
