//! The timer of session keys: a first one when somebody asks for a session, then one a day.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::now_ms;
use crate::http::{Services, operator};

/// How often it is looked whether a key is a day old or a revocation has ended.
const LOOK: Duration = Duration::from_secs(60);

pub(super) async fn keep(services: Arc<Services>, mut stopped: watch::Receiver<bool>) {
    let keys = services.ops.session_keys();
    loop {
        let wanted = tokio::select! {
            () = keys.wanted() => true,
            () = tokio::time::sleep(LOOK) => false,
            _ = stopped.changed() => return,
        };
        if wanted || services.ops.session_upkeep_due(now_ms()) {
            match operator::keep_session_keys(&services).await {
                Ok(()) => tracing::info!("session keys are up to date"),
                Err(error) => tracing::error!(%error, "session keys are not up to date, another try follows"),
            }
            keys.tried();
        }
    }
}
