//! The HSM officer's view: tokens listed, compared with the store, their PINs changed, their keys adopted and attested.

mod adopt;
mod attest;
mod audit_keys;
mod doctor;
mod expected;
mod pin;
mod reconcile;
mod replace;
mod tokens;
pub(super) mod watch;

pub use tokens::ReadPin;

use crate::authn::{Caller, Principal};
use crate::keystore::MaterialId;
use crate::ops::keys::label;
use crate::ops::resolve::{Resolved, Subject};
use crate::ops::{Context, Effects, OpError, OperatorRequest, OperatorResponse, Ops};
use crate::store::{KeyRecord, Material, Provenance};

/// Labels of all objects that the bridge makes, unless a profile says otherwise.
const PREFIX: &str = "hsm-bridge/";
/// Label of the data object with the log's newest head. It is written anew while the log grows, without a record.
pub const AUDIT_HEAD: &str = "hsm-bridge/audit-head";

impl Ops {
    /// `token …`, `key adopt`, `key attest`.
    pub(super) async fn officer_command(
        &self,
        request: &OperatorRequest,
        caller: &Caller,
        resolved: &Resolved,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        let snapshot = resolved.snapshot();
        match (request, resolved.subject()) {
            (OperatorRequest::TokenList, _) => Ok(self.token_list(snapshot).await),
            (OperatorRequest::TokenReconcile { token }, _) => {
                self.reconcile(token.as_deref(), snapshot, ctx, effects).await
            }
            (OperatorRequest::TokenPin { token, pin_file, retry }, _) => {
                self.change_pin(token.as_deref(), pin_file.as_deref(), *retry, ctx, effects).await
            }
            (OperatorRequest::TokenReplace { token, ticket }, _) => {
                self.replace_token(token, ticket, ctx, effects).await
            }
            (OperatorRequest::KeyAdopt(request), Subject::NewKey { id, arn }) => {
                self.adopt_key(request, os_user_id(caller), *id, arn, ctx, effects).await
            }
            (OperatorRequest::KeyAttest { .. }, Subject::Key(key)) => {
                self.attest_key(key, os_user_id(caller), ctx, effects).await
            }
            (request, subject) => Err(OpError::Internal(format!("{} was resolved to {subject:?}", request.name()))),
        }
    }
}

fn os_user_id(caller: &Caller) -> u32 {
    match caller.principal() {
        Principal::Operator { os_user_id } => *os_user_id,
        // Nobody else passes the check of an operator's command.
        _ => u32::MAX,
    }
}

pub(super) fn material_id(record: &KeyRecord, material: &Material) -> MaterialId {
    MaterialId { id: record.id.bytes(), generation: material.generation }
}

/// `CKA_ID` of the objects of a material.
pub(super) fn object_id(record: &KeyRecord, material: &Material) -> Vec<u8> {
    material.object_id.clone().unwrap_or_else(|| material_id(record, material).cka_id())
}

/// `CKA_LABEL` of the objects of a key. A token that takes short labels only has it cut.
pub(super) fn object_label(record: &KeyRecord) -> String {
    match &record.provenance {
        Provenance::Adopted { label, .. } => label.clone(),
        Provenance::Generated | Provenance::Rotated { .. } => label(&record.id),
    }
}
