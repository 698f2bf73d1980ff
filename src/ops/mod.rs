//! What each operation does, on values that were resolved once and permitted.

pub mod error;
pub mod operation;
pub mod types;

pub use error::OpError;
pub use operation::{Operation, Service};
pub use types::*;
