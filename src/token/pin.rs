//! A new user PIN without a restart.

use super::{ErrorClass, Token, TokenError};
use crate::secret::SecretString;

impl Token {
    /// Logs out and in again with another user PIN, which the officer has set in the token before. The token is drained
    /// first: jobs that come wait, running ones end. The PIN is tried once; where it is refused (class `Operator`) the old
    /// one is used again, and where that fails too the token is down until a PIN works.
    pub async fn change_pin(&self, _pin: SecretString) -> Result<(), TokenError> {
        Err(TokenError::own(ErrorClass::Unsupported, "change_pin", "not done yet"))
    }
}
