//! A key comes into being: its row, its object in the token, and what is undone where one of them fails.

use crate::authz::Permit;
use crate::ids::spec::{KeySpec, KeyUsage};
use crate::ids::{AccountId, KeyId, KeyStoreId};
use crate::keystore::{CallContext, ErrorClass, Generated, MaterialId, Token, TokenError};
use crate::ops::key_policy::default_policy;
use crate::ops::key_policy::lockout::stays_in_hand;
use crate::ops::keys::{key_kind, label, supported};
use crate::ops::resolve::{KeyTarget, Resolved};
use crate::ops::{Context, CreateKey, Effects, OpError, Ops, Response, update_error};
use crate::store::{KeyRecord, Lifecycle, Material, PolicyDocument, Provenance, Snapshot, Write};

/// A key to be made in the default key store or a custom one.
pub(in crate::ops) struct NewKey {
    pub id: KeyId,
    pub spec: KeySpec,
    pub usage: KeyUsage,
    pub description: String,
    pub policy: PolicyDocument,
    pub tags: Vec<(String, String)>,
    /// CustomKeyStoreId as the caller wrote it.
    pub key_store: Option<String>,
}

impl Ops {
    pub(in crate::ops) async fn create_key(
        &self,
        request: &CreateKey,
        id: KeyId,
        arn: &str,
        permit: &Permit<Resolved>,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        let policy = match &request.policy {
            None => PolicyDocument::plain(default_policy(&ctx.account)),
            Some(text) => {
                let policy = self.policy_to_write(text, None, permit.resolved().snapshot())?;
                if !request.bypass_policy_lockout_safety_check.unwrap_or(false) {
                    stays_in_hand(permit, arn, &ctx.account, &policy)?;
                }
                policy
            }
        };
        let new = NewKey {
            id,
            spec: request.spec,
            usage: request.usage,
            description: request.description.clone(),
            policy,
            tags: request.tags.iter().map(|t| (t.key.clone(), t.value.clone())).collect(),
            key_store: request.key_store.clone(),
        };
        let key = self.make_key(new, arn, ctx, effects, |_, _| Ok(Vec::new())).await?;
        Ok(Response::CreateKey(Box::new(self.metadata(&key))))
    }

    /// Row `Creating` → object(s) → attributes read back, known answer made → row `Enabled`, with `beside` it in one
    /// transaction; what `beside` refuses undoes the key. The intent record is on disk.
    pub(in crate::ops) async fn make_key(
        &self,
        new: NewKey,
        arn: &str,
        ctx: &Context,
        effects: &mut Effects,
        beside: impl FnOnce(&Snapshot, &KeyRecord) -> Result<Vec<Write>, OpError> + Send + 'static,
    ) -> Result<KeyTarget, OpError> {
        let key_store = match &new.key_store {
            None => None,
            Some(store) => Some(self.store_for_new_key(store, new.spec, &ctx.account)?),
        };
        if !self.keystore.capabilities(key_store.as_ref()).is_some_and(|can| supported(&can, new.spec)) {
            return Err(OpError::Unsupported(format!("The token does not support keys of spec {}.", new.spec)));
        }
        let record = KeyRecord {
            id: new.id,
            account: ctx.account.clone(),
            created: ctx.now,
            description: new.description,
            spec: new.spec,
            usage: new.usage,
            lifecycle: Lifecycle::Creating,
            policy: new.policy,
            policy_version: 1,
            tags: new.tags,
            materials: Vec::new(),
            key_store: key_store.clone(),
            provenance: Provenance::Generated,
            managed_by: None,
        };
        let enabled = self.make_material(record, arn, ctx, effects).await?;
        let (stored, version) = self
            .change(ctx, move |snapshot| {
                // A restore may have come between. The object stays, to be seen.
                if let Some(id) = enabled.key_store.as_ref().filter(|id| !snapshot.key_stores.contains_key(*id)) {
                    return Err(OpError::KeyStoreNotFound(id.to_string()));
                }
                Ok(match beside(snapshot, &enabled) {
                    Ok(more) => {
                        let key = std::iter::once(Write::PutKey(enabled.clone()));
                        (key.chain(more).collect(), Ok(enabled))
                    }
                    Err(refusal) => (Vec::new(), Err(refusal)),
                })
            })
            .await?;
        let stored = match stored {
            Ok(stored) => stored,
            Err(refusal) => {
                match self.keystore.token_of(key_store.as_ref()) {
                    Some(token) => self.undo_creation(&token, new.id, false, &self.generate_call(ctx)).await,
                    None => self.mark_unsettled(new.id),
                }
                return Err(refusal);
            }
        };
        effects.store_version = Some(version);
        effects.key_store = self.backing_key(&stored);
        effects.details = self.replication_of(&stored);
        Ok(KeyTarget { record: stored.into(), arn: arn.to_owned() })
    }

    /// Row `Creating` → object(s) in the record's key store → attributes read back, known answer made. Returns the record
    /// with its material, `Enabled`: the caller writes it, alone or with what belongs to it. A crash before that write leaves
    /// a row `Creating`, which the next start undoes.
    pub(in crate::ops) async fn make_material(
        &self,
        record: KeyRecord,
        arn: &str,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<KeyRecord, OpError> {
        let (id, kind) = (record.id, key_kind(record.spec));
        let store = record.key_store.clone();
        let token = self
            .keystore
            .token_of(store.as_ref())
            .ok_or_else(|| OpError::KeyStoreDisconnected { arn: arn.to_owned() })?;
        let creating = record.clone();
        self.store
            .update(move |snapshot| {
                // A key store is deleted only while no key is in it: from here on there is one.
                if let Some(id) = &creating.key_store
                    && !snapshot.key_stores.contains_key(id)
                {
                    return Err(OpError::KeyStoreNotFound(id.to_string()));
                }
                Ok((vec![Write::PutKey(creating)], ()))
            })
            .await
            .map_err(update_error)?;

        let material = MaterialId { id: id.bytes(), generation: 0 };
        let call = self.generate_call(ctx);
        let done = match token.generate(&call, kind, material, &label(&id)).await {
            Ok(done) => done,
            Err(error) => {
                self.undo_creation(&token, id, error.class == ErrorClass::Deadline, &call).await;
                return Err(effects.refused(error, arn));
            }
        };
        effects.hsm = Some(done.facts);
        match with_material(record, done.value, ctx.now) {
            Ok(record) => Ok(record),
            Err(error) => {
                self.undo_creation(&token, id, false, &call).await;
                Err(error)
            }
        }
    }

    /// Removes what a failed CreateKey left: nobody was told the key id. Where that fails, or does not end by the deadline of
    /// `call`, for which a caller waits, the row stays `Creating`, the key unsettled, and the token's return or the next start
    /// settles it.
    pub(in crate::ops) async fn undo_creation(
        &self,
        token: &Token,
        id: KeyId,
        still_running: bool,
        call: &CallContext,
    ) {
        if still_running {
            tracing::warn!(key = %id, "generation outlives its deadline; it is settled when it ends or at the next start");
            self.mark_unsettled(id);
            return;
        }
        let material = MaterialId { id: id.bytes(), generation: 0 };
        let in_time = tokio::time::timeout_at(call.deadline.into(), token.destroy(call, material)).await;
        let late = || TokenError::own(ErrorClass::Deadline, "destroy", "the deadline of the key's making passed");
        match in_time.unwrap_or_else(|_| Err(late())) {
            Ok(_) => {
                if let Err(error) = self.store.update(move |_| Ok((vec![Write::DeleteKey(id)], ()))).await {
                    let error = update_error(error);
                    tracing::error!(key = %id, %error, "the row of a key that was not made stays");
                    self.mark_unsettled(id);
                }
            }
            Err(error) => {
                tracing::error!(key = %id, %error, "an object of a key that was not made may stay in the token");
                self.mark_unsettled(id);
            }
        }
    }

    pub(in crate::ops) fn generate_call(&self, ctx: &Context) -> CallContext {
        CallContext { deadline: std::time::Instant::now() + self.generate_deadline, ..self.call(ctx) }
    }

    /// The connected key store for a new key of this spec.
    fn store_for_new_key(&self, id: &str, spec: KeySpec, account: &AccountId) -> Result<KeyStoreId, OpError> {
        self.connected_store(account, id)?;
        self.spec_in_custom_store(spec)?;
        id.parse().map_err(|_| OpError::KeyStoreNotFound(id.to_owned()))
    }

    /// RULE KMS: symmetric encryption keys; more is the operator's choice.
    pub(in crate::ops) fn spec_in_custom_store(&self, spec: KeySpec) -> Result<(), OpError> {
        if spec.is_symmetric() || self.custom_store_key_specs.contains(&spec) {
            return Ok(());
        }
        Err(OpError::Unsupported(format!(
            "KeySpec {spec} is not supported in custom key stores: `key_stores.custom_store_key_specs` of the \
             configuration does not name it."
        )))
    }
}

pub(in crate::ops) fn with_material(record: KeyRecord, generated: Generated, now: i64) -> Result<KeyRecord, OpError> {
    let mut random = [0u8; 32];
    getrandom::fill(&mut random).map_err(|e| OpError::Internal(format!("no randomness: {e}")))?;
    let evidence = serde_json::to_value(&generated.evidence).map_err(|e| OpError::Internal(e.to_string()))?;
    let named = MaterialId { id: record.id.bytes(), generation: 0 };
    let object_id = Some(generated.object_id).filter(|id| *id != named.cka_id());
    let material = Material {
        generation: 0,
        material_id: hex::encode(random),
        created: now,
        fingerprint: generated.fingerprint,
        spki: generated.spki,
        evidence,
        object_id,
    };
    Ok(KeyRecord { lifecycle: Lifecycle::Enabled, materials: vec![material], ..record })
}
