//! Rotation by alias: a new key in the same key store, the alias remapped and its history written, all or nothing.

use crate::ops::resolve::Resolved;
use crate::ops::{Context, Effects, OpError, OperatorRequest, OperatorResponse, Ops, Response};

impl Ops {
    pub(super) async fn rotate_alias(
        &self,
        _resolved: &Resolved,
        _ctx: &Context,
        _effects: &mut Effects,
    ) -> Result<Response, OpError> {
        Err(OpError::Unsupported("not built".to_owned()))
    }

    pub(super) async fn rotate_by_timer(
        &self,
        _resolved: &Resolved,
        _ctx: &Context,
        _effects: &mut Effects,
    ) -> Result<(), OpError> {
        Err(OpError::Unsupported("not built".to_owned()))
    }

    /// `alias list`, `alias history`, `alias history drop`, `rotate`, `rotate --plan`.
    pub(super) async fn alias_command(
        &self,
        _request: &OperatorRequest,
        _resolved: &Resolved,
        _ctx: &Context,
        _effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        Err(OpError::Unsupported("not built".to_owned()))
    }
}
