//! How one of several tokens is reached, before there is a connection to it.

use crate::secret::SecretString;
use crate::token::{Looked, Settings, Token, TokenError, look};

/// One of the tokens. All of it blocks.
pub trait Door: Send + Sync {
    /// Connects, with one login. `pin`: in the place of the configured one.
    fn open(&self, pin: Option<SecretString>) -> Result<Token, TokenError>;

    /// What the token says of itself to anybody.
    fn look(&self) -> Result<Looked, TokenError>;
}

/// One that the configuration names.
pub struct ConfiguredDoor {
    pub settings: Settings,
    /// Read anew for each login.
    pub pin: Box<dyn Fn() -> Result<SecretString, TokenError> + Send + Sync>,
}

impl Door for ConfiguredDoor {
    fn open(&self, pin: Option<SecretString>) -> Result<Token, TokenError> {
        let pin = pin.map_or_else(|| (self.pin)(), Ok)?;
        Token::open(self.settings.clone(), pin)
    }

    fn look(&self) -> Result<Looked, TokenError> {
        look(&self.settings.isolation, &self.settings.module, &self.settings.selector)
    }
}
