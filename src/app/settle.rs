//! Store and journal agree before anything is served: no older store, no change without an outcome.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use serde_json::json;

use super::{App, AppError, StartOptions, now_ms, tokens};
use crate::audit::{Event, EventType, Recovery};
use crate::http::Services;
use crate::ids::{KeyId, KeyStoreId};
use crate::keystore::Token;
use crate::ops::Ops;
use crate::ops::settle::{Dangling, Settlement};

/// Operations that use up a key's encryption budget.
const ENCRYPTING: &[&str] = &["Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "ReEncrypt"];

pub(super) async fn at_start(app: &App, recovery: Recovery, options: &StartOptions) -> Result<(), AppError> {
    tokens::same(app, options).await?;
    let mut accepted = None;
    if let Some(last) = recovery.last_store_version {
        accepted = not_older(app, last, options).await?;
    }
    let ops = &app.services.ops;
    let dangling = recovery.dangling.into_iter().map(|intent| Dangling {
        request_id: intent.request_id,
        name: intent.name,
        resources: intent.resources,
    });
    let settlements = ops.judge(dangling.collect());
    // Custom key stores are settled when they are connected.
    ops.place(None, &app.token);
    let undone = ops.undo_creating(&app.call()).await?;
    for settlement in &settlements {
        tracing::warn!(
            request_id = settlement.request_id,
            effect = settlement.effect.as_str(),
            "an intent had no outcome"
        );
        app.services.journal.append(outcome_unknown(app, settlement)).await?;
    }
    ops.forget_applied().await?;
    tokens::at_start(app).await?;
    availability(&app.services, None, &app.token).await?;
    let snapshot = ops.store().snapshot();
    ops.keystore().follow(&snapshot, &snapshot);
    let details = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uncleanStop": recovery.unclean,
        "tornBytes": recovery.torn_bytes,
        "intentsSettled": settlements.len(),
        "unfinishedKeysUndone": undone,
        "storeRollbackTicket": accepted,
        "storeVersion": ops.store().snapshot().version,
        "token": app.services.token_serial,
    });
    app.services.journal.append(system_event(app, "Start", None, details)).await?;
    Ok(())
}

/// A record is never dropped because the token lacks the object: the key becomes `Unavailable`, a person is told, and it
/// comes back when the object does.
pub(super) async fn availability(
    services: &Services,
    store: Option<&KeyStoreId>,
    token: &Token,
) -> Result<(), AppError> {
    let held: BTreeSet<_> = token.known_materials().await?.into_iter().map(|(material, _)| material).collect();
    let mut changes = services.ops.availability(store, &held);
    // Of several tokens one that is away may hold what the others lack.
    if token.members().iter().any(|member| member.down.is_some()) {
        changes.retain(|change| change.held);
    }
    if changes.is_empty() {
        return Ok(());
    }
    let request_id = uuid::Uuid::new_v4().to_string();
    let arns = |now_held: bool| -> Vec<String> {
        changes.iter().filter(|c| c.held == now_held).map(|c| c.arn.clone()).collect()
    };
    let details = json!({ "unavailable": arns(false), "availableAgain": arns(true) });
    for change in &changes {
        let what = if change.held { "is in the token again" } else { "is not in the token: it is unavailable" };
        tracing::error!(key = change.arn, "the key {what}");
    }
    let event = |kind| Event {
        event_type: kind,
        ..event_of(services, "KeyAvailability", Some(request_id.clone()), details.clone())
    };
    services.journal.append(event(EventType::HsmBridgeIntent)).await?;
    let version = services.ops.set_availability(changes.clone(), &request_id).await?;
    let mut outcome = event(EventType::HsmBridgeSystem);
    outcome.additional.store_version = Some(version);
    outcome.additional.state_change = services.ops.state_change(&request_id);
    services.journal.append(outcome).await?;
    services.ops.outcome_recorded(&request_id);
    Ok(())
}

/// A store older than the journal's last version is refused, unless a ticket says that a person wants it. The journal then
/// tells how often each key encrypted, so that no budget starts too low.
async fn not_older(app: &App, last: u64, options: &StartOptions) -> Result<Option<String>, AppError> {
    let ops = &app.services.ops;
    let found = ops.store().snapshot().version;
    if found >= last {
        return Ok(None);
    }
    let Some(ticket) = &options.accept_store_rollback else {
        return Err(AppError::Refused(format!(
            "the store has version {found}, the audit log has seen version {last}: the store was put back to an older \
             state. If that was meant, start with `--accept-store-rollback TICKET`, which is recorded"
        )));
    };
    raise_budgets(ops, super::audit_directory(&app.config)).await?;
    ops.older_store(now_ms()).await?;
    ops.store().advance(last).await?;
    Ok(Some(ticket.clone()))
}

/// Raises the budgets of all keys to what the journal shows.
pub(super) async fn raise_budgets(ops: &Ops, dir: PathBuf) -> Result<(), AppError> {
    let counted: HashMap<String, u64> =
        tokio::task::spawn_blocking(move || crate::audit::scan::successes(&dir, ENCRYPTING))
            .await
            .map_err(|e| AppError::Io(e.to_string()))?
            .map_err(|e| AppError::Io(format!("cannot read the audit log: {e}")))?;
    let by_key = counted.into_iter().filter_map(|(arn, count)| {
        let id: KeyId = arn.rsplit_once("key/")?.1.parse().ok()?;
        Some((id, count))
    });
    ops.raise_usage(by_key.collect()).await?;
    Ok(())
}

fn outcome_unknown(app: &App, settlement: &Settlement) -> Event {
    let details = json!({
        "intent": settlement.name,
        "resources": settlement.resources,
        "effect": settlement.effect.as_str(),
    });
    system_event(app, "OutcomeUnknown", Some(settlement.request_id.clone()), details)
}

/// A record of the service about itself.
pub(super) fn system_event(app: &App, name: &str, request_id: Option<String>, details: serde_json::Value) -> Event {
    event_of(&app.services, name, request_id, details)
}

fn event_of(services: &Services, name: &str, request_id: Option<String>, details: serde_json::Value) -> Event {
    Event { request_id, ..services.journal.event(name, now_ms(), details) }
}
