//! The wire shapes of the six operations on custom key stores.

use super::WireError;
use super::errors::unsupported;
use super::parse::Input;
use crate::ops::{Operation, Request};

pub(super) fn parse(_operation: Operation, _input: &mut Input<'_>) -> Result<Request, WireError> {
    Err(unsupported("not built"))
}
