//! Last uses of access keys reach the store in the background: never on the way of a request.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::http::Services;

/// How old a use may be that a crash loses.
const WRITE_EVERY: Duration = Duration::from_secs(30);

pub(super) async fn keep(services: Arc<Services>, mut stopped: watch::Receiver<bool>) {
    loop {
        let ended = tokio::select! {
            () = tokio::time::sleep(WRITE_EVERY) => false,
            _ = stopped.changed() => true,
        };
        if ended {
            return;
        }
        services.ops.write_access_key_uses().await;
    }
}
