//! What a grant may say, on the newest snapshot: operations and constraints that fit the key, principals that exist, the key's
//! state, the name that makes a repetition the same grant, the limit. Source: authorization.md §1.8.

use std::sync::Arc;

use crate::ids::spec::{GrantOperation, KeyUsage};
use crate::ids::{AccountId, GrantId, KeyId};
use crate::ops::crypto::in_use;
use crate::ops::keys::newest;
use crate::ops::principals::{known_principal, known_service};
use crate::ops::resolve::KeyTarget;
use crate::ops::{CreateGrant, GrantPrincipalText, OpError};
use crate::store::{GrantConstraints, GrantPrincipal, GrantRecord, KeyRecord, Snapshot, Write};

/// RULE KMS quotas: grants of one key.
pub(super) const MOST_OF_A_KEY: usize = 50_000;

/// A grant to be made, as it was asked for.
pub(super) struct Wanted {
    pub id: GrantId,
    pub key: KeyId,
    pub key_arn: String,
    pub issuing_account: AccountId,
    pub grantee: GrantPrincipalText,
    pub retiring: Option<GrantPrincipalText>,
    pub operations: Vec<GrantOperation>,
    pub constraints: GrantConstraints,
    pub name: Option<String>,
    pub now: i64,
}

impl Wanted {
    pub fn new(id: GrantId, key: &KeyTarget, request: &CreateGrant, issuing_account: AccountId, now: i64) -> Wanted {
        let mut operations = request.operations.clone();
        operations.sort();
        operations.dedup();
        Wanted {
            id,
            key: key.record.id,
            key_arn: key.arn.clone(),
            issuing_account,
            grantee: request.grantee.clone(),
            retiring: request.retiring.clone(),
            operations,
            constraints: request.constraints.clone(),
            name: request.name.clone(),
            now,
        }
    }

    /// The write, and the id of the grant: of one that was there before where name and all else are the same.
    pub fn decide(self, snapshot: &Snapshot, most: usize) -> Result<(Vec<Write>, GrantId), OpError> {
        let record = newest(snapshot, &self.key, &self.key_arn)?;
        fits(&record, &self.operations, &self.constraints)?;
        let grantee = bound(snapshot, &self.grantee)?;
        let retiring = self.retiring.as_ref().map(|text| bound(snapshot, text)).transpose()?;
        // RULE KMS key states: CreateGrant needs an enabled key. The token has no part in it, so it may be away.
        match in_use(&KeyTarget { record: Arc::new(record), arn: self.key_arn }) {
            Ok(()) | Err(OpError::KeyUnavailable { .. }) => {}
            Err(error) => return Err(error),
        }
        let grant = GrantRecord {
            id: self.id,
            key: self.key,
            issuing_account: self.issuing_account,
            grantee,
            retiring,
            operations: self.operations,
            constraints: self.constraints,
            name: self.name,
            created: self.now,
        };
        if let Some(earlier) = earlier(snapshot, &grant) {
            return Ok((Vec::new(), earlier));
        }
        if snapshot.grants_of(grant.key).nth(most.saturating_sub(1)).is_some() {
            return Err(OpError::LimitExceeded(format!("A KMS key has at most {most} grants.")));
        }
        let id = grant.id.clone();
        Ok((vec![Write::PutGrant(grant)], id))
    }
}

/// RULE CreateGrant, Name: the same request under the same name is the same grant.
fn earlier(snapshot: &Snapshot, grant: &GrantRecord) -> Option<GrantId> {
    grant.name.as_ref()?;
    let same =
        |other: &GrantRecord| GrantRecord { id: grant.id.clone(), created: grant.created, ..other.clone() } == *grant;
    snapshot.grants_to(grant.key, grant.grantee.name()).find(|other| same(other)).map(|other| other.id.clone())
}

/// The principal with the unique id that its ARN means now.
fn bound(snapshot: &Snapshot, text: &GrantPrincipalText) -> Result<GrantPrincipal, OpError> {
    let (text, found) = match text {
        GrantPrincipalText::Principal(arn) => {
            (arn, known_principal(snapshot, arn).map(|p| GrantPrincipal::Aws { arn: arn.clone(), id: p.unique_id }))
        }
        GrantPrincipalText::Service(name) => {
            (name, known_service(snapshot, name).map(|name| GrantPrincipal::Service { name }))
        }
    };
    found.ok_or_else(|| OpError::MalformedArn(text.clone()))
}

/// RULE CreateGrant: only operations that the key can do, and constraints on the encryption context only where there is one.
fn fits(key: &KeyRecord, operations: &[GrantOperation], constraints: &GrantConstraints) -> Result<(), OpError> {
    let misfits: Vec<&str> =
        operations.iter().filter(|o| !grantable(key, **o)).map(|operation| operation.as_str()).collect();
    if !misfits.is_empty() {
        return Err(OpError::Validation(format!(
            "Grant operations [{}] are not valid for a key with usage {} and spec {}.",
            misfits.join(", "),
            key.usage,
            key.spec
        )));
    }
    if !key.spec.is_symmetric() && (constraints.equals.is_some() || constraints.subset.is_some()) {
        return Err(OpError::Validation(
            "Encryption context constraints are valid for grants on symmetric encryption keys only.".to_owned(),
        ));
    }
    Ok(())
}

fn grantable(key: &KeyRecord, operation: GrantOperation) -> bool {
    use GrantOperation as O;
    let symmetric = key.spec.is_symmetric();
    match operation {
        O::CreateGrant | O::RetireGrant | O::DescribeKey => true,
        O::Encrypt | O::Decrypt | O::ReEncryptFrom | O::ReEncryptTo => key.usage == KeyUsage::EncryptDecrypt,
        O::GenerateDataKey
        | O::GenerateDataKeyWithoutPlaintext
        | O::GenerateDataKeyPair
        | O::GenerateDataKeyPairWithoutPlaintext => key.usage == KeyUsage::EncryptDecrypt && symmetric,
        O::GetPublicKey => key.spec.is_key_pair(),
        O::Sign | O::Verify => key.usage == KeyUsage::SignVerify,
        O::GenerateMac | O::VerifyMac => key.usage == KeyUsage::GenerateVerifyMac,
        O::DeriveSharedSecret => key.usage == KeyUsage::KeyAgreement,
        // No key of ours has the usage ENCAPSULATE_DECAPSULATE.
        O::Encapsulate | O::Decapsulate => false,
    }
}
