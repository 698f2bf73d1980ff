//! A new instance: system keys in the token, an empty store, the account and its root user's first access key.

use std::path::Path;

use serde_json::json;

use super::{App, AppError, StartOptions, audit_directory, connect, now_ms, open_files, settle, system_call};
use crate::audit::{Event, EventType, Journal, Load, UserIdentity};
use crate::authn::Principal;
use crate::config::Config;
use crate::ids::AccessKeyId;
use crate::keystore::SystemKey;
use crate::ops::RESTORED_DELETIONS_WAIT_MS;
use crate::ops::identity::make_access_key;
use crate::ops::store_key::TokenWrap;
use crate::secret::SecretString;
use crate::store::{DeploymentRecord, Owner, Store, StoreError, UpdateError, Write, database_path};

/// The root user's first access key: shown once.
pub struct FirstKey {
    pub id: AccessKeyId,
    pub secret: SecretString,
}

/// Makes an instance in the configuration's state directory. Refuses where a store exists. `made_by`: `init` or `dev`.
pub async fn create(config: &Config, made_by: &'static str) -> Result<FirstKey, AppError> {
    let database = database_path(&config.server.state_dir);
    if database.exists() {
        return Err(StoreError::Exists(database).into());
    }
    let opened = open_files(config, &StartOptions::default())?;
    opened.journal.admit(Load::Administration)?;
    let request_id = uuid::Uuid::new_v4().to_string();
    let intent =
        operator_event(&opened.journal, EventType::HsmBridgeIntent, "Init", &request_id, json!({ "by": made_by }));
    opened.journal.append(intent).await?;

    let token = connect(config).await?;
    let call = system_call("init", config.token.generate_deadline);
    let mut made = Vec::new();
    for (key, label) in [(SystemKey::StoreKek, "hsm-bridge/store-kek"), (SystemKey::IamWrap, "hsm-bridge/iam-wrap")] {
        if token.ensure_system_key(&call, key).await? {
            made.push(label);
        }
    }
    let recovery_key = match &config.store.recovery_key {
        None => None,
        Some(path) => Some(
            std::fs::read_to_string(path)
                .map_err(|e| AppError::Io(format!("cannot read the recovery key `{}`: {e}", path.display())))?,
        ),
    };
    let wrap = TokenWrap::new(token.clone());
    let store = Store::create(opened.lock, &wrap, recovery_key.as_deref()).await?;
    let here = &config.server.locality;
    let now = now_ms();
    let (record, secret) = make_access_key(&token, &call, &here.account, Owner::Root, &Principal::Root, now).await?;
    let id = record.id.clone();
    let deployment = DeploymentRecord {
        id: store.deployment_id().to_owned(),
        account: here.account.clone(),
        region: here.region.clone(),
        created: now,
        made_by: made_by.to_owned(),
    };
    let writes = vec![Write::PutDeployment(deployment), Write::PutAccessKey(record)];
    let version = match store.update(move |_| Ok::<_, StoreError>((writes, ()))).await {
        Ok(((), version)) => version,
        Err(UpdateError::Refused(error) | UpdateError::Failed(error)) => return Err(error.into()),
    };
    let details = json!({ "by": made_by, "systemKeysMade": made, "accessKeyId": id, "token": token.info().serial });
    let mut outcome = operator_event(&opened.journal, EventType::HsmBridgeOperatorCall, "Init", &request_id, details);
    outcome.additional.store_version = Some(version);
    opened.journal.append(outcome).await?;
    opened.journal.close();
    token.close();
    Ok(FirstKey { id, secret })
}

/// Puts a backup in place of a store that is lost, and raises the budgets to what the journal shows.
pub async fn restore_missing(config: Config, backup: &Path, ticket: &str) -> Result<(), AppError> {
    let opened = open_files(&config, &StartOptions::default())?;
    opened.journal.admit(Load::Administration)?;
    let request_id = uuid::Uuid::new_v4().to_string();
    let details = json!({ "path": backup, "ticket": ticket, "storeWasMissing": true });
    let intent =
        operator_event(&opened.journal, EventType::HsmBridgeIntent, "StoreRestore", &request_id, details.clone());
    opened.journal.append(intent).await?;
    let token = connect(&config).await?;
    let wrap = TokenWrap::new(token.clone());
    let at_least = opened.recovery.last_store_version.unwrap_or(0);
    let wait = now_ms() + RESTORED_DELETIONS_WAIT_MS;
    let store = Store::restore_new(opened.lock, backup, &wrap, at_least, wait).await?;
    let version = store.snapshot().version;
    store.close().await?;
    let mut outcome =
        operator_event(&opened.journal, EventType::HsmBridgeOperatorCall, "StoreRestore", &request_id, details);
    outcome.additional.store_version = Some(version);
    opened.journal.append(outcome).await?;
    opened.journal.close();
    token.close();
    drop(opened.journal);
    let app = App::open(config, &StartOptions::default()).await?;
    settle::raise_budgets(&app.services.ops, audit_directory(&app.config)).await?;
    app.close().await;
    Ok(())
}

fn operator_event(
    journal: &Journal,
    event_type: EventType,
    name: &str,
    request_id: &str,
    details: serde_json::Value,
) -> Event {
    let uid = rustix::process::geteuid().as_raw();
    let event = journal.event(name, now_ms(), details);
    Event {
        event_type,
        user_identity: UserIdentity {
            kind: Some("HsmBridgeOperator"),
            arn: Some(format!("hsm-bridge:operator/{uid}")),
            invoked_by: None,
            os_user_id: Some(uid),
            ..event.user_identity
        },
        source_ip: "localhost".to_owned(),
        user_agent: Some(format!("hsm-bridge/{}", env!("CARGO_PKG_VERSION"))),
        request_id: Some(request_id.to_owned()),
        ..event
    }
}
