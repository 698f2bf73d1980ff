//! The records. Serialised as JSON inside the seal; unknown members are refused, new ones need a migration.

mod audit;
mod grant;
mod iam;

use serde::{Deserialize, Serialize};

pub use crate::ids::PolicyDocument;
use crate::ids::spec::{KeySpec, KeyUsage};
use crate::ids::{AccessKeyId, AccountId, AliasName, ClusterId, KeyId, KeyStoreId, Region, ServiceName, UserName};
pub use audit::*;
pub use grant::*;
pub use iam::*;

/// Times are milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeploymentRecord {
    /// Random, 32 hex digits; part of all associated data.
    pub id: String,
    pub account: AccountId,
    pub region: Region,
    pub created: i64,
    /// `dev` or `init`: `dev` refuses a directory that `init` made.
    pub made_by: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Lifecycle {
    /// A record without a finished object; nobody was told the key id.
    Creating,
    Enabled,
    Disabled,
    PendingDeletion {
        deletion_date: i64,
    },
    /// The window has passed and the object is being destroyed.
    Deleting,
    /// The token does not hold the key; a person was told.
    Unavailable {
        was_enabled: bool,
    },
}

/// One piece of key material (AWS's "backing key").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Material {
    pub generation: u32,
    /// 32 random bytes, hex.
    pub material_id: String,
    pub created: i64,
    /// As the token gave it.
    #[serde(with = "crate::store::records::bytes_hex")]
    pub fingerprint: Vec<u8>,
    /// SubjectPublicKeyInfo, DER; key pairs only.
    #[serde(with = "crate::store::records::opt_bytes_hex")]
    pub spki: Option<Vec<u8>>,
    /// The attributes read back after generation, as the token gave them.
    pub evidence: serde_json::Value,
    /// `CKA_ID` of the objects where it is not the one that follows from key id and generation: adopted keys, and tokens
    /// with short ids.
    #[serde(default, with = "crate::store::records::opt_bytes_hex", skip_serializing_if = "Option::is_none")]
    pub object_id: Option<Vec<u8>>,
}

/// How a key's material came into the token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Provenance {
    /// C_GenerateKey or C_GenerateKeyPair, asked for by CreateKey.
    #[default]
    Generated,
    /// Made by somebody else and put under management by the operator.
    Adopted { label: String, by_os_user_id: u32, extractable_accepted: bool },
    /// Made by `rotate` as the successor of another key.
    Rotated { from: KeyId },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    pub id: KeyId,
    pub account: AccountId,
    pub created: i64,
    pub description: String,
    pub spec: KeySpec,
    pub usage: KeyUsage,
    pub lifecycle: Lifecycle,
    /// The policy document as the caller sent it.
    pub policy: PolicyDocument,
    pub policy_version: u64,
    /// In the order in which they were first set.
    pub tags: Vec<(String, String)>,
    /// The last is the current one; empty only while `Creating`.
    pub materials: Vec<Material>,
    /// The custom key store that holds it (`Origin = AWS_CLOUDHSM`); `None`: the default key store (`AWS_KMS`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_store: Option<KeyStoreId>,
    #[serde(default)]
    pub provenance: Provenance,
    /// The service whose AWS managed key this is (`KeyManager = AWS`): nobody else uses it, nobody manages it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_by: Option<ServiceName>,
}

impl KeyRecord {
    pub fn current(&self) -> Option<&Material> {
        self.materials.last()
    }

    pub fn material(&self, generation: u32) -> Option<&Material> {
        self.materials.iter().find(|m| m.generation == generation)
    }
}

/// One stay of an alias at a key that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AliasHistory {
    pub key: KeyId,
    pub from: i64,
    pub until: i64,
    /// `UpdateAlias` or `rotate`: how the stay ended.
    pub ended_by: String,
    /// When the operator dropped the entry: since then Decrypt by this alias refuses the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<i64>,
}

impl AliasHistory {
    /// `ended_by` of a stay that `rotate` ended.
    pub const BY_ROTATE: &str = "rotate";
    pub const BY_UPDATE: &str = "UpdateAlias";
}

/// Whether a key store is meant to be connected. What it really is, lives in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Connection {
    /// Never connected, or disconnected by DisconnectCustomKeyStore.
    Disconnected,
    /// ConnectCustomKeyStore was answered; after a restart it is connected again.
    Wanted,
    /// The last try failed for good: ConnectionErrorCode. Disconnect or connect anew.
    Failed { code: String },
}

/// A custom key store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyStoreRecord {
    pub id: KeyStoreId,
    pub account: AccountId,
    /// CustomKeyStoreName, unique in the account.
    pub name: String,
    /// Which configured token (`TokenRecord`).
    pub cluster: ClusterId,
    pub created: i64,
    /// PEM as the caller sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_anchor: Option<String>,
    /// KeyStorePassword under the token key `hsm-bridge/iam-wrap`: IV (12 bytes) ‖ ciphertext ‖ tag. The user's name is in the
    /// token's configuration.
    #[serde(with = "crate::store::records::bytes_hex")]
    pub wrapped_password: Vec<u8>,
    /// The token refused this password: it is not tried again until another one is given.
    #[serde(default)]
    pub password_refused: bool,
    pub connection: Connection,
}

/// A configured token as it was first seen: its cluster id is kept, another serial behind its name is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    /// Name in the configuration; `default` is the default key store's.
    pub name: String,
    pub cluster: ClusterId,
    pub serial: String,
    pub first_seen: i64,
}

/// A rotation that was done: for idempotency by ClientToken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotationRecord {
    /// SHA-256 over principal and ClientToken, hex.
    pub client_token: String,
    /// SHA-256 over the request's members, hex: the same token with another request is refused.
    pub request: String,
    pub aliases: Vec<AliasName>,
    pub old_key: KeyId,
    pub new_key: KeyId,
    pub at: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AliasRecord {
    pub name: AliasName,
    pub account: AccountId,
    pub target: KeyId,
    pub created: i64,
    pub updated: i64,
    /// Oldest first.
    pub history: Vec<AliasHistory>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Owner {
    Root,
    User(UserName),
    Service(ServiceName),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessKeyRecord {
    pub id: AccessKeyId,
    pub account: AccountId,
    pub owner: Owner,
    pub active: bool,
    pub created: i64,
    /// The secret under the token key `hsm-bridge/iam-wrap`: IV (12 bytes) ‖ ciphertext ‖ tag.
    #[serde(with = "crate::store::records::bytes_hex")]
    pub wrapped_secret: Vec<u8>,
    /// When it was last used, to the day or better; written in the background.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<AccessKeyUse>,
}

/// GetAccessKeyLastUsed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessKeyUse {
    pub at: i64,
    /// `kms`, `sts`.
    pub service: String,
    pub region: Region,
}

/// Encryptions under the current material that were set aside; the real count is never higher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageRecord {
    pub key: KeyId,
    pub generation: u32,
    pub reserved: u64,
}

/// What is left of a destroyed key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TombstoneRecord {
    pub id: KeyId,
    pub account: AccountId,
    pub spec: KeySpec,
    pub created: i64,
    pub deleted: i64,
    pub objects_destroyed: u64,
}

/// Written in the transaction of a change, removed once its outcome record is durable: at start it tells whether an intent
/// without an outcome took effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedRecord {
    pub request_id: String,
}

pub mod bytes_hex {
    use serde::{Deserialize, Deserializer, Serializer};
    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(bytes))
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

pub mod opt_bytes_hex {
    use serde::{Deserialize, Deserializer, Serializer};
    pub fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => to.serialize_some(&hex::encode(bytes)),
            None => to.serialize_none(),
        }
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<u8>>, D::Error> {
        Option::<String>::deserialize(from)?.map(|t| hex::decode(t).map_err(serde::de::Error::custom)).transpose()
    }
}
