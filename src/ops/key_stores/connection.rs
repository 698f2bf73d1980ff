//! ConnectCustomKeyStore, DisconnectCustomKeyStore, DeleteCustomKeyStore. A connect is answered at once and done later, by
//! the service itself (`attempt`).

use crate::ids::KeyStoreId;
use crate::keystore::{KeyStores, State, Step, Token};
use crate::ops::key_stores::{facts, record};
use crate::ops::{Context, Effects, OpError, Ops, Response};
use crate::store::{Connection, KeyStoreRecord, Write};

impl Ops {
    pub(in crate::ops) async fn connect_key_store(
        &self,
        id: &str,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        let _one_at_a_time = self.keystore.changing().await;
        let known = record(&self.store.snapshot(), &ctx.account, id)?.clone();
        effects.key_store = Some(facts(&known));
        let id = known.id;
        match self.keystore.states().connect(&id) {
            Step::Taken(before) => {
                if let Err(error) = self.write_connection(&id, Connection::Wanted, ctx, effects).await {
                    self.keystore.states().set(&id, before);
                    return Err(error);
                }
                self.keystore.connection_due(&id);
            }
            // Connected, or about to be.
            Step::Nothing => {}
            Step::Refused(state) => {
                return Err(OpError::KeyStoreInvalidState(format!(
                    "Custom key store {id} is {}. Disconnect it, then connect it.",
                    state.name()
                )));
            }
            Step::Unknown => return Err(OpError::KeyStoreNotFound(id.to_string())),
        }
        Ok(Response::Empty)
    }

    pub(in crate::ops) async fn disconnect_key_store(
        &self,
        id: &str,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        let _one_at_a_time = self.keystore.changing().await;
        let known = record(&self.store.snapshot(), &ctx.account, id)?.clone();
        effects.key_store = Some(facts(&known));
        let id = known.id;
        match self.keystore.states().disconnect(&id) {
            Step::Taken(before) => {
                if let Err(error) = self.write_connection(&id, Connection::Disconnected, ctx, effects).await {
                    self.keystore.states().set(&id, before);
                    return Err(error);
                }
                if let State::Connected(token) = before {
                    tokio::spawn(drain(self.keystore.clone(), id, token));
                }
            }
            Step::Nothing => {}
            Step::Refused(state) => {
                return Err(OpError::KeyStoreInvalidState(format!("Custom key store {id} is {}.", state.name())));
            }
            Step::Unknown => return Err(OpError::KeyStoreNotFound(id.to_string())),
        }
        Ok(Response::Empty)
    }

    pub(in crate::ops) async fn delete_key_store(
        &self,
        id: &str,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        let _one_at_a_time = self.keystore.changing().await;
        let known = record(&self.store.snapshot(), &ctx.account, id)?.clone();
        effects.key_store = Some(facts(&known));
        let id = known.id;
        self.disconnected(&id)?;
        let gone = id.clone();
        let ((), version) = self
            .change(ctx, move |snapshot| {
                // Keys that wait for their deletion too: their material is in the token.
                if snapshot.keys.values().any(|key| key.key_store.as_ref() == Some(&gone)) {
                    return Err(OpError::KeyStoreHasKeys(gone.to_string()));
                }
                Ok((vec![Write::DeleteKeyStore(gone)], ()))
            })
            .await?;
        effects.store_version = Some(version);
        self.keystore.states().remove(&id);
        Ok(Response::Empty)
    }

    /// AWS's refusal for what needs a disconnected store. FAILED is not DISCONNECTED.
    pub(super) fn disconnected(&self, id: &KeyStoreId) -> Result<(), OpError> {
        match self.keystore.states().state(id) {
            Some(State::Disconnected) => Ok(()),
            _ => Err(OpError::KeyStoreInvalidState(format!(
                "Custom key store {id} is {}. This operation is valid only when it is DISCONNECTED.",
                self.state_name(id)
            ))),
        }
    }

    async fn write_connection(
        &self,
        id: &KeyStoreId,
        connection: Connection,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<(), OpError> {
        let id = id.clone();
        let ((), version) = self
            .change(ctx, move |snapshot| {
                let record = snapshot.key_stores.get(&id).ok_or_else(|| OpError::KeyStoreNotFound(id.to_string()))?;
                let record = KeyStoreRecord { connection, ..record.as_ref().clone() };
                Ok((vec![Write::PutKeyStore(record)], ()))
            })
            .await?;
        effects.store_version = Some(version);
        Ok(())
    }
}

/// New calls find no token; those that were accepted are finished, then the session is logged out.
async fn drain(stores: KeyStores, id: KeyStoreId, token: Token) {
    stores.drain(token).await;
    let _one_at_a_time = stores.changing().await;
    // It cannot be anything else: DISCONNECTING refuses all requests. A restore may have removed it.
    if matches!(stores.states().state(&id), Some(State::Disconnecting)) {
        stores.states().set(&id, State::Disconnected);
        tracing::info!(key_store = %id, "disconnected");
    }
}
