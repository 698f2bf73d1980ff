//! A look at a token without a login: whether it is there, and its public certificate.

use std::path::Path;

use super::{ErrorClass, Selector, TokenError, TokenInfo};

/// What a token says of itself to anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    pub info: TokenInfo,
    pub initialized: bool,
    pub pin_initialized: bool,
}

/// The one token that fits the selector. Blocking.
pub fn look(_module: &Path, _selector: &Selector) -> Result<Looked, TokenError> {
    Err(TokenError::own(ErrorClass::Unsupported, "look", "not done yet"))
}

/// The public `CKO_CERTIFICATE` with this label, as DER; several are an error. Blocking.
pub fn certificate(_module: &Path, _selector: &Selector, _label: &str) -> Result<Option<Vec<u8>>, TokenError> {
    Err(TokenError::own(ErrorClass::Unsupported, "certificate", "not done yet"))
}
