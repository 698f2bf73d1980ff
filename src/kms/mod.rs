//! The KMS front: AWS JSON 1.1 to typed requests and back, and the one table from domain errors to wire errors.
//! Knows no store and no token.

mod audit;
mod create_key;
mod errors;
mod grants;
mod key_stores;
mod model;
mod parse;
mod patterns;
mod render;
mod rotate_alias;
mod validate;
mod value;

pub use audit::{JavaDate, audit_parameters, audit_response};
pub use errors::{
    ALL_CODES, access_denied, audit_unavailable, authn_error, internal, limit_exceeded, serialization, throttled,
    token_away, unknown_operation, unsupported, validation, wire_error,
};
pub use parse::{parse, target};
pub use render::{error_body, render};

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

#[cfg(test)]
mod samples;
