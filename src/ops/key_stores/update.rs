//! UpdateCustomKeyStore: name, password, and a token that holds the same keys.

use std::time::Instant;

use crate::ids::{ClusterId, KeyStoreId};
use crate::keystore::{CallContext, ConfiguredToken, KeyRef, MaterialId, State, Token};
use crate::ops::key_stores::attempt::code;
use crate::ops::key_stores::{cluster_in_use, facts, name_in_use, record};
use crate::ops::{Context, Effects, OpError, Ops, Response, UpdateCustomKeyStore};
use crate::secret::SecretString;
use crate::store::{KeyRecord, KeyStoreRecord, Lifecycle, TokenRecord, Write};

impl Ops {
    pub(in crate::ops) async fn update_key_store(
        &self,
        request: &UpdateCustomKeyStore,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        let _one_at_a_time = self.keystore.changing().await;
        let snapshot = self.store.snapshot();
        let before = record(&snapshot, &ctx.account, &request.id)?.clone();
        effects.key_store = Some(facts(&before));
        let id = before.id.clone();
        // RULE KMS: the name may change while the store is connected, nothing else may.
        let only_name = request.password.is_none() && request.cluster.is_none();
        match self.keystore.states().state(&id) {
            Some(State::Connected(_)) if only_name => {}
            _ => self.disconnected(&id)?,
        }
        let mut after = before.clone();
        if let Some(name) = &request.new_name {
            name_in_use(&snapshot, &before.account, name, Some(&id))?;
            after.name = name.clone();
        }
        let call = self.call(ctx);
        if let Some(password) = &request.password {
            // The same password again: what the token refused stays refused.
            let same = self.open_password(&before, &call).await.is_ok_and(|known| known == *password);
            after.wrapped_password = self.seal_password(&id, password, &call).await?;
            after.password_refused = before.password_refused && same;
        }
        let mut first = None;
        if let Some(cluster) = request.cluster.as_ref().filter(|cluster| **cluster != before.cluster) {
            first = self.related(&after, cluster, ctx).await?;
            after.cluster = cluster.clone();
            // What one token refused says nothing about another.
            after.password_refused = false;
        }
        effects.key_store = Some(facts(&after));
        if after == before {
            return Ok(Response::Empty);
        }
        let ((), version) = self
            .change(ctx, move |snapshot| {
                let newest = snapshot.key_stores.get(&after.id).map(AsRef::as_ref);
                if newest != Some(&before) {
                    return Err(OpError::KeyStoreNotFound(after.id.to_string()));
                }
                name_in_use(snapshot, &after.account, &after.name, Some(&after.id))?;
                let mut writes: Vec<Write> = first.into_iter().map(Write::PutToken).collect();
                writes.push(Write::PutKeyStore(after));
                Ok((writes, ()))
            })
            .await?;
        effects.store_version = Some(version);
        Ok(Response::Empty)
    }

    /// Whether another cluster can take this one's place: AWS compares certificates; here its token has to hold the keys. That
    /// can be told only by a login, with the password that the store has from now on.
    async fn related(
        &self,
        store: &KeyStoreRecord,
        cluster: &ClusterId,
        ctx: &Context,
    ) -> Result<Option<TokenRecord>, OpError> {
        let not_related = |why: &str| OpError::ClusterNotRelated(format!("Cluster {cluster} {why}."));
        if cluster_in_use(&self.store.snapshot(), cluster, Some(&store.id)) {
            return Err(not_related("belongs to another key store"));
        }
        let (configured, seen) = self.active_cluster(cluster, ctx).await?;
        let looked = match seen {
            Some(looked) => looked,
            None => self.look_at(configured, ctx).await?,
        };
        let first = self.as_recorded(configured, &looked, ctx)?;
        let keys = self.keys_in_store(&store.id);
        if keys.is_empty() {
            return Ok(first);
        }
        let call = CallContext { deadline: Instant::now() + configured.settings.generate_deadline, ..self.call(ctx) };
        let password = self.open_password(store, &call).await?;
        let token = self.open_to_compare(configured, &password, looked.info.serial, cluster).await?;
        let missing = self.first_missing(&token, &keys, &call).await;
        self.keystore.drain(token).await;
        match missing {
            None => Ok(first),
            Some(_) => Err(not_related("does not hold the key material of this key store's keys")),
        }
    }

    async fn open_to_compare(
        &self,
        configured: &ConfiguredToken,
        password: &SecretString,
        serial: String,
        cluster: &ClusterId,
    ) -> Result<Token, OpError> {
        configured.open(password, Some(serial)).await.map_err(|error| {
            tracing::warn!(token = configured.name, %error, "a token cannot be compared");
            OpError::ClusterNotRelated(format!(
                "Cluster {cluster} cannot be shown to hold the key material of this key store's keys: {}.",
                code(error.open_failure())
            ))
        })
    }

    async fn first_missing(
        &self,
        token: &Token,
        keys: &[std::sync::Arc<KeyRecord>],
        call: &CallContext,
    ) -> Option<crate::ids::KeyId> {
        place_all(token, keys);
        for key in keys {
            for material in &key.materials {
                let known = KeyRef::Kms {
                    material: MaterialId { id: key.id.bytes(), generation: material.generation },
                    fingerprint: material.fingerprint.as_slice().into(),
                };
                if let Err(error) = token.check(call, &known).await {
                    tracing::warn!(key = %key.id, %error, "the other token does not hold the key");
                    return Some(key.id);
                }
            }
        }
        None
    }

    fn keys_in_store(&self, id: &KeyStoreId) -> Vec<std::sync::Arc<KeyRecord>> {
        let snapshot = self.store.snapshot();
        let keys = snapshot.keys.values().filter(|key| key.key_store.as_ref() == Some(id));
        // A key that was not finished is undone wherever the store is connected next.
        keys.filter(|key| key.lifecycle != Lifecycle::Creating).cloned().collect()
    }

    /// Tells a token where the objects of its keys are, where that does not follow from the keys' names.
    pub fn place(&self, store: Option<&KeyStoreId>, token: &Token) {
        let snapshot = self.store.snapshot();
        let keys: Vec<_> = snapshot.keys.values().filter(|key| key.key_store.as_ref() == store).cloned().collect();
        place_all(token, &keys);
    }
}

fn place_all(token: &Token, keys: &[std::sync::Arc<KeyRecord>]) {
    let places = keys.iter().flat_map(|key| {
        key.materials.iter().filter_map(|material| {
            let id = material.object_id.clone()?;
            Some((MaterialId { id: key.id.bytes(), generation: material.generation }, id))
        })
    });
    let places: Vec<(MaterialId, Vec<u8>)> = places.collect();
    if !places.is_empty() {
        token.place(places);
    }
}
