//! The configured tokens by the names that the configuration gives them: listed, given another PIN, replaced.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::{DEFAULT, material_id};
use crate::ids::ClusterId;
use crate::keystore::{ErrorClass, KeyRef, Status, Token, TokenInfo};
use crate::ops::{Context, Effects, OpError, OperatorResponse, Ops};
use crate::secret::SecretString;
use crate::store::{KeyStoreRecord, Snapshot};

/// Where PINs come from. Owned here, given by whoever knows the configuration.
pub trait ReadPin: Send + Sync {
    /// The default token's PIN, read anew from its configured source. The error's text names the source.
    fn configured(&self) -> Result<SecretString, String>;
    /// From a file of this host, checked as the configured one is.
    fn file(&self, path: &Path) -> Result<SecretString, String>;
}

/// A token that the configuration names.
pub(super) struct NamedToken {
    pub(super) name: String,
    pub(super) cluster: Option<ClusterId>,
    /// The custom key store that is made of it.
    pub(super) store: Option<Arc<KeyStoreRecord>>,
    /// `None`: not connected.
    pub(super) token: Option<Token>,
}

impl NamedToken {
    pub(super) fn is_default(&self) -> bool {
        self.name == DEFAULT
    }
}

impl Ops {
    /// The default key store's token first.
    pub(super) fn named_tokens(&self, snapshot: &Snapshot) -> Vec<NamedToken> {
        let cluster = |name: &str| snapshot.tokens.get(name).map(|record| record.cluster.clone());
        let mut tokens = vec![NamedToken {
            name: DEFAULT.to_owned(),
            cluster: cluster(DEFAULT),
            store: None,
            token: Some(self.keystore.token().clone()),
        }];
        for (name, record) in snapshot.tokens.iter().filter(|(name, _)| *name != DEFAULT) {
            let store = snapshot.key_stores.values().find(|store| store.cluster == record.cluster).cloned();
            let token = store.as_ref().and_then(|store| self.keystore.token_of(Some(&store.id)));
            tokens.push(NamedToken { name: name.clone(), cluster: Some(record.cluster.clone()), store, token });
        }
        tokens
    }

    pub(super) async fn token_list(&self, snapshot: &Snapshot) -> OperatorResponse {
        let mut lines = Vec::new();
        for named in self.named_tokens(snapshot) {
            lines.push(self.token_line(&named, snapshot).await);
        }
        OperatorResponse::Tokens { tokens: lines }
    }

    pub(super) async fn token_line(&self, named: &NamedToken, snapshot: &Snapshot) -> Value {
        let known = snapshot.tokens.get(&named.name);
        let mut line = json!({
            "name": named.name,
            "clusterId": named.cluster,
            "recordedSerial": known.map(|record| record.serial.clone()),
            "keys": self.keys_of(named, snapshot).len(),
            "keyStore": named.store.as_ref().map(|store| json!({ "id": store.id, "name": store.name })),
        });
        let connected = named.token.as_ref().map(|token| {
            let status = match token.status() {
                Status::Ready => "ready".to_owned(),
                Status::Down(reason) => format!("down: {reason}"),
            };
            json!({ "status": status, "present": token.status() == Status::Ready, "workers": token.gauges().workers })
        });
        let facts = named.token.as_ref().map(|token| info(&token.info()));
        merge(&mut line, facts);
        merge(&mut line, connected.or_else(|| Some(json!({ "status": "not connected" }))));
        line
    }

    pub(super) async fn change_pin(
        &self,
        name: Option<&str>,
        pin_file: Option<&Path>,
        _ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        let name = name.unwrap_or(DEFAULT);
        let tokens = self.named_tokens(&self.store.snapshot());
        let named = tokens.iter().find(|token| token.name == name).ok_or_else(|| unknown(name, &tokens))?;
        if !named.is_default() {
            return Err(OpError::Unsupported("not built".to_owned()));
        }
        let source = self.pins.get().ok_or_else(|| OpError::Internal("nobody reads PINs".to_owned()))?;
        let pin = match pin_file {
            Some(path) => source.file(path),
            None => source.configured(),
        };
        let pin = pin.map_err(OpError::Validation)?;
        let changed = self.keystore.token().change_pin(pin).await;
        effects.details = Some(json!({
            "token": name,
            "pin": if changed.is_ok() { "changed" } else { "not changed" },
            "status": match self.keystore.token().status() { Status::Ready => "ready", Status::Down(_) => "down" },
        }));
        changed.map_err(|error| pin_error(name, &error, self.keystore.token()))?;
        Ok(OperatorResponse::PinChanged { token: name.to_owned() })
    }

    pub(super) async fn replace_token(
        &self,
        name: &str,
        _ticket: &str,
        _ctx: &Context,
        _effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        let tokens = self.named_tokens(&self.store.snapshot());
        tokens.iter().find(|token| token.name == name).ok_or_else(|| unknown(name, &tokens))?;
        Err(OpError::Unsupported("not built".to_owned()))
    }

    /// Who reads PINs for `token pin`. To be called once, at start.
    pub fn read_pins_with(&self, source: Box<dyn ReadPin>) {
        if self.pins.set(source).is_err() {
            tracing::debug!("the source of PINs is set already");
        }
    }

    /// Checks the fingerprint of every key of a key store on a token: whether it holds the keys of the one that it shall
    /// replace. All are tried, so that the answer names each that is missing.
    pub async fn check_all_keys(
        &self,
        token: &Token,
        store: Option<&crate::ids::KeyStoreId>,
        ctx: &Context,
    ) -> Result<u64, OpError> {
        let snapshot = self.store.snapshot();
        let records: Vec<_> = snapshot.keys.values().filter(|r| r.key_store.as_ref() == store).collect();
        let materials: Vec<_> = records.iter().flat_map(|r| r.materials.iter().map(move |m| (*r, m))).collect();
        let progress = ctx.progress.clone().unwrap_or_default();
        progress.total.store(materials.len() as u64, Ordering::Relaxed);
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
            progress.done.fetch_add(1, Ordering::Relaxed);
        }
        if wrong.is_empty() {
            return Ok(materials.len() as u64);
        }
        let shown = wrong.iter().take(10).cloned().collect::<Vec<_>>().join("`, `");
        Err(OpError::InvalidState(format!(
            "{} of {} keys are not in the token with serial `{}`, or are others there (`{shown}`{}): it does not replace the \
             known token",
            wrong.len(),
            materials.len(),
            token.info().serial,
            if wrong.len() > 10 { ", …" } else { "" },
        )))
    }
}

pub(super) fn unknown(name: &str, tokens: &[NamedToken]) -> OpError {
    let known: Vec<&str> = tokens.iter().map(|token| token.name.as_str()).collect();
    OpError::Validation(format!("there is no token `{name}`: the configuration names `{}`", known.join("`, `")))
}

fn pin_error(name: &str, error: &crate::keystore::TokenError, token: &Token) -> OpError {
    let after = match token.status() {
        Status::Ready => "the old PIN is used on".to_owned(),
        Status::Down(reason) => format!("the token is down ({reason}): set a PIN that works and run `token pin` again"),
    };
    match error.class {
        ErrorClass::Operator => OpError::InvalidState(format!(
            "token `{name}` refuses the new PIN, which was tried once ({}); {after}",
            error.detail
        )),
        _ => OpError::InvalidState(format!("the PIN of token `{name}` was not changed ({}); {after}", error.detail)),
    }
}

pub(super) fn info(info: &TokenInfo) -> Value {
    json!({
        "label": info.label,
        "serial": info.serial,
        "manufacturer": info.manufacturer,
        "model": info.model,
        "firmware": info.firmware,
        "slot": info.slot,
        "library": info.library,
        "pin": pin_flags(info.user_pin_locked, info.user_pin_final_try, info.user_pin_count_low),
    })
}

pub(super) fn pin_flags(locked: bool, final_try: bool, count_low: bool) -> &'static str {
    match (locked, final_try, count_low) {
        (true, ..) => "locked",
        (_, true, _) => "one try left",
        (.., true) => "was wrong since the last login",
        _ => "good",
    }
}

pub(super) fn merge(into: &mut Value, more: Option<Value>) {
    if let (Some(into), Some(Value::Object(more))) = (into.as_object_mut(), more) {
        into.extend(more);
    }
}
