//! The wire shape of `HsmBridge.RotateAlias`, our one extension: the constraints stand in `extension.json`.

use super::WireError;
use super::parse::{Input, not_served};
use crate::ids::spec::KeySpec;
use crate::ops::{Request, RotateAlias, RotateGrants};

pub(super) fn parse(input: &mut Input<'_>) -> Result<Request, WireError> {
    let key_spec = match input.text("KeySpec") {
        Some(text) => Some(KeySpec::from_wire(&text).ok_or_else(|| not_served("KeySpec", &text))?),
        None => None,
    };
    let grants = match input.text("Grants") {
        None => None,
        Some(text) if text == "CARRY" => Some(RotateGrants::Carry),
        Some(text) if text == "LEAVE" => Some(RotateGrants::Leave),
        Some(text) => return Err(not_served("Grants", &text)),
    };
    // Taken for a wish and ignored it would rotate.
    if input.flag("DryRun") {
        return Err(not_served("DryRun of RotateAlias", "(see `hsm-bridge rotate --plan`)"));
    }
    Ok(Request::RotateAlias(RotateAlias {
        alias: input.alias()?,
        key_spec,
        reason: input.text("Reason"),
        grants,
        client_token: input.text("ClientToken"),
    }))
}
