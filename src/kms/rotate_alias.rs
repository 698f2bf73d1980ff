//! The wire shape of `HsmBridge.RotateAlias`, our one extension: the constraints stand in `extension.json`.

use super::WireError;
use super::errors::unsupported;
use super::parse::Input;
use crate::ops::Request;

pub(super) fn parse(_input: &mut Input<'_>) -> Result<Request, WireError> {
    Err(unsupported("not built"))
}
