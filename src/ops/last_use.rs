//! Last use of each key by operation and principal: a cache over the journal.

use crate::ops::resolve::KeyTarget;
use crate::ops::{OpError, Ops, Response};

impl Ops {
    pub(super) fn key_last_usage(&self, _key: &KeyTarget) -> Result<Response, OpError> {
        Err(OpError::Unsupported("not built".to_owned()))
    }
}
