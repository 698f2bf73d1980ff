//! A start without the token: the listeners answer with an error that clients try again, and health and metrics tell why.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::patient::patient;
use super::serve::{bind, bind_admin, server_settings};
use super::{AppError, connect, now_ms, retry};
use crate::audit::Journal;
use crate::config::{Config, Isolation};
use crate::http::{Drained, Metrics, Server, Switch, TlsReloader};
use crate::keystore::{DEFAULT_TOKEN, Token};
use crate::token::{Backoff, OPEN_FACTOR};

/// A connection that takes longer hangs, as far as anybody can tell: probe and login of a network token take seconds.
const SLOW: Duration = Duration::from_secs(15);
/// How often a start that waits for its token looks whether it waits in vain.
const LOOK: Duration = Duration::from_millis(200);
/// What `/readyz` says.
const AWAY: &str = "token: it is away since the start";

/// What answers until the service can.
#[derive(Clone)]
pub(super) struct Front {
    pub(super) switch: Arc<Switch>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) stopped: watch::Receiver<bool>,
}

/// The listeners.
pub(super) struct Listening {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) reloader: TlsReloader,
    front: Front,
    server: Option<Server>,
    main: Option<JoinHandle<Drained>>,
    pub(super) admin: Option<JoinHandle<Drained>>,
}

impl Front {
    pub(super) fn new(config: &Config, stopped: &watch::Receiver<bool>) -> Front {
        let metrics = Arc::new(Metrics::new());
        let switch = Arc::new(Switch::new(config.server.locality.region.to_string(), metrics.clone()));
        Front { switch, metrics, stopped: stopped.clone() }
    }

    pub(super) async fn bind(&self, config: &Config) -> Result<Listening, AppError> {
        let probe = || {
            let switch = self.switch.clone();
            Arc::new(move || switch.readiness())
        };
        let noting = self.switch.clone();
        let server = bind(server_settings(config))
            .await?
            .with_metrics(self.metrics.clone())
            .with_readiness(probe())
            .with_refusals(Arc::new(move |code, source| noting.note(code, source)));
        let admin = match config.metrics {
            Some(address) => Some(bind_admin(config, address, self.metrics.clone(), probe()).await?),
            None => None,
        };
        Ok(Listening {
            addresses: server.local_addrs(),
            reloader: server.tls_reloader(),
            front: self.clone(),
            server: Some(server),
            main: None,
            admin: admin.map(|admin| tokio::spawn(admin.run_admin(self.stopped.clone()))),
        })
    }
}

impl Listening {
    /// Requests are answered from now on.
    pub(super) fn run(&mut self) {
        if let Some(server) = self.server.take() {
            self.main = Some(tokio::spawn(server.run(self.front.switch.clone(), self.front.stopped.clone())));
        }
    }

    /// The task that answers, after `run`.
    pub(super) fn main(&mut self) -> Option<JoinHandle<Drained>> {
        self.main.take()
    }
}

/// Connects the token, as often as it takes; once it is known to be away, `listening` is there. What only a person can
/// mend is an error.
pub(super) async fn connect_patiently(
    config: &Config,
    journal: &Journal,
    front: &Front,
    listening: &mut Option<Listening>,
) -> Result<Token, AppError> {
    let mut backoff = Backoff::new(retry(&config.token));
    let slow = SLOW.min(config.token.deadline + config.token.hang_grace);
    let (began, mut tries) = (Instant::now(), 0_u32);
    loop {
        let mut attempt = Box::pin(connect(config));
        let answer = match tokio::time::timeout(slow, &mut attempt).await {
            Ok(answer) => answer,
            Err(_) => {
                away(config, journal, front, listening, "Slow").await?;
                match tokio::time::timeout(limit(config), attempt).await {
                    Ok(answer) => answer,
                    Err(_) => return Err(hung(journal, "a call of the token's library hangs at the start").await?),
                }
            }
        };
        tries = tries.saturating_add(1);
        match answer {
            Ok(token) => {
                if listening.is_some() {
                    tracing::info!(tries, "the token is there");
                    back(journal, began, tries).await?;
                }
                return Ok(token);
            }
            Err(AppError::TokenAway { error: reason, members }) => {
                match listening {
                    None => tracing::error!(reason, "the service starts without its token"),
                    Some(_) => tracing::debug!(reason, "the token is still away"),
                }
                away(config, journal, front, listening, "Away").await?;
                if let Some(members) = members {
                    front.switch.say(&format!("{AWAY}: {members}"));
                }
                tokio::time::sleep(backoff.wait()).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Opens the service with a token that is connected. Where the token goes away meanwhile, it is waited for, and callers are told.
pub(super) async fn open_patiently<T>(
    config: &Config,
    journal: &Journal,
    front: &Front,
    listening: &mut Option<Listening>,
    token: Token,
    open: impl AsyncFnOnce(Token) -> Result<T, AppError>,
) -> Result<T, AppError> {
    let (token, patience) = patient(token, retry(&config.token));
    let (began, mut waited) = (Instant::now(), false);
    let looked = token.clone();
    let mut opening = pin!(open(token));
    let opened = loop {
        tokio::select! {
            opened = &mut opening => break opened?,
            () = patience.waits() => {
                waited = true;
                away(config, journal, front, listening, "Away").await?;
            }
            () = tokio::time::sleep(LOOK) => {
                if let Some(reason) = looked.doom() {
                    return Err(hung(journal, &reason).await?);
                }
            }
        }
    };
    patience.end();
    if waited {
        back(journal, began, 1).await?;
    }
    Ok(opened)
}

/// A call that hangs in this process cannot be ended. A worker process is ended after its own limit, and the next one is tried.
fn limit(config: &Config) -> Duration {
    match config.token.isolation {
        Isolation::InProcess => config.token.generate_deadline.saturating_mul(OPEN_FACTOR),
        Isolation::Process { .. } => Duration::MAX,
    }
}

async fn hung(journal: &Journal, reason: &str) -> Result<AppError, AppError> {
    let details = json!({ "token": DEFAULT_TOKEN, "start": true, "reason": reason });
    journal.append(journal.event("TokenHung", now_ms(), details)).await?;
    Ok(AppError::Hung(reason.to_owned()))
}

async fn back(journal: &Journal, began: Instant, tries: u32) -> Result<(), AppError> {
    let lasted = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let details = json!({ "token": DEFAULT_TOKEN, "start": true, "milliseconds": lasted, "tries": tries });
    journal.append(journal.event("TokenRecovered", now_ms(), details)).await?;
    Ok(())
}

/// Answers without the token, from the first time on.
async fn away(
    config: &Config,
    journal: &Journal,
    front: &Front,
    listening: &mut Option<Listening>,
    cause: &str,
) -> Result<(), AppError> {
    // RULE: no path and no `CKR_`.
    front.switch.say(match cause {
        "Slow" => "token: connecting to it has not come to an end since the start",
        _ => AWAY,
    });
    if listening.is_some() {
        return Ok(());
    }
    let mut bound = front.bind(config).await?;
    bound.run();
    for address in &bound.addresses {
        tracing::warn!(%address, "not ready: every request is answered with an error until the token is there");
    }
    *listening = Some(bound);
    let details = json!({ "token": DEFAULT_TOKEN, "start": true, "cause": cause });
    journal.append(journal.event("TokenDown", now_ms(), details)).await?;
    Ok(())
}
