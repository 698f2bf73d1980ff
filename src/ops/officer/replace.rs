//! `token replace`: another serial behind a known name. It is taken once every key's fingerprint was checked on it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::json;

use super::material_id;
use super::tokens::{NamedToken, unknown};
use crate::ids::KeyStoreId;
use crate::keystore::{DEFAULT_TOKEN, ErrorClass, KeyRef, State, SystemKey, Token};
use crate::ops::{Context, Effects, OpError, OperatorResponse, Ops, Progress};
use crate::store::{KeyRecord, Lifecycle, Snapshot, TokenRecord, Write};

/// Ids that a refusal names at most.
const NAMED: usize = 10;

impl Ops {
    pub(super) async fn replace_token(
        &self,
        name: &str,
        ticket: &str,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        if ticket.trim().is_empty() {
            return Err(OpError::Validation("a ticket says why the token is replaced: it is empty".to_owned()));
        }
        let snapshot = self.store.snapshot();
        let tokens = self.named_tokens(&snapshot);
        let named = tokens.iter().find(|token| token.name == name).ok_or_else(|| unknown(name, &tokens))?;
        let Some(known) = snapshot.tokens.get(name).cloned() else {
            return Err(OpError::InvalidState(format!("token `{name}` was never seen: there is nothing to replace")));
        };
        let _one_at_a_time = self.keystore.changing().await;
        let (serial, keys_checked) = if named.is_default() {
            let token = self.keystore.token();
            let serial = new_serial(&known, token.info().serial, &snapshot)?;
            for key in [SystemKey::StoreKek, SystemKey::IamWrap] {
                let checked = token.check(&self.generate_call(ctx), &KeyRef::System(key)).await;
                checked.map_err(|error| {
                    OpError::InvalidState(format!("`{}` does not work: {}", token.system_label(key), error.detail))
                })?;
            }
            let checked = self.check_all_keys(token, None, ctx.progress.as_ref(), ctx).await?;
            (serial, checked)
        } else {
            self.check_custom(named, &known, &snapshot, ctx).await?
        };
        let record = TokenRecord { serial: serial.clone(), ..known.as_ref().clone() };
        let ((), version) = self.change(ctx, move |_| Ok((vec![Write::PutToken(record)], ()))).await?;
        effects.store_version = Some(version);
        effects.details = Some(json!({
            "token": name,
            "ticket": ticket,
            "serialBefore": known.serial,
            "serial": serial,
            "keysChecked": keys_checked,
        }));
        Ok(OperatorResponse::TokenReplaced { token: name.to_owned(), serial, keys_checked })
    }

    async fn check_custom(
        &self,
        named: &NamedToken,
        known: &TokenRecord,
        snapshot: &Snapshot,
        ctx: &Context,
    ) -> Result<(String, u64), OpError> {
        let Some(configured) = &named.configured else {
            return Err(OpError::InvalidState(format!(
                "the configuration does not name token `{}` any more",
                named.name
            )));
        };
        if let Some(store) = &named.store
            && !matches!(self.keystore.states().state(&store.id), None | Some(State::Disconnected | State::Failed(_)))
        {
            return Err(OpError::InvalidState(format!("disconnect key store {} first", store.id)));
        }
        let looked = configured.look().await.map_err(|error| {
            OpError::InvalidState(format!("token `{}` cannot be looked at: {}", named.name, error.detail))
        })?;
        let serial = new_serial(known, looked.info.serial, snapshot)?;
        let Some(store) = &named.store else { return Ok((serial, 0)) };
        let password = self.open_password(store, &self.generate_call(ctx)).await?;
        let token = configured.open(&password, Some(serial.clone())).await.map_err(|error| {
            OpError::InvalidState(format!("the key store's password does not open the token: {}", error.detail))
        })?;
        self.place(Some(&store.id), &token);
        let checked = self.check_all_keys(&token, Some(&store.id), ctx.progress.as_ref(), ctx).await;
        self.keystore.drain(token).await;
        Ok((serial, checked?))
    }

    /// Whether a token with another serial may stand in for the default one while an operator's command says so: every key
    /// is there. Changes nothing.
    pub async fn stands_in(&self, token: &Token, ctx: &Context) -> Result<u64, OpError> {
        self.place(None, token);
        self.check_all_keys(token, None, ctx.progress.as_ref(), ctx).await
    }

    /// Checks the fingerprint of every key of a key store. All are tried, so that the answer names those that are missing.
    async fn check_all_keys(
        &self,
        token: &Token,
        store: Option<&KeyStoreId>,
        progress: Option<&Arc<Progress>>,
        ctx: &Context,
    ) -> Result<u64, OpError> {
        let snapshot = self.store.snapshot();
        let of_store = |record: &&Arc<KeyRecord>| record.key_store.as_ref() == store && expected(record);
        let records: Vec<_> = snapshot.keys.values().filter(of_store).collect();
        let materials: Vec<_> = records.iter().flat_map(|r| r.materials.iter().map(move |m| (*r, m))).collect();
        if let Some(progress) = progress {
            progress.total.store(materials.len() as u64, Ordering::Relaxed);
        }
        let mut wrong = Vec::new();
        for (record, material) in &materials {
            let fingerprint = material.fingerprint.as_slice().into();
            let key = KeyRef::Kms { material: material_id(record, material), fingerprint };
            match token.check(&self.generate_call(ctx), &key).await {
                Ok(_) => {}
                Err(error) if matches!(error.class, ErrorClass::KeyMissing | ErrorClass::WrongKey) => {
                    wrong.push(record.id.to_string());
                }
                Err(error) => return Err(OpError::Token(error.to_string())),
            }
            if let Some(progress) = progress {
                progress.done.fetch_add(1, Ordering::Relaxed);
            }
        }
        if wrong.is_empty() {
            return Ok(materials.len() as u64);
        }
        let shown = wrong.iter().take(NAMED).cloned().collect::<Vec<_>>().join("`, `");
        Err(OpError::InvalidState(format!(
            "{} of {} keys are not in the token with serial `{}`, or are others there (`{shown}`{}): it does not replace the \
             known token",
            wrong.len(),
            materials.len(),
            token.info().serial,
            if wrong.len() > NAMED { ", …" } else { "" },
        )))
    }
}

/// Keys whose objects the known token had, as far as anybody knows.
fn expected(record: &KeyRecord) -> bool {
    match record.lifecycle {
        Lifecycle::Enabled | Lifecycle::Disabled | Lifecycle::PendingDeletion { .. } => true,
        // Not whole yet, not whole any more, or missed in the known token already.
        Lifecycle::Creating | Lifecycle::Deleting | Lifecycle::Unavailable { .. } => false,
    }
}

fn new_serial(known: &TokenRecord, found: String, snapshot: &Snapshot) -> Result<String, OpError> {
    if found == known.serial {
        let hint = if known.name == DEFAULT_TOKEN {
            ". stop the server, put the new token in the place of the old one, and run this again"
        } else {
            ""
        };
        return Err(OpError::InvalidState(format!("token `{}` has the known serial `{found}`{hint}", known.name)));
    }
    match snapshot.tokens.values().find(|other| other.serial == found) {
        Some(other) => Err(OpError::InvalidState(format!("serial `{found}` is known as token `{}`", other.name))),
        None => Ok(found),
    }
}
