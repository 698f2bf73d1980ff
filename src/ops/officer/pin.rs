//! `token pin`: another PIN without a restart. Tried once; the old one stays until the new one worked.

use std::path::Path;

use serde_json::json;

use super::tokens::{NamedToken, unknown};
use crate::keystore::{ConfiguredToken, ErrorClass, MemberView, State, Status, Token, TokenError};
use crate::ops::{Context, Effects, OpError, OperatorResponse, Ops};
use crate::secret::SecretString;
use crate::store::{KeyStoreRecord, Write};

impl Ops {
    pub(super) async fn change_pin(
        &self,
        name: Option<&str>,
        pin_file: Option<&Path>,
        retry: bool,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        let name = name.unwrap_or(crate::keystore::DEFAULT_TOKEN);
        let tokens = self.single_tokens(&self.store.snapshot());
        let named = tokens.iter().find(|token| token.name == name).ok_or_else(|| unknown(name, &tokens))?;
        let source = self.pins.get().ok_or_else(|| OpError::Internal("nobody reads PINs".to_owned()))?;
        effects.details = Some(json!({ "token": name, "pin": "not changed" }));
        if retry {
            let removed = self.forget_rejected(named, ctx, effects).await?;
            effects.details = Some(json!({ "token": name, "pin": "not changed", "marksRemoved": removed }));
            if !named.is_default() && pin_file.is_none() {
                // One of several that waits for this has the password of its key store.
                if let Some((group, member)) = self.out_of(named) {
                    let opened = group.open_member(&member.name, None).await;
                    opened.map_err(|error| not_let_in(name, &error))?;
                    effects.details = Some(json!({ "token": name, "pin": "taken", "retry": retry }));
                    return Ok(OperatorResponse::PinChanged { token: name.to_owned() });
                }
                return Ok(OperatorResponse::PinMarksRemoved { token: name.to_owned(), removed });
            }
        }
        if named.is_default() {
            let pin = match pin_file {
                Some(path) => source.file(path),
                None => source.configured(named.member.as_ref().map(|member| &*member.name)),
            };
            let pin = pin.map_err(OpError::Validation)?;
            match (&named.token, self.out_of(named)) {
                (Some(token), _) => {
                    token.change_pin(pin).await.map_err(|e| not_changed(name, &e, Some(token)))?;
                }
                (None, Some((group, member))) => {
                    let opened = group.open_member(&member.name, Some(pin)).await;
                    opened.map_err(|error| not_let_in(name, &error))?;
                }
                (None, None) => return Err(OpError::InvalidState(format!("token `{name}` is not there"))),
            }
        } else {
            // One password for all tokens of a custom key store.
            let tokens = self.named_tokens(&self.store.snapshot());
            let named = tokens.iter().find(|token| token.name == name).ok_or_else(|| unknown(name, &tokens))?;
            let Some(path) = pin_file else {
                return Err(OpError::Validation(format!(
                    "the password of token `{name}` stands nowhere but in the store: name a file with the new one \
                     (`--pin-file`)"
                )));
            };
            let password = source.file(path).map_err(OpError::Validation)?;
            self.change_password(named, password, ctx, effects).await?;
        }
        effects.details = Some(json!({ "token": name, "pin": "changed", "retry": retry }));
        Ok(OperatorResponse::PinChanged { token: name.to_owned() })
    }

    /// One of several tokens that could not be opened, with the key store's connection.
    fn out_of<'a>(&self, named: &'a NamedToken) -> Option<(Token, &'a MemberView)> {
        let member = named.member.as_ref().filter(|member| member.token.is_none())?;
        Some((self.keystore.token_of(named.store.as_ref().map(|store| &store.id))?, member))
    }

    /// Each PIN of the token may be tried once more: by this host, and as the password of its key store.
    async fn forget_rejected(
        &self,
        named: &NamedToken,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<usize, OpError> {
        let source = self.pins.get().ok_or_else(|| OpError::Internal("nobody reads PINs".to_owned()))?;
        let known = self.store.snapshot().tokens.get(&named.name).map(|record| record.serial.clone());
        let member = self.out_of(named);
        let known = known.filter(|_| member.is_none());
        let serial = match (&named.token, known, &named.configured) {
            (Some(token), _, _) => token.info().serial,
            // The record of a key store with several tokens has the serial of any of them.
            (None, None, _) if let Some((group, member)) = member => {
                let looked = group.look_at_member(&member.name).await;
                looked.map_err(|error| not_let_in(&named.name, &error))?.info.serial
            }
            (None, Some(serial), _) => serial,
            (None, None, Some(configured)) => {
                let looked = configured.look().await;
                looked.map_err(|error| not_changed(&named.name, &error, None))?.info.serial
            }
            (None, None, None) => return Err(OpError::InvalidState(format!("token `{}` was never seen", named.name))),
        };
        let removed = source.forget_rejected(serial).await.map_err(OpError::InvalidState)?;
        if let Some(store) = named.store.as_ref().filter(|store| store.password_refused) {
            let id = store.id.clone();
            let written = self.change(ctx, move |snapshot| {
                let record = snapshot.key_stores.get(&id).ok_or_else(|| OpError::KeyStoreNotFound(id.to_string()))?;
                let record = KeyStoreRecord { password_refused: false, ..record.as_ref().clone() };
                Ok((vec![Write::PutKeyStore(record)], ()))
            });
            let ((), version) = written.await?;
            effects.store_version = Some(version);
        }
        Ok(removed)
    }

    /// The password of a custom key store: it works, and then it is sealed in the old one's place.
    async fn change_password(
        &self,
        named: &NamedToken,
        password: SecretString,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<(), OpError> {
        // RULE KMS: KeyStorePassword has 7 to 32 characters.
        if !(7..=32).contains(&password.expose().chars().count()) {
            return Err(OpError::Validation("a password of a key store has 7 to 32 characters".to_owned()));
        }
        let (Some(store), Some(configured)) = (&named.store, &named.configured) else {
            return Err(OpError::InvalidState(format!(
                "no key store is made of token `{}`: CreateCustomKeyStore takes its password",
                named.name
            )));
        };
        let _one_at_a_time = self.keystore.changing().await;
        match self.keystore.states().state(&store.id) {
            Some(State::Connected(token)) => {
                let pin = configured.login_pin(&password);
                token.change_pin(pin).await.map_err(|error| not_changed(&named.name, &error, Some(&token)))?;
            }
            Some(State::Disconnected | State::Failed(_)) | None => {
                let opened = self.try_password(configured, store, &password).await?;
                self.keystore.drain(opened).await;
            }
            Some(state @ (State::Connecting | State::Disconnecting)) => {
                return Err(OpError::InvalidState(format!(
                    "key store {} is {}: wait until it is not",
                    store.id,
                    state.name()
                )));
            }
        }
        let sealed = self.seal_password(&store.id, &password, &self.generate_call(ctx)).await?;
        let (id, name) = (store.id.clone(), named.name.clone());
        let written = self
            .change(ctx, move |snapshot| {
                let record = snapshot.key_stores.get(&id).ok_or_else(|| OpError::KeyStoreNotFound(id.to_string()))?;
                let record =
                    KeyStoreRecord { wrapped_password: sealed, password_refused: false, ..record.as_ref().clone() };
                Ok((vec![Write::PutKeyStore(record)], ()))
            })
            .await;
        let ((), version) = written.map_err(|error| {
            OpError::InvalidState(format!(
                "token `{name}` took the new password, which could not be written down ({error}): run `token pin` again, or \
                 the next connection fails"
            ))
        })?;
        effects.store_version = Some(version);
        Ok(())
    }

    async fn try_password(
        &self,
        configured: &ConfiguredToken,
        store: &KeyStoreRecord,
        password: &SecretString,
    ) -> Result<Token, OpError> {
        let snapshot = self.store.snapshot();
        let known = snapshot.tokens.values().find(|record| record.cluster == store.cluster);
        let serial = known.map(|record| record.serial.clone());
        configured.open(password, serial).await.map_err(|error| not_changed(&configured.name, &error, None))
    }
}

/// A member of a key store stays out.
fn not_let_in(name: &str, error: &TokenError) -> OpError {
    let what = match error.class {
        ErrorClass::Operator => "refuses the login, which was tried once at most",
        _ => "cannot be used",
    };
    OpError::InvalidState(format!("token `{name}` {what} ({}); the others of its key store go on", error.detail))
}

/// What happened and what is in force now. The PIN itself is in no text of the token's.
fn not_changed(name: &str, error: &TokenError, token: Option<&Token>) -> OpError {
    let after = match token.map(Token::status) {
        None => "the old password stays".to_owned(),
        Some(Status::Ready) => "the old PIN is used on".to_owned(),
        Some(Status::Down(reason)) => {
            format!("the token is down ({reason}): set a PIN that works and run `token pin` again")
        }
    };
    match error.class {
        ErrorClass::Operator => OpError::InvalidState(format!(
            "token `{name}` refuses the new PIN, which was tried once ({}); {after}",
            error.detail
        )),
        _ => OpError::InvalidState(format!("the PIN of token `{name}` was not changed ({}); {after}", error.detail)),
    }
}
