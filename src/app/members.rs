//! Key stores of several tokens: how they are opened, and what the log says of tokens that leave and come back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;

use super::{AppError, isolation, now_ms, pins, profile, selector, settle};
use crate::config::{self, Config};
use crate::http::Services;
use crate::http::metrics::MemberReading;
use crate::ids::KeyStoreId;
use crate::keystore::members::{ConfiguredDoor, Door, Members, Nobody, Pace, Reads, Together};
use crate::keystore::{CallContext, DEFAULT_TOKEN, ErrorClass, Token, TokenError};
use crate::secret::SecretString;
use crate::token::Settings;

/// How often members are looked at for the log.
const LOOK: Duration = Duration::from_millis(500);
/// How often unfinished keys are tried to be undone while all members are there.
const SETTLE: Duration = Duration::from_secs(5);

pub(super) fn reads(reads: config::Reads) -> Reads {
    match reads {
        config::Reads::Preferred => Reads::Preferred,
        config::Reads::Spread => Reads::Spread,
    }
}

/// The default key store of several tokens. `first`: the settings of `[token]` itself, with its PIN.
pub(super) async fn open(config: &Config, first: Settings, pin: SecretString) -> Result<Token, AppError> {
    let together = &config.token.together;
    let mut all: Vec<(String, Arc<dyn Door>)> = Vec::new();
    {
        let pin = pin.clone();
        let door = ConfiguredDoor { settings: first.clone(), pin: Box::new(move || Ok(pin.clone())) };
        all.push((DEFAULT_TOKEN.to_owned(), Arc::new(door)));
    }
    for member in &together.members {
        let settings = Settings {
            module: member.module.clone(),
            selector: selector(&member.selector),
            profile: profile(member.profile.as_deref())?,
            isolation: isolation(config, &config.token.isolation, &member.environment),
            ..first.clone()
        };
        let (source, pin) = (member.pin.clone(), pin.clone());
        for warning in source.iter().flat_map(config::PinSource::warnings) {
            tracing::warn!(member = member.name, "{warning}");
        }
        let pin = Box::new(move || match &source {
            None => Ok(pin.clone()),
            Some(source) => {
                source.read().map_err(|error| TokenError::own(ErrorClass::Context, "pin", error.to_string()))
            }
        });
        all.push((member.name.clone(), Arc::new(ConfiguredDoor { settings, pin })));
    }
    let together = Together {
        reads: reads(together.reads),
        require: together.require,
        generate_deadline: config.token.generate_deadline,
        pace: Pace::default(),
    };
    Members::open(together, all).await.map(Token::of).map_err(|nobody| away(config, nobody))
}

/// RULE: as long as one of them may come by itself it is waited for. Where nobody's login is taken, or no library loads, only a
/// person can help.
fn away(config: &Config, nobody: Nobody) -> AppError {
    let mut told = Vec::new();
    for (name, error) in nobody.failures {
        let of = config.token.together.members.iter().find(|member| member.name == name);
        let source = of.and_then(|member| member.pin.as_ref()).unwrap_or(&config.token.pin);
        let command = of.map(|_| format!("{DEFAULT_TOKEN}/{name}"));
        match pins::refused(error, source, command.as_deref()) {
            AppError::TokenAway { error, .. } => {
                return AppError::TokenAway { error, members: Some(nobody.why) };
            }
            other => told.push(other),
        }
    }
    told.into_iter().next().unwrap_or(AppError::TokenAway { error: nobody.why.clone(), members: Some(nobody.why) })
}

/// The default key store and those that are connected, by the name that metrics and the log give them.
pub(super) fn stores(services: &Services) -> Vec<(String, Option<KeyStoreId>, Token)> {
    let stores = services.ops.keystore();
    let default = std::iter::once((DEFAULT_TOKEN.to_owned(), None, stores.token().clone()));
    let custom = stores.connected().into_iter().map(|(id, token)| (id.to_string(), Some(id), token));
    default.chain(custom).collect()
}

pub(super) fn readings(services: &Services) -> (Vec<MemberReading>, Vec<(String, u64)>, u64) {
    let (mut members, mut unreplicated, mut failovers) = (Vec::new(), Vec::new(), 0);
    for (name, _, token) in stores(services) {
        let all = token.members();
        if all.is_empty() {
            continue;
        }
        unreplicated.push((name.clone(), token.unreplicated().len() as u64));
        failovers += token.failovers();
        members.extend(all.into_iter().map(|member| MemberReading {
            key_store: name.clone(),
            member: member.name.to_string(),
            ready: member.down.is_none(),
            login_refused: member.refused,
            keys: member.keys as u64,
            wrong_keys: member.wrong.len() as u64,
        }));
    }
    (members, unreplicated, failovers)
}

/// Writes down each member that leaves or comes back, until the service stops. When all of a key store are there again, what
/// only all of them can say is looked at: which keys are there, and which unfinished ones can be undone.
pub(super) async fn watch(services: Arc<Services>, patience: Duration, mut stopped: watch::Receiver<bool>) {
    let mut known: BTreeMap<(String, Arc<str>), Option<String>> = BTreeMap::new();
    let mut wrong: BTreeMap<(String, Arc<str>), usize> = BTreeMap::new();
    let mut settled = Instant::now();
    loop {
        let due = settled.elapsed() >= SETTLE;
        if due {
            settled = Instant::now();
        }
        for (name, id, token) in stores(&services) {
            let members = token.members();
            let mut came = false;
            for member in &members {
                let before = known.insert((name.clone(), Arc::clone(&member.name)), member.down.clone());
                // The start and the connection have told who was there; who was not is news.
                let changed = match &before {
                    None => member.down.is_some(),
                    Some(before) => before.is_some() != member.down.is_some(),
                };
                let wrong_keys = member.wrong.len();
                let wrong_before = wrong.insert((name.clone(), Arc::clone(&member.name)), wrong_keys).unwrap_or(0);
                if !changed && wrong_keys == wrong_before {
                    continue;
                }
                came |= changed && member.down.is_none();
                let details = json!({
                    "keyStore": name,
                    "member": &*member.name,
                    "serial": member.token.as_ref().map(|token| token.info().serial),
                    "used": member.down.is_none(),
                    "because": member.down,
                    "loginRefused": member.refused,
                    "wrongKeys": member.wrong.iter().map(|key| hex::encode(key.cka_id())).collect::<Vec<_>>(),
                    "unreplicatedKeys": token.unreplicated().len(),
                });
                let event = services.journal.event("TokenMember", now_ms(), details);
                if let Err(error) = services.journal.append(event).await {
                    tracing::error!(%error, "a change of a key store's tokens was not recorded");
                }
            }
            // One may have been away for less than a look, while it should have undone a key.
            let unsettled = due && !members.is_empty() && services.ops.unsettled() > 0;
            if (came || unsettled) && members.iter().all(|member| member.down.is_none()) {
                all_are_there(&services, id.as_ref(), &token, patience).await;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = stopped.changed() => return,
        }
    }
}

/// The tokens of a key store answer again: keys that were not finished are undone, and those that came or went are noted.
pub(super) async fn all_are_there(services: &Services, id: Option<&KeyStoreId>, token: &Token, patience: Duration) {
    let call =
        CallContext { principal: "service".into(), deadline: Instant::now() + patience, request_id: "members".into() };
    match services.ops.undo_unsettled(id, token, &call).await {
        Ok(0) => {}
        Ok(undone) => {
            tracing::info!(undone, "keys that were not finished are undone");
            let details = json!({ "token": id.map_or(DEFAULT_TOKEN, KeyStoreId::as_str), "count": undone });
            let event = services.journal.event("UnfinishedKeysUndone", now_ms(), details);
            if let Err(error) = services.journal.append(event).await {
                tracing::error!(%error, "that unfinished keys were undone was not recorded");
            }
        }
        Err(error) => tracing::error!(%error, "keys that were not finished cannot be undone"),
    }
    if let Err(error) = settle::availability(services, id, token).await {
        tracing::error!(%error, "which keys the tokens hold could not be written down");
    }
}
