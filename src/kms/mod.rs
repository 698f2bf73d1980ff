//! The KMS front: AWS JSON 1.1 to typed requests and back, and the one table from domain errors to wire errors.
//! Knows no store and no token.

use serde_json::value::RawValue;

use crate::ops::{OpError, Operation, Request, Response};
use crate::secret::SecretBytes;

/// An answer's status, error type and text. `message: None`: AWS sends this exception without a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireError {
    pub status: u16,
    /// Bare exception name.
    pub code: &'static str,
    pub message: Option<String>,
    /// AccessDeniedException spells the member `Message`.
    pub capital_message: bool,
}

mod stub;
pub use stub::*;
