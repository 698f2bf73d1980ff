//! Custom key stores: created, connected, described, changed, deleted, with AWS's states and refusals.

use crate::ids::KeyStoreId;
use crate::keystore::Token;
use crate::ops::{Context, CreateCustomKeyStore, Effects, OpError, Ops, Page, Response, UpdateCustomKeyStore};
use crate::store::Snapshot;

impl Ops {
    pub(super) async fn create_key_store(
        &self,
        _request: &CreateCustomKeyStore,
        _ctx: &Context,
        _effects: &mut Effects,
    ) -> Result<Response, OpError> {
        Err(OpError::Unsupported("not built".to_owned()))
    }

    pub(super) async fn update_key_store(
        &self,
        _request: &UpdateCustomKeyStore,
        _ctx: &Context,
        _effects: &mut Effects,
    ) -> Result<Response, OpError> {
        Err(OpError::Unsupported("not built".to_owned()))
    }

    pub(super) fn describe_key_stores(
        &self,
        _id: Option<&str>,
        _name: Option<&str>,
        _page: &Page,
        _snapshot: &Snapshot,
    ) -> Result<Response, OpError> {
        Err(OpError::Unsupported("not built".to_owned()))
    }

    pub(super) async fn connect_key_store(
        &self,
        _id: &str,
        _ctx: &Context,
        _effects: &mut Effects,
    ) -> Result<Response, OpError> {
        Err(OpError::Unsupported("not built".to_owned()))
    }

    pub(super) async fn disconnect_key_store(
        &self,
        _id: &str,
        _ctx: &Context,
        _effects: &mut Effects,
    ) -> Result<Response, OpError> {
        Err(OpError::Unsupported("not built".to_owned()))
    }

    pub(super) async fn delete_key_store(
        &self,
        _id: &str,
        _ctx: &Context,
        _effects: &mut Effects,
    ) -> Result<Response, OpError> {
        Err(OpError::Unsupported("not built".to_owned()))
    }

    /// The token of a connected custom key store, for operations that name the store and no key.
    pub(super) fn connected_store(&self, id: &str) -> Result<Token, OpError> {
        Err(OpError::KeyStoreNotFound(id.to_owned()))
    }

    /// The connection itself, asked for by the service's own timer.
    pub(super) async fn connect_now(
        &self,
        _id: &KeyStoreId,
        _ctx: &Context,
        _effects: &mut Effects,
    ) -> Result<(), OpError> {
        Err(OpError::Unsupported("not built".to_owned()))
    }
}
