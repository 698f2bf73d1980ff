//! One attempt to connect a key store: the password is tried once, and never again once the token refused it. What fails
//! becomes AWS's ConnectionErrorCode.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::ids::KeyStoreId;
use crate::keystore::{CallContext, ErrorClass, MaterialId, OpenFailure, State, SystemKey, Token, TokenError};
use crate::ops::key_stores::facts;
use crate::ops::settle::{Availability, availability_writes};
use crate::ops::{Context, Effects, OpError, Ops};
use crate::store::{Connection, KeyStoreRecord, Snapshot, TokenRecord, Write};

/// A connected token, and what the records have to say about it.
struct Opened {
    token: Token,
    first: Option<TokenRecord>,
    changes: Vec<Availability>,
    undone: usize,
}

struct Failure {
    code: &'static str,
    /// The token was asked, and it refused the password.
    password_refused: bool,
}

impl Failure {
    /// The same attempt may succeed later, with nobody doing anything here.
    fn passes(&self) -> bool {
        matches!(self.code, "NETWORK_ERRORS" | "INTERNAL_ERROR")
    }
}

impl From<&'static str> for Failure {
    fn from(code: &'static str) -> Self {
        Failure { code, password_refused: false }
    }
}

impl Ops {
    /// The connection itself, asked for by the service's own timer. It ends CONNECTING, whatever happens.
    pub(in crate::ops) async fn connect_now(
        &self,
        id: &KeyStoreId,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<(), OpError> {
        let attempt = match self.keystore.states().state(id) {
            Some(State::Connecting) => self.attempt(id, ctx).await,
            // Given up before it began.
            Some(State::Disconnecting) => Err(Failure::from("INTERNAL_ERROR")),
            _ => return Ok(()),
        };
        let _one_at_a_time = self.keystore.changing().await;
        let wanted = matches!(self.keystore.states().state(id), Some(State::Connecting));
        // RULE: who was connected before the start is not told to connect it: a token that was away then comes back by itself.
        if let Err(failure) = &attempt
            && wanted
            && failure.passes()
            && self.keystore.connection_due_again(id)
        {
            let details = serde_json::json!({ "connectionState": "CONNECTING", "connectionErrorCode": failure.code });
            effects.details = Some(details);
            effects.key_store = self.store.snapshot().key_stores.get(id).map(|record| facts(record));
            tracing::warn!(key_store = %id, code = failure.code, "not connected yet: it is tried again");
            return Ok(());
        }
        self.keystore.attempts_ended(id);
        let ended = self.write_attempt(id, &attempt, wanted, ctx, effects).await;
        let state = match (attempt, &ended, wanted) {
            (Ok(opened), Ok(()), true) => {
                for change in &opened.changes {
                    let what =
                        if change.held { "is in the token again" } else { "is not in the token: it is unavailable" };
                    tracing::error!(key = change.arn, "the key {what}");
                }
                self.keystore.connect_ended(id, opened.token);
                tracing::info!(key_store = %id, "connected");
                return Ok(());
            }
            (Ok(opened), _, wanted) => {
                self.keystore.drain(opened.token).await;
                if wanted { State::Failed("INTERNAL_ERROR".into()) } else { State::Disconnected }
            }
            (Err(failure), _, true) => State::Failed(failure.code.into()),
            (Err(_), _, false) => State::Disconnected,
        };
        match state.error_code() {
            Some(code) => tracing::error!(key_store = %id, code, "not connected: disconnect it, then connect it again"),
            None => tracing::info!(key_store = %id, "disconnected while it was being connected"),
        }
        // A restore may have removed it or said something else of it, and another attempt may have ended.
        if let Some(State::Connecting | State::Disconnecting) = self.keystore.states().state(id) {
            self.keystore.states().set(id, state);
        }
        ended
    }

    async fn attempt(&self, id: &KeyStoreId, ctx: &Context) -> Result<Opened, Failure> {
        let snapshot = self.store.snapshot();
        let record = snapshot.key_stores.get(id).ok_or("INTERNAL_ERROR")?;
        if record.password_refused {
            tracing::warn!(key_store = %id, "the token refused this password before: it is not tried again");
            return Err("INVALID_CREDENTIALS".into());
        }
        let Some(configured) = self.keystore.of_cluster(&record.cluster, &snapshot) else {
            tracing::error!(key_store = %id, cluster = %record.cluster, "no configured token is this cluster");
            return Err("CLUSTER_NOT_FOUND".into());
        };
        // The login has no limit of time of its own: a module that hangs leaves the store CONNECTING.
        let call = CallContext { deadline: Instant::now() + configured.settings.generate_deadline, ..self.call(ctx) };
        let password = self.open_password(record, &call).await.map_err(|error| {
            tracing::error!(key_store = %id, %error, "the password cannot be read");
            Failure::from("INTERNAL_ERROR")
        })?;
        // Looked at before the login: a token that is known under another name must not be opened a second time.
        let first = match snapshot.tokens.get(&configured.name) {
            Some(_) => None,
            None => {
                let looked = configured.look().await.map_err(|error| failed(id, &error))?;
                self.as_recorded(configured, &looked, ctx).map_err(|error| {
                    tracing::error!(key_store = %id, %error, "the token is not fit for this key store");
                    Failure::from("CLUSTER_NOT_FOUND")
                })?
            }
        };
        let serial = first.as_ref().or(snapshot.tokens.get(&configured.name).map(AsRef::as_ref));
        let serial = serial.map(|record| record.serial.clone());
        let token = configured.open(&password, serial).await.map_err(|error| failed(id, &error))?;
        match self.settle_store(id, &token, &call).await {
            Ok((changes, undone)) => Ok(Opened { token, first, changes, undone }),
            Err(failure) => {
                self.keystore.drain(token).await;
                Err(failure)
            }
        }
    }

    /// Token and records agree before anybody uses the store.
    async fn settle_store(
        &self,
        id: &KeyStoreId,
        token: &Token,
        call: &CallContext,
    ) -> Result<(Vec<Availability>, usize), Failure> {
        token.ensure_system_key(call, SystemKey::Anchor).await.map_err(|error| failed(id, &error))?;
        self.place(Some(id), token);
        let undone = self.undo_unsettled(Some(id), token, call).await.map_err(|error| {
            tracing::error!(key_store = %id, %error, "keys that were not finished cannot be undone");
            Failure::from("INTERNAL_ERROR")
        })?;
        let known = token.known_materials().await.map_err(|error| failed(id, &error))?;
        let held: BTreeSet<MaterialId> = known.into_iter().map(|(material, _)| material).collect();
        let mut changes = self.availability(Some(id), &held);
        // Of several tokens one that is away may hold what the others lack.
        if token.members().iter().any(|member| member.down.is_some()) {
            changes.retain(|change| change.held);
        }
        Ok((changes, undone))
    }

    /// What came of it, in one transaction.
    async fn write_attempt(
        &self,
        id: &KeyStoreId,
        attempt: &Result<Opened, Failure>,
        wanted: bool,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<(), OpError> {
        let code = attempt.as_ref().err().map(|failure| failure.code);
        let refused = attempt.as_ref().err().is_some_and(|failure| failure.password_refused);
        let (first, changes, undone) = match attempt {
            Ok(opened) => (opened.first.clone(), opened.changes.clone(), opened.undone),
            Err(_) => (None, Vec::new(), 0),
        };
        let arns = |held: bool| -> Vec<&str> {
            changes.iter().filter(|change| change.held == held).map(|change| change.arn.as_str()).collect()
        };
        let state = match (wanted, code) {
            (false, _) => "DISCONNECTED",
            (true, None) => "CONNECTED",
            (true, Some(_)) => "FAILED",
        };
        effects.details = Some(serde_json::json!({
            "connectionState": state,
            "connectionErrorCode": code.filter(|_| wanted),
            "unavailable": arns(false),
            "availableAgain": arns(true),
            "unfinishedKeysUndone": undone,
        }));
        effects.key_store = self.store.snapshot().key_stores.get(id).map(|record| facts(record));
        let id = id.clone();
        let ((), version) = self
            .change(ctx, move |snapshot| {
                let mut writes: Vec<Write> = first.into_iter().map(Write::PutToken).collect();
                writes.extend(availability_writes(snapshot, &changes));
                writes.extend(after(snapshot, &id, code.filter(|_| wanted), refused).map(Write::PutKeyStore));
                Ok((writes, ()))
            })
            .await?;
        effects.store_version = Some(version);
        Ok(())
    }
}

/// The key store's record after an attempt, where that changes it.
fn after(snapshot: &Snapshot, id: &KeyStoreId, code: Option<&str>, refused: bool) -> Option<KeyStoreRecord> {
    let before = snapshot.key_stores.get(id)?;
    let mut record = before.as_ref().clone();
    if let Some(code) = code {
        record.connection = Connection::Failed { code: code.to_owned() };
    }
    record.password_refused |= refused;
    (record != **before).then_some(record)
}

/// AWS's ConnectionErrorCode of an error of the token. The error itself is for the log.
fn failed(id: &KeyStoreId, error: &TokenError) -> Failure {
    tracing::error!(key_store = %id, %error, "the token is not connected");
    Failure {
        code: code(error.open_failure()),
        password_refused: error.open_failure() == OpenFailure::PinIncorrect && error.class == ErrorClass::Operator,
    }
}

pub(super) fn code(failure: OpenFailure) -> &'static str {
    match failure {
        OpenFailure::PinIncorrect => "INVALID_CREDENTIALS",
        OpenFailure::PinLocked => "USER_LOCKED_OUT",
        OpenFailure::PinNotInitialised => "USER_NOT_FOUND",
        OpenFailure::NotPresent => "NETWORK_ERRORS",
        OpenFailure::WrongToken => "CLUSTER_NOT_FOUND",
        OpenFailure::Other => "INTERNAL_ERROR",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{account, new_store, put};

    fn record(connection: Connection) -> KeyStoreRecord {
        KeyStoreRecord {
            id: "cks-0123456789abcdef0".parse().unwrap(),
            account: account(),
            name: "one".into(),
            cluster: "cluster-abcdefghijk".parse().unwrap(),
            created: 1,
            trust_anchor: None,
            wrapped_password: vec![1; 40],
            password_refused: false,
            connection,
        }
    }

    #[tokio::test]
    async fn what_an_attempt_writes() {
        let (_state, store) = new_store().await;
        let wanted = record(Connection::Wanted);
        put(&store, vec![Write::PutKeyStore(wanted.clone())]).await;
        let snapshot = store.snapshot();
        assert_eq!(after(&snapshot, &wanted.id, None, false), None, "a success changes nothing: it stays wanted");
        let failed = after(&snapshot, &wanted.id, Some("INVALID_CREDENTIALS"), true).unwrap();
        assert_eq!(failed.connection, Connection::Failed { code: "INVALID_CREDENTIALS".into() });
        assert!(failed.password_refused);
        let given_up = after(&snapshot, &wanted.id, None, true).unwrap();
        assert_eq!((given_up.connection, given_up.password_refused), (Connection::Wanted, true));
        let away = after(&snapshot, &wanted.id, Some("NETWORK_ERRORS"), false).unwrap();
        assert!(!away.password_refused, "a token that is away refused nothing");
    }

    #[test]
    fn every_failure_has_a_code() {
        let table = [
            (OpenFailure::PinIncorrect, "INVALID_CREDENTIALS"),
            (OpenFailure::PinLocked, "USER_LOCKED_OUT"),
            (OpenFailure::PinNotInitialised, "USER_NOT_FOUND"),
            (OpenFailure::NotPresent, "NETWORK_ERRORS"),
            (OpenFailure::WrongToken, "CLUSTER_NOT_FOUND"),
            (OpenFailure::Other, "INTERNAL_ERROR"),
        ];
        for (failure, expected) in table {
            assert_eq!(code(failure), expected);
        }
    }
}
