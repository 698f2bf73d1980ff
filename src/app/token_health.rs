//! What happens to the tokens while the service runs, in the log; and the word that the process has to end.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::now_ms;
use crate::http::Services;
use crate::keystore::{DEFAULT_TOKEN, Token};
use crate::token::{Change, LastError};

/// How often the tokens are asked what happened.
const LOOK: Duration = Duration::from_millis(200);

/// Writes down what happens until the service stops. `doomed` is told why the process has to end, if it has to.
pub(super) async fn keep(
    services: Arc<Services>,
    doomed: watch::Sender<Option<String>>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let ended = tokio::select! {
            () = tokio::time::sleep(LOOK) => false,
            _ = stopped.changed() => true,
        };
        for (name, token) in tokens(&services) {
            for change in token.changes() {
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

fn tokens(services: &Services) -> Vec<(String, Token)> {
    let keystore = services.ops.keystore();
    let custom = keystore.connected().into_iter().map(|(store, token)| (store.to_string(), token));
    std::iter::once((DEFAULT_TOKEN.to_owned(), keystore.token().clone())).chain(custom).collect()
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
