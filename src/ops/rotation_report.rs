//! What became of rotated keys: their age, who still uses the retired ones, and their end.

use crate::ops::resolve::Resolved;
use crate::ops::{Context, Effects, OpError, OperatorRequest, OperatorResponse, Ops};

impl Ops {
    /// `rotate report`, `rotate retire`.
    pub(super) async fn retirement_command(
        &self,
        _request: &OperatorRequest,
        _resolved: &Resolved,
        _ctx: &Context,
        _effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        Err(OpError::Unsupported("not built".to_owned()))
    }
}
