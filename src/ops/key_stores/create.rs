//! CreateCustomKeyStore.

use crate::ids::{ClusterId, KeyStoreId};
use crate::keystore::{ConfiguredToken, Looked, Presence, State, first_seen};
use crate::ops::key_stores::{anchor, cluster_in_use, facts, name_in_use};
use crate::ops::{Context, CreateCustomKeyStore, Effects, OpError, Ops, Response};
use crate::store::{Connection, KeyStoreRecord, Snapshot, TokenRecord, Write};

impl Ops {
    pub(in crate::ops) async fn create_key_store(
        &self,
        request: &CreateCustomKeyStore,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        let missing =
            |member: &str| OpError::Validation(format!("{member} is required for a key store of type AWS_CLOUDHSM."));
        let cluster = request.cluster.as_ref().ok_or_else(|| missing("CloudHsmClusterId"))?;
        let trust_anchor = request.trust_anchor.as_deref().ok_or_else(|| missing("TrustAnchorCertificate"))?;
        let password = request.password.as_ref().ok_or_else(|| missing("KeyStorePassword"))?;

        let _one_at_a_time = self.keystore.changing().await;
        name_in_use(&self.store.snapshot(), &ctx.account, &request.name, None)?;
        let (token, seen) = self.active_cluster(cluster, ctx).await?;
        if cluster_in_use(&self.store.snapshot(), cluster, None) {
            return Err(OpError::ClusterInUse(cluster.to_string()));
        }
        let looked = match seen {
            Some(looked) => looked,
            None => self.look_at(token, ctx).await?,
        };
        let first = self.as_recorded(token, &looked, ctx)?;
        anchor::check(trust_anchor, token).await?;

        let id = new_id()?;
        let record = KeyStoreRecord {
            id: id.clone(),
            account: ctx.account.clone(),
            name: request.name.clone(),
            cluster: cluster.clone(),
            created: ctx.now,
            trust_anchor: Some(trust_anchor.to_owned()),
            wrapped_password: self.seal_password(&id, password, &self.call(ctx)).await?,
            password_refused: false,
            connection: Connection::Disconnected,
        };
        effects.key_store = Some(facts(&record));
        let ((), version) = self
            .change(ctx, move |snapshot| {
                // A restore may have come between.
                name_in_use(snapshot, &record.account, &record.name, None)?;
                if cluster_in_use(snapshot, &record.cluster, None) {
                    return Err(OpError::ClusterInUse(record.cluster.to_string()));
                }
                let mut writes: Vec<Write> = first.into_iter().map(Write::PutToken).collect();
                writes.push(Write::PutKeyStore(record));
                Ok((writes, ()))
            })
            .await?;
        effects.store_version = Some(version);
        self.keystore.states().set(&id, State::Disconnected);
        Ok(Response::CreateCustomKeyStore { id })
    }

    /// The configured token behind a cluster id. Tokens that were away at start and have no id in the configuration are looked
    /// at now: what was seen comes back too.
    pub(super) async fn active_cluster(
        &self,
        cluster: &ClusterId,
        ctx: &Context,
    ) -> Result<(&ConfiguredToken, Option<Looked>), OpError> {
        let snapshot = self.store.snapshot();
        if let Some(token) = self.keystore.of_cluster(cluster, &snapshot) {
            return Ok((token, None));
        }
        if cluster_in_use(&snapshot, cluster, None) {
            return Err(OpError::ClusterInUse(cluster.to_string()));
        }
        for token in self.keystore.configured() {
            if token.cluster.is_some() || snapshot.tokens.contains_key(&token.name) {
                continue;
            }
            let Ok(looked) = self.look_at(token, ctx).await else { continue };
            let record = self.as_recorded(token, &looked, ctx)?;
            if record.is_some_and(|record| record.cluster == *cluster) {
                return Ok((token, Some(looked)));
            }
        }
        if snapshot.tokens.values().any(|record| record.cluster == *cluster) {
            return Err(OpError::ClusterNotActive(format!("Cluster {cluster} is not in the configuration any more.")));
        }
        Err(OpError::ClusterNotFound(cluster.to_string()))
    }

    /// Whether a token is fit for a key store and the one that is recorded; the record to write, if it was never seen.
    pub(super) fn as_recorded(
        &self,
        token: &ConfiguredToken,
        looked: &Looked,
        ctx: &Context,
    ) -> Result<Option<TokenRecord>, OpError> {
        if !looked.initialized {
            return Err(OpError::ClusterNotActive(format!("The token `{}` is not initialized.", token.name)));
        }
        let snapshot = self.store.snapshot();
        match snapshot.tokens.get(&token.name) {
            Some(record) if record.serial != looked.info.serial => Err(OpError::ClusterInvalidConfiguration(format!(
                "The token `{}` has another serial number than before: see `hsm-bridge token replace`.",
                token.name
            ))),
            Some(_) => Ok(None),
            None => Ok(self.first_record(token, looked, &snapshot, ctx)?),
        }
    }

    /// The record of a token that is seen for the first time. It must not be one that is known under another name.
    fn first_record(
        &self,
        token: &ConfiguredToken,
        looked: &Looked,
        snapshot: &Snapshot,
        ctx: &Context,
    ) -> Result<Option<TokenRecord>, OpError> {
        let others = self.keystore.configured().iter().filter(|other| other.name != token.name);
        let others = others.map(|other| (other.name.as_str(), other.cluster.as_ref()));
        let mut tokens: Vec<Presence<'_>> = std::iter::once((crate::keystore::DEFAULT_TOKEN, None))
            .chain(others)
            .map(|(name, cluster)| Presence { name, cluster, seen: None })
            .collect();
        tokens.push(Presence { name: &token.name, cluster: token.cluster.as_ref(), seen: Some(&looked.info) });
        first_seen(&tokens, snapshot, ctx.now)
            .map(|mut records| records.pop())
            .map_err(OpError::ClusterInvalidConfiguration)
    }
}

/// `cks-` and 17 hex digits.
fn new_id() -> Result<KeyStoreId, OpError> {
    let mut random = [0u8; 9];
    getrandom::fill(&mut random).map_err(|e| OpError::Internal(format!("no randomness: {e}")))?;
    let mut digits = hex::encode(random);
    digits.truncate(17);
    format!("cks-{digits}").parse().map_err(|_| OpError::Internal("a key store id was made wrong".to_owned()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_have_the_models_form() {
        let (a, b) = (super::new_id().unwrap(), super::new_id().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.as_str().len(), 21);
    }
}
