//! The tokens that the configuration names for custom key stores.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::members::{ConfiguredDoor, Door, Members, Nobody, Pace, Reads, Together};
use crate::ids::ClusterId;
use crate::secret::SecretString;
use crate::token::{self, ErrorClass, Isolation, Looked, Profile, Selector, Settings, Token, TokenError};

/// One of them. What PKCS#11 calls block, so each runs on a thread for that.
#[derive(Debug, Clone)]
pub struct ConfiguredToken {
    pub name: String,
    /// Without a serial to expect: that one is in the store.
    pub settings: Settings,
    /// `None`: derived from the serial when the token is first seen.
    pub cluster: Option<ClusterId>,
    /// The crypto user's name.
    pub user: String,
    /// `CKA_LABEL` of the identity certificate.
    pub identity_certificate: Option<String>,
    pub deadline: Duration,
    /// Further tokens that hold the same keys.
    pub members: Vec<ConfiguredMember>,
    pub reads: Reads,
    pub require_members: usize,
}

#[derive(Debug, Clone)]
pub struct ConfiguredMember {
    pub name: String,
    pub module: PathBuf,
    pub selector: Selector,
    pub profile: Profile,
    pub isolation: Isolation,
}

impl ConfiguredToken {
    /// What the token says of itself to anybody.
    pub async fn look(&self) -> Result<Looked, TokenError> {
        let Settings { isolation, module, selector, .. } = self.settings.clone();
        blocking("look", move || token::look(&isolation, &module, &selector)).await
    }

    /// The identity certificate in DER; `None`: the token has none under that label, or the configuration names none.
    pub async fn certificate(&self) -> Result<Option<Vec<u8>>, TokenError> {
        let Some(label) = self.identity_certificate.clone() else { return Ok(None) };
        let Settings { isolation, module, selector, .. } = self.settings.clone();
        blocking("certificate", move || token::certificate(&isolation, &module, &selector, &label)).await
    }

    /// What C_Login takes for the crypto user's password.
    pub fn login_pin(&self, password: &SecretString) -> SecretString {
        self.settings.profile.login_pin(&self.user, password)
    }

    /// Connects and logs the crypto user in, once. Another serial than the expected one is refused before the login.
    pub async fn open(&self, password: &SecretString, expect_serial: Option<String>) -> Result<Token, TokenError> {
        let pin = self.login_pin(password);
        let settings = Settings { expect_serial, ..self.settings.clone() };
        if self.members.is_empty() {
            return blocking("open", move || Token::open(settings, pin)).await;
        }
        let door = |settings: Settings, pin: SecretString| -> Arc<dyn Door> {
            Arc::new(ConfiguredDoor { settings, pin: Box::new(move || Ok(pin.clone())) })
        };
        let first = door(settings.clone(), pin);
        let others = self.members.iter().map(|member| {
            let settings = Settings {
                module: member.module.clone(),
                selector: member.selector.clone(),
                expect_serial: None,
                profile: member.profile.clone(),
                isolation: member.isolation.clone(),
                ..settings.clone()
            };
            let pin = member.profile.login_pin(&self.user, password);
            (member.name.clone(), door(settings, pin))
        });
        let together = Together {
            reads: self.reads,
            require: self.require_members,
            generate_deadline: self.settings.generate_deadline,
            pace: Pace::default(),
        };
        let all = std::iter::once((self.name.clone(), first)).chain(others).collect();
        Members::open(together, all).await.map(Token::of).map_err(Nobody::into_error)
    }
}

/// A call that blocks, on a thread for that. `name`: what an error calls it.
pub async fn blocking<T: Send + 'static>(
    name: &'static str,
    call: impl FnOnce() -> Result<T, TokenError> + Send + 'static,
) -> Result<T, TokenError> {
    match tokio::task::spawn_blocking(call).await {
        Ok(done) => done,
        Err(error) => Err(TokenError::own(ErrorClass::Context, name, format!("the call ended early: {error}"))),
    }
}
