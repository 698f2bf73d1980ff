//! State snapshots: when the service starts, each day, and before a report that needs the present state.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;

use super::{AppError, audit_directory, now_ms};
use crate::audit;
use crate::config::Config;
use crate::http::Services;
use crate::ops::state::{Hsm, State};

const EVERY: Duration = Duration::from_secs(24 * 3600);
/// After one that could not be made.
const AGAIN: Duration = Duration::from_secs(300);

pub(super) async fn keep(services: Arc<Services>, config: Config, mut stopped: watch::Receiver<bool>) {
    loop {
        let wait = match make(&services, &config).await {
            Ok(()) => EVERY,
            Err(error) => {
                tracing::error!(%error, "no state snapshot was made, another try follows");
                AGAIN
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // What a restored store says is in no record.
            () = services.ops.a_store_was_restored() => {}
            _ = stopped.changed() => return,
        }
    }
}

/// One snapshot, and the record that names it.
pub(super) async fn make(services: &Arc<Services>, config: &Config) -> Result<(), AppError> {
    // First the number, then the state: all that is recorded below it is in the state.
    let seq = services.journal.durable();
    let snapshot = services.ops.store().snapshot();
    let here = services.ops.locality().clone();
    let tokens = tokens(services, config);
    let dir = audit_directory(config);
    let now = now_ms();
    let version = snapshot.version;
    let contexts = services.ops.contexts().clone();
    let written = tokio::task::spawn_blocking(move || {
        let mut state = State::of(&snapshot, &here, now);
        for grant in state.grants.values_mut() {
            contexts.constraints(&mut grant.constraints);
        }
        state.hsms = tokens.into_iter().map(|(hsm, module)| Hsm { library_sha256: sha256(&module), ..hsm }).collect();
        let json = serde_json::to_vec(&state)?;
        audit::snapshots::write(&dir, seq, &json)
    })
    .await
    .map_err(|error| AppError::Io(error.to_string()))?
    .map_err(|error| AppError::Io(format!("the state snapshot: {error}")))?;
    let details = json!({
        "object": written.object,
        "sha256": written.sha256,
        "bytes": written.bytes,
        "seq": seq,
        "storeVersion": version,
    });
    services.journal.append(services.journal.event("StateSnapshot", now, details)).await?;
    Ok(())
}

/// The connected tokens with the files of their libraries.
fn tokens(services: &Services, config: &Config) -> Vec<(Hsm, std::path::PathBuf)> {
    let hsm = |name: &str, info: crate::token::TokenInfo, module: &Path| {
        let hsm = Hsm {
            name: name.to_owned(),
            library: format!("{} ({})", module.display(), info.library),
            library_sha256: None,
            slot: info.slot,
            label: info.label,
            serial: info.serial,
            model: info.model,
            manufacturer: info.manufacturer,
            firmware: info.firmware,
            hardware: String::new(),
        };
        (hsm, module.to_path_buf())
    };
    let stores = services.ops.keystore();
    let mut found = vec![hsm("default", stores.token().info(), &config.token.module)];
    let snapshot = services.ops.store().snapshot();
    for record in snapshot.key_stores.values() {
        let Some(token) = stores.token_of(Some(&record.id)) else { continue };
        let named = snapshot.tokens.values().find(|token| token.cluster == record.cluster);
        let Some(named) = named else { continue };
        let configured = config.custom_tokens.iter().find(|custom| custom.name == named.name);
        let module = configured.map_or(&config.token.module, |custom| &custom.module);
        found.push(hsm(&named.name, token.info(), module));
    }
    found
}

fn sha256(path: &Path) -> Option<String> {
    use aws_lc_rs::digest;
    let bytes = std::fs::read(path).ok()?;
    Some(hex::encode(digest::digest(&digest::SHA256, &bytes)))
}
