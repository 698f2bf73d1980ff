//! The HSM officer's view: tokens listed, compared with the store, their PINs changed, their keys adopted and attested.

use crate::ops::resolve::Resolved;
use crate::ops::{Context, Effects, OpError, OperatorRequest, OperatorResponse, Ops};

impl Ops {
    /// `token …`, `key adopt`, `key attest`.
    pub(super) async fn officer_command(
        &self,
        _request: &OperatorRequest,
        _resolved: &Resolved,
        _ctx: &Context,
        _effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        Err(OpError::Unsupported("not built".to_owned()))
    }
}
