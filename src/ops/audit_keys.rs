//! `audit key …`: the trail's own keys as the operator asks for them. What is answered comes from whoever keeps them, which
//! `app` hands in: this part knows what may be asked, and of what permission each needs. Source: audit.md §7.5.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ops::{Context, Effects, HsmUse, OpError, OperatorResponse, Ops};
use crate::store::BoxFuture;

/// The two keys of a trail, as the log's `KeyUse`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditKeyUse {
    Digest,
    Checkpoint,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case", deny_unknown_fields)]
pub enum AuditKeyRequest {
    Show,
    /// A certificate request, signed by the key.
    Csr {
        key_use: AuditKeyUse,
    },
    /// `certificate`: PEM, the key's own first, then those of the authorities above it.
    Install {
        key_use: AuditKeyUse,
        certificate: String,
    },
    Rotate {
        key_use: AuditKeyUse,
        /// The old private key stays in the token.
        keep_old: bool,
        /// The present key cannot sign any more: why, and that the new one begins without the old one's word.
        lost: Option<String>,
    },
}

/// What was done, and what the record says of it.
#[derive(Debug, Clone, Default)]
pub struct AuditKeyAnswer {
    pub report: Value,
    pub details: Option<Value>,
    pub store_version: Option<u64>,
    pub hsm: Option<HsmUse>,
}

/// Keeps the audit keys.
pub trait AuditKeyOffice: Send + Sync {
    fn answer<'a>(
        &'a self,
        request: &'a AuditKeyRequest,
        ctx: &'a Context,
    ) -> BoxFuture<'a, Result<AuditKeyAnswer, OpError>>;
}

impl AuditKeyRequest {
    pub fn permission(&self) -> &'static str {
        match self {
            AuditKeyRequest::Show => "audit:key-show",
            AuditKeyRequest::Csr { .. } => "audit:key-csr",
            AuditKeyRequest::Install { .. } => "audit:key-install",
            AuditKeyRequest::Rotate { .. } => "audit:key-rotate",
        }
    }

    /// `eventName` of the record.
    pub fn name(&self) -> &'static str {
        match self {
            AuditKeyRequest::Show => "AuditKeyShow",
            AuditKeyRequest::Csr { .. } => "AuditKeyCsr",
            AuditKeyRequest::Install { .. } => "AuditKeyInstall",
            AuditKeyRequest::Rotate { .. } => "AuditKeyRotate",
        }
    }

    pub fn changes(&self) -> bool {
        matches!(self, AuditKeyRequest::Install { .. } | AuditKeyRequest::Rotate { .. })
    }
}

impl Ops {
    /// Who keeps the audit keys. Once, by `app`.
    pub fn keep_audit_keys_with(&self, office: Box<dyn AuditKeyOffice>) {
        let _ = self.audit_keys.set(office);
    }

    pub(super) async fn audit_key(
        &self,
        request: &AuditKeyRequest,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        let office = self.audit_keys.get();
        let office = office.ok_or_else(|| OpError::Internal("nobody keeps the audit keys".to_owned()))?;
        let answer = office.answer(request, ctx).await?;
        effects.details = answer.details;
        effects.store_version = answer.store_version;
        effects.hsm = answer.hsm;
        Ok(OperatorResponse::AuditKeys { report: answer.report })
    }
}
