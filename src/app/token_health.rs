//! What happens to the tokens while the service runs, in the log; what is settled when one is back; and the word that the
//! process has to end.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{members, now_ms};
use crate::http::Services;
use crate::keystore::Token;
use crate::token::{Change, LastError};

/// How often the tokens are asked what happened.
const LOOK: Duration = Duration::from_millis(200);

/// Writes down what happens until the service stops. `doomed` is told why the process has to end, if it has to.
pub(super) async fn keep(
    services: Arc<Services>,
    patience: Duration,
    doomed: watch::Sender<Option<String>>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let ended = tokio::select! {
            () = tokio::time::sleep(LOOK) => false,
            _ = stopped.changed() => true,
        };
        for (name, store, token) in members::stores(&services) {
            for change in token.changes() {
                // Of several tokens `members` says when all are there.
                if matches!(change, Change::Recovered { .. }) && token.members().is_empty() {
                    let (services, store, token) = (Arc::clone(&services), store.clone(), token.clone());
                    tokio::spawn(
                        async move { members::all_are_there(&services, store.as_ref(), &token, patience).await },
                    );
                }
                let (event, details) = told(&name, &token, change);
                let event = services.journal.event(event, now_ms(), details);
                if let Err(error) = services.journal.append(event).await {
                    tracing::error!(%error, token = name, "what happened to the token is not in the log");
                }
            }
            if let Some(reason) = token.doom() {
                doomed.send_if_modified(|doom| doom.is_none() && doom.replace(reason).is_none());
            }
        }
        if ended {
            return;
        }
    }
}

fn told(name: &str, token: &Token, change: Change) -> (&'static str, Value) {
    let serial = token.info().serial;
    match change {
        Change::Down { cause, error } => (
            "TokenDown",
            json!({ "token": name, "serial": serial, "cause": cause.name(), "error": last_error(&error) }),
        ),
        Change::Recovered { lasted, tries, initializations, epoch, first, last } => (
            "TokenRecovered",
            json!({
                "token": name,
                "serial": serial,
                "milliseconds": u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX),
                "tries": tries,
                "initializations": initializations,
                "epoch": epoch,
                "firstError": last_error(&first),
                "lastError": last_error(&last),
            }),
        ),
    }
}

fn last_error(error: &LastError) -> Value {
    json!({ "function": error.function, "rv": error.rv })
}
