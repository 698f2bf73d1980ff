//! A start without the token: the listeners answer with an error that clients try again, and health and metrics tell why.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::serve::{bind, bind_admin, server_settings};
use super::{AppError, connect, now_ms, retry};
use crate::audit::Journal;
use crate::config::Config;
use crate::http::{Drained, Metrics, Server, Switch, TlsReloader};
use crate::keystore::{DEFAULT_TOKEN, Token};
use crate::token::Backoff;

/// A connection that takes longer hangs, as far as anybody can tell: probe and login of a network token take seconds.
const SLOW: Duration = Duration::from_secs(15);
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
    let (began, mut tries) = (Instant::now(), 0_u32);
    loop {
        let mut attempt = Box::pin(connect(config));
        let early = match listening {
            Some(_) => None,
            None => tokio::time::timeout(SLOW, &mut attempt).await.ok(),
        };
        let answer = match early {
            Some(answer) => answer,
            None => {
                // A call that hangs in the library cannot be ended: it is waited for, however long.
                away(config, journal, front, listening, "Slow").await?;
                attempt.await
            }
        };
        tries = tries.saturating_add(1);
        match answer {
            Ok(token) => {
                if listening.is_some() {
                    tracing::info!(tries, "the token is there");
                    let lasted = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    let details =
                        json!({ "token": DEFAULT_TOKEN, "start": true, "milliseconds": lasted, "tries": tries });
                    journal.append(journal.event("TokenRecovered", now_ms(), details)).await?;
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

/// Answers without the token, from the first time on.
async fn away(
    config: &Config,
    journal: &Journal,
    front: &Front,
    listening: &mut Option<Listening>,
    cause: &str,
) -> Result<(), AppError> {
    if listening.is_some() {
        return Ok(());
    }
    front.switch.say(AWAY);
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
