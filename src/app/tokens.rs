//! The configured tokens: known by name, with a cluster id and a serial that are kept; and the connections of custom key
//! stores, which never hold up the start.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::settle::system_event;
use super::{App, AppError, StartOptions, isolation, members, now_ms, profile, retry, selector};
use crate::audit::{Event, EventType};
use crate::config::Config;
use crate::http::{Services, operator};
use crate::ids::KeyStoreId;
use crate::keystore::{ConfiguredMember, ConfiguredToken, DEFAULT_TOKEN, Looked, MemberView, Presence, first_seen};
use crate::token::Settings;

/// Until a connection that could not be recorded is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long attempts that run at the end of the service may take.
const LAST_ATTEMPTS: Duration = Duration::from_secs(10);

/// `[[custom_token]]` of the configuration, profiles read.
pub(super) fn configured(config: &Config) -> Result<Vec<ConfiguredToken>, AppError> {
    let tokens = config.custom_tokens.iter().map(|token| {
        Ok(ConfiguredToken {
            name: token.name.clone(),
            settings: Settings {
                module: token.module.clone(),
                selector: selector(&token.selector),
                expect_serial: None,
                profile: profile(token.profile.as_deref())?,
                workers: token.workers,
                queue: token.queue,
                generate_deadline: token.generate_deadline,
                pin_marks: config.token.pin_marks.clone(),
                retry: retry(&config.token),
                hang_grace: config.token.hang_grace,
                isolation: isolation(config, &token.isolation, &token.environment),
            },
            cluster: token.cluster.clone(),
            user: token.user.clone(),
            identity_certificate: token.identity_certificate.clone(),
            deadline: token.deadline,
            members: token
                .together
                .members
                .iter()
                .map(|member| {
                    Ok(ConfiguredMember {
                        name: member.name.clone(),
                        module: member.module.clone(),
                        selector: selector(&member.selector),
                        profile: profile(member.profile.as_deref())?,
                        isolation: isolation(config, &token.isolation, &member.environment),
                    })
                })
                .collect::<Result<_, AppError>>()?,
            reads: members::reads(token.together.reads),
            require_members: token.together.require,
        })
    });
    tokens.collect()
}

/// Tokens that are seen for the first time are recorded. Custom tokens are looked at without a login, and may be away.
pub(super) async fn at_start(app: &App) -> Result<(), AppError> {
    let info = app.token.info();
    let looked = look(app.services.ops.keystore().configured()).await;
    let mut present =
        vec![Presence { name: DEFAULT_TOKEN, cluster: app.config.token.cluster.as_ref(), seen: Some(&info) }];
    present.extend(app.services.ops.keystore().configured().iter().zip(&looked).map(|(token, looked)| Presence {
        name: &token.name,
        cluster: token.cluster.as_ref(),
        // Its serial is made when it is initialized.
        seen: looked.as_ref().filter(|looked| looked.initialized).map(|looked| &looked.info),
    }));
    let snapshot = app.services.ops.store().snapshot();
    let new = first_seen(&present, &snapshot, now_ms()).map_err(AppError::Refused)?;
    if new.is_empty() {
        return Ok(());
    }
    let request_id = uuid::Uuid::new_v4().to_string();
    let seen: Vec<_> =
        new.iter().map(|t| json!({ "token": t.name, "clusterId": t.cluster, "serial": t.serial })).collect();
    let event = |kind| Event {
        event_type: kind,
        ..system_event(app, "TokenSeen", Some(request_id.clone()), json!({ "tokens": seen }))
    };
    app.services.journal.append(event(EventType::HsmBridgeIntent)).await?;
    for token in &new {
        tracing::info!(token = token.name, cluster = %token.cluster, serial = token.serial, "seen for the first time");
    }
    let version = app.services.ops.record_tokens(new, &request_id).await?;
    let mut outcome = event(EventType::HsmBridgeSystem);
    outcome.additional.store_version = Some(version);
    outcome.additional.state_change = app.services.ops.state_change(&request_id);
    app.services.journal.append(outcome).await?;
    app.services.ops.outcome_recorded(&request_id);
    Ok(())
}

/// Another token behind the default token's name is refused until a person says that it was replaced.
/// Then it has to hold every key before anything is written; `token replace` writes the new serial.
pub(super) async fn same(app: &App, options: &StartOptions) -> Result<(), AppError> {
    let info = app.token.info();
    let snapshot = app.services.ops.store().snapshot();
    let Some(known) = snapshot.tokens.get(DEFAULT_TOKEN).filter(|known| known.serial != info.serial) else {
        return Ok(());
    };
    // Any of several tokens may be the known one; and each opened what the store was sealed with.
    let members = app.token.members();
    let is_known = |member: &MemberView| member.token.as_ref().is_none_or(|token| token.info().serial == known.serial);
    if members.iter().any(is_known) {
        return Ok(());
    }
    if options.accept_token_replacement.is_some() {
        let ctx = crate::ops::Context {
            progress: None,
            request_id: "token-replace".into(),
            principal: "service".into(),
            account: app.services.ops.locality().account.clone(),
            now: now_ms(),
            deadline: std::time::Instant::now(),
        };
        app.services.ops.stands_in(&app.token, &ctx).await?;
        return Ok(());
    }
    Err(AppError::Refused(format!(
        "the token of `[token]` has serial `{}`, the known one has `{}`: if it was replaced on purpose, run \
         `hsm-bridge token replace --token {DEFAULT_TOKEN} --ticket TICKET`, which checks every key on it",
        info.serial, known.serial
    )))
}

/// One look at each, all at once; `None`: it is away, or does not answer in time.
async fn look(tokens: &[ConfiguredToken]) -> Vec<Option<Looked>> {
    let mut looks = JoinSet::new();
    for (place, token) in tokens.iter().cloned().enumerate() {
        looks.spawn(async move {
            let looked = match tokio::time::timeout(token.deadline, token.look()).await {
                Ok(Ok(looked)) => Some(looked),
                Ok(Err(error)) => {
                    tracing::warn!(token = token.name, %error, "a token for custom key stores is not there");
                    None
                }
                Err(_) => {
                    tracing::warn!(token = token.name, "a token for custom key stores does not answer");
                    None
                }
            };
            (place, looked)
        });
    }
    let mut found = vec![None; tokens.len()];
    while let Some(done) = looks.join_next().await {
        if let Ok((place, looked)) = done
            && let Some(slot) = found.get_mut(place)
        {
            *slot = looked;
        }
    }
    found
}

/// Connects what is to be connected, as it becomes due; each on its own, so that one token that hangs holds up no other. At the
/// end of the service attempts that run may finish, so that each has its outcome in the log.
pub(super) async fn connect_stores(services: Arc<Services>, mut stopped: watch::Receiver<bool>) {
    let mut attempts = JoinSet::new();
    loop {
        tokio::select! {
            id = services.ops.keystore().due() => {
                attempts.spawn(connect(services.clone(), id, stopped.clone()));
            }
            Some(_) = attempts.join_next() => {}
            _ = stopped.changed() => break,
        }
    }
    let ended = async { while attempts.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_ATTEMPTS, ended).await.is_err() {
        tracing::error!("a connection of a key store does not end: it is given up");
    }
}

/// Until it is recorded: an attempt that was not made leaves the store CONNECTING.
async fn connect(services: Arc<Services>, id: KeyStoreId, mut stopped: watch::Receiver<bool>) {
    while let Err(error) = operator::connect_key_store(&services, id.clone()).await {
        tracing::error!(key_store = %id, %error, "the connection is tried again");
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            _ = stopped.changed() => return,
        }
    }
}
