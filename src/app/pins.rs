//! Where `token pin` finds PINs: the configured source, or a file that the operator names; and the marks of those that were
//! rejected, which it may remove.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::{AppError, isolation, now_ms, selector};
use crate::audit::{Event, EventType, Journal};
use crate::config::{Config, PinSource};
use crate::keystore::{BoxFuture, DEFAULT_TOKEN, OpenFailure, TokenError, blocking};
use crate::ops::ReadPin;
use crate::secret::SecretString;
use crate::token::{self, Marks};

/// What these calls are called in errors.
const PIN: &str = "token pin";

/// The default token's source, those of further tokens with the same keys that have one of their own, and the marks of all
/// tokens.
pub(super) struct Configured {
    pub(super) source: PinSource,
    pub(super) members: BTreeMap<String, PinSource>,
    pub(super) marks: Marks,
}

impl ReadPin for Configured {
    fn configured(&self, member: Option<&str>) -> Result<SecretString, String> {
        read(member.and_then(|name| self.members.get(name)).unwrap_or(&self.source))
    }

    fn file(&self, path: &Path) -> Result<SecretString, String> {
        read(&PinSource::File(path.to_owned()))
    }

    fn forget_rejected(&self, serial: String) -> BoxFuture<'_, Result<usize, String>> {
        let marks = self.marks.clone();
        Box::pin(async move { forget(marks, serial).await.map_err(|error| error.to_string()) })
    }
}

/// `token pin --retry` where nobody serves: the marks of the default token, or of one of several, go before its login, which
/// they would refuse. In the log by an intent and an outcome of its own, because the login may fail again.
pub(super) async fn retry(config: &Config, token: &str, journal: &Journal) -> Result<(), AppError> {
    let name = token.strip_prefix(DEFAULT_TOKEN).and_then(|rest| rest.strip_prefix('/'));
    let member = config.token.together.members.iter().find(|member| Some(member.name.as_str()) == name);
    let (module, wanted, environment) = match member {
        Some(member) => (member.module.clone(), selector(&member.selector), &member.environment),
        // A name that nobody has is refused by the command itself.
        None if name.is_some() => return Ok(()),
        None => (config.token.module.clone(), selector(&config.token.selector), &config.token.environment),
    };
    let isolation = isolation(config, &config.token.isolation, environment);
    let looked = blocking(PIN, move || token::look(&isolation, &module, &wanted)).await?;
    let request_id = uuid::Uuid::new_v4().to_string();
    let event = |event_type, details: Value| Event {
        event_type,
        request_id: Some(request_id.clone()),
        ..journal.event("TokenPinRetry", now_ms(), details)
    };
    let about = json!({
        "token": token,
        "serial": looked.info.serial,
        "osUserId": rustix::process::geteuid().as_raw(),
    });
    journal.append(event(EventType::HsmBridgeIntent, about.clone())).await?;
    let removed = forget(Marks::at(&config.token.pin_marks), looked.info.serial).await?;
    let mut outcome = about;
    if let Some(outcome) = outcome.as_object_mut() {
        outcome.insert("marksRemoved".to_owned(), removed.into());
    }
    journal.append(event(EventType::HsmBridgeSystem, outcome)).await?;
    Ok(())
}

/// What is wrong with the login, where the PIN is, and what a person can do about it.
///
/// `member`: whose PIN it is, of several tokens.
pub(super) fn refused(error: TokenError, source: &PinSource, member: Option<&str>) -> AppError {
    let (whose, named) = match member {
        None => ("the token".to_owned(), String::new()),
        Some(name) => (format!("the token `{name}`"), format!(" --token {name}")),
    };
    let advice = match (error.open_failure(), error.rv) {
        (OpenFailure::PinIncorrect, 0) => {
            format!(
                "it was tried once on this host and rejected, and is not tried again. put the \
             right one there; if this one is right (it was changed in the token since, or looks like a rejected one by \
             chance), run `hsm-bridge token pin --retry{named}`, which costs one try if it is wrong"
            )
        }
        (OpenFailure::PinIncorrect, _) => {
            format!(
                "it was tried once and is not tried again, also not by the next start on this \
             host. put the right one there; if this one becomes right in the token, run `hsm-bridge token pin --retry{named}`"
            )
        }
        (OpenFailure::PinLocked | OpenFailure::PinNotInitialised, _) => {
            "the token's security officer has to see to it".to_owned()
        }
        (OpenFailure::NotPresent | OpenFailure::WrongToken | OpenFailure::Other, _) => return error.into(),
    };
    AppError::Pin(format!("{whose} takes no login ({error}). the PIN comes from {source}: {advice}"))
}

async fn forget(marks: Marks, serial: String) -> Result<usize, TokenError> {
    blocking(PIN, move || token::retry_pins(&marks, &serial)).await
}

fn read(source: &PinSource) -> Result<SecretString, String> {
    for warning in source.warnings() {
        tracing::warn!("{warning}");
    }
    source.read().map_err(|error| error.to_string())
}
