//! What the operations answer: typed responses, as the fronts render them. No JSON values here.

use std::sync::Arc;

use crate::ids::spec::*;
use crate::ids::{AliasName, ClusterId, GrantId, KeyId, KeyStoreId};
use crate::ops::Tag;
use crate::secret::SecretBytes;
use crate::store::GrantRecord;

/// KeyMetadata, member for member. Times in milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyMetadata {
    pub account: String,
    pub key_id: KeyId,
    pub arn: String,
    pub creation_date: i64,
    pub description: String,
    pub enabled: bool,
    pub spec: KeySpec,
    pub usage: KeyUsage,
    pub state: KeyState,
    pub deletion_date: Option<i64>,
    /// Symmetric keys only: 64 hex digits.
    pub current_key_material_id: Option<String>,
    /// Only those that the token can do.
    pub encryption_algorithms: Vec<EncryptionAlgorithm>,
    pub signing_algorithms: Vec<SigningAlgorithm>,
    pub mac_algorithms: Vec<MacAlgorithm>,
    /// `None`: the default key store, `Origin = AWS_KMS`; else `AWS_CLOUDHSM`.
    pub custom_store: Option<(KeyStoreId, ClusterId)>,
    /// `KeyManager = AWS`: the key of a service.
    pub managed: bool,
}

impl KeyMetadata {
    pub fn key_manager(&self) -> &'static str {
        if self.managed { "AWS" } else { "CUSTOMER" }
    }

    pub fn origin(&self) -> &'static str {
        if self.custom_store.is_some() { "AWS_CLOUDHSM" } else { "AWS_KMS" }
    }
}

/// An entry of DescribeCustomKeyStores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStoreEntry {
    pub id: KeyStoreId,
    pub name: String,
    pub cluster: ClusterId,
    pub trust_anchor: Option<String>,
    /// `CONNECTED`, `CONNECTING`, `FAILED`, `DISCONNECTED`, `DISCONNECTING`.
    pub connection_state: &'static str,
    /// Only with `FAILED`.
    pub connection_error_code: Option<String>,
    pub creation_date: i64,
}

/// GrantListEntry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantEntry {
    pub key_arn: String,
    pub grant: Arc<GrantRecord>,
    /// Grantee and retiring principal as callers see them: the ARN, or the unique id of a principal that is gone.
    pub grantee: String,
    pub retiring: Option<String>,
}

/// GetKeyLastUsage. Times in milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyLastUsage {
    pub key_arn: String,
    /// Operation, time, event id, request id of the newest use; `None`: no use since tracking began.
    pub last: Option<LastUse>,
    pub tracking_start: i64,
    pub key_creation: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LastUse {
    pub operation: String,
    pub at: i64,
    pub event_id: String,
    pub request_id: String,
}

/// What a rotation did, or did when its ClientToken was first seen.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RotationDone {
    pub aliases: Vec<AliasName>,
    pub old_key_arn: String,
    pub new_key_arn: String,
    pub at: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasEntry {
    pub name: AliasName,
    pub arn: String,
    pub target: KeyId,
    pub creation_date: i64,
    pub last_updated_date: i64,
}

/// Answers. `key_arn` is the KeyId member of AWS's answers.
#[derive(Debug, Clone)]
pub enum Response {
    CreateKey(Box<KeyMetadata>),
    DescribeKey(Box<KeyMetadata>),
    ListKeys {
        keys: Vec<(KeyId, String)>,
        next_marker: Option<String>,
    },
    /// EnableKey, DisableKey, UpdateKeyDescription, TagResource, UntagResource, CreateAlias, UpdateAlias, DeleteAlias,
    /// PutKeyPolicy: an answer without a body.
    Empty,
    ScheduleKeyDeletion {
        key_arn: String,
        deletion_date: i64,
        pending_window_in_days: u32,
    },
    CancelKeyDeletion {
        key_arn: String,
    },
    ListResourceTags {
        tags: Vec<Tag>,
        next_marker: Option<String>,
    },
    ListAliases {
        aliases: Vec<AliasEntry>,
        next_marker: Option<String>,
    },
    Encrypt {
        key_arn: String,
        ciphertext: Vec<u8>,
    },
    Decrypt {
        key_arn: String,
        plaintext: SecretBytes,
        /// `None` for a key in a custom key store, here and below.
        key_material_id: Option<Arc<str>>,
    },
    ReEncrypt {
        source_key_arn: String,
        key_arn: String,
        ciphertext: Vec<u8>,
        source_key_material_id: Option<Arc<str>>,
        destination_key_material_id: Option<Arc<str>>,
    },
    GenerateDataKey {
        key_arn: String,
        ciphertext: Vec<u8>,
        plaintext: Option<SecretBytes>,
        key_material_id: Option<Arc<str>>,
    },
    GenerateRandom {
        plaintext: SecretBytes,
    },
    Sign {
        key_arn: String,
        signature: Vec<u8>,
        algorithm: SigningAlgorithm,
    },
    /// A signature that does not verify is an error, never `SignatureValid: false`.
    Verify {
        key_arn: String,
        algorithm: SigningAlgorithm,
    },
    GetPublicKey {
        key_arn: String,
        spki: Arc<[u8]>,
        spec: KeySpec,
        usage: KeyUsage,
        signing_algorithms: Vec<SigningAlgorithm>,
    },
    GenerateMac {
        key_arn: String,
        mac: SecretBytes,
        algorithm: MacAlgorithm,
    },
    VerifyMac {
        key_arn: String,
        algorithm: MacAlgorithm,
    },
    GetKeyPolicy {
        policy: Arc<str>,
    },
    ListKeyPolicies,
    GetKeyRotationStatus {
        key_arn: String,
    },
    CreateGrant {
        grant: GrantId,
        token: String,
    },
    /// ListGrants and ListRetirableGrants.
    ListGrants {
        grants: Vec<GrantEntry>,
        next_marker: Option<String>,
    },
    GetKeyLastUsage(Box<KeyLastUsage>),
    CreateCustomKeyStore {
        id: KeyStoreId,
    },
    DescribeCustomKeyStores {
        stores: Vec<KeyStoreEntry>,
        next_marker: Option<String>,
    },
    RotateAlias(Box<RotationDone>),
}
