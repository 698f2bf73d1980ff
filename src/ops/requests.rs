//! What the operations are asked: typed requests, as the fronts parse them. No JSON values here.

use crate::ids::spec::*;
use crate::ids::{AliasName, ClusterId};
use crate::ops::Operation;
use crate::secret::{SecretBytes, SecretString};
use crate::store::GrantConstraints;

/// A KeyId member as the caller wrote it: key id, key ARN, alias name or alias ARN. Resolved once, in `ops::resolve`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyIdText(pub String);

/// Pairs as the caller sent them, in any order; `ciphertext::canonical_context` sorts them.
pub type EncryptionContext = Vec<(String, String)>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    pub key: String,
    pub value: String,
}

/// Limit and Marker of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    pub limit: Option<u32>,
    pub marker: Option<String>,
}

#[derive(Debug, Clone)]
pub enum Request {
    CreateKey(CreateKey),
    DescribeKey {
        key: KeyIdText,
        grant_tokens: GrantTokens,
    },
    ListKeys {
        page: Page,
    },
    EnableKey {
        key: KeyIdText,
    },
    DisableKey {
        key: KeyIdText,
    },
    /// Days, 7 to 30.
    ScheduleKeyDeletion {
        key: KeyIdText,
        pending_window_in_days: u32,
    },
    CancelKeyDeletion {
        key: KeyIdText,
    },
    UpdateKeyDescription {
        key: KeyIdText,
        description: String,
    },
    TagResource {
        key: KeyIdText,
        tags: Vec<Tag>,
    },
    UntagResource {
        key: KeyIdText,
        tag_keys: Vec<String>,
    },
    ListResourceTags {
        key: KeyIdText,
        page: Page,
    },
    CreateAlias {
        alias: AliasName,
        target: KeyIdText,
    },
    UpdateAlias {
        alias: AliasName,
        target: KeyIdText,
    },
    DeleteAlias {
        alias: AliasName,
    },
    ListAliases {
        key: Option<KeyIdText>,
        page: Page,
    },
    Encrypt {
        key: KeyIdText,
        plaintext: SecretBytes,
        context: EncryptionContext,
        algorithm: EncryptionAlgorithm,
        dry_run: bool,
        grant_tokens: GrantTokens,
    },
    Decrypt {
        key: Option<KeyIdText>,
        ciphertext: Vec<u8>,
        context: EncryptionContext,
        algorithm: EncryptionAlgorithm,
        dry_run: bool,
        grant_tokens: GrantTokens,
    },
    ReEncrypt(ReEncrypt),
    /// GenerateDataKey, and GenerateDataKeyWithoutPlaintext where `with_plaintext` is false.
    GenerateDataKey {
        key: KeyIdText,
        size: DataKeySize,
        context: EncryptionContext,
        with_plaintext: bool,
        dry_run: bool,
        grant_tokens: GrantTokens,
    },
    GenerateRandom {
        number_of_bytes: u32,
        /// CustomKeyStoreId as the caller wrote it.
        key_store: Option<String>,
    },
    Sign {
        key: KeyIdText,
        message: SecretBytes,
        message_type: MessageType,
        algorithm: SigningAlgorithm,
        dry_run: bool,
        grant_tokens: GrantTokens,
    },
    Verify {
        key: KeyIdText,
        message: SecretBytes,
        message_type: MessageType,
        signature: Vec<u8>,
        algorithm: SigningAlgorithm,
        dry_run: bool,
        grant_tokens: GrantTokens,
    },
    GetPublicKey {
        key: KeyIdText,
        grant_tokens: GrantTokens,
    },
    GenerateMac {
        key: KeyIdText,
        message: SecretBytes,
        algorithm: MacAlgorithm,
        dry_run: bool,
        grant_tokens: GrantTokens,
    },
    VerifyMac {
        key: KeyIdText,
        message: SecretBytes,
        mac: SecretBytes,
        algorithm: MacAlgorithm,
        dry_run: bool,
        grant_tokens: GrantTokens,
    },
    GetKeyPolicy {
        key: KeyIdText,
    },
    PutKeyPolicy {
        key: KeyIdText,
        policy: String,
        /// `None`: not in the request; policies may ask that.
        bypass_policy_lockout_safety_check: Option<bool>,
    },
    ListKeyPolicies {
        key: KeyIdText,
        page: Page,
    },
    GetKeyRotationStatus {
        key: KeyIdText,
    },
    CreateGrant(Box<CreateGrant>),
    ListGrants {
        key: KeyIdText,
        grant: Option<String>,
        /// GranteePrincipal or GranteeServicePrincipal, as the caller wrote it.
        grantee: Option<GrantPrincipalText>,
        page: Page,
    },
    ListRetirableGrants {
        retiring: GrantPrincipalText,
        page: Page,
    },
    RetireGrant(Box<RetireGrant>),
    RevokeGrant {
        key: KeyIdText,
        grant: String,
        dry_run: bool,
    },
    GetKeyLastUsage {
        key: KeyIdText,
    },
    CreateCustomKeyStore(CreateCustomKeyStore),
    UpdateCustomKeyStore(UpdateCustomKeyStore),
    /// At most one of `id` and `name`.
    DescribeCustomKeyStores {
        id: Option<String>,
        name: Option<String>,
        page: Page,
    },
    ConnectCustomKeyStore {
        id: String,
    },
    DisconnectCustomKeyStore {
        id: String,
    },
    DeleteCustomKeyStore {
        id: String,
    },
    /// `X-Amz-Target: HsmBridge.RotateAlias`, and what `hsm-bridge rotate` and the usage timer do.
    RotateAlias(RotateAlias),
    /// An operation on one key that no key of ours takes: AWS's text depends on the key's origin.
    RefusedOnKey {
        operation: Operation,
        key: KeyIdText,
        reason: &'static str,
    },
    /// An operation of the model that this version does not serve: authenticated, audited, refused.
    Unsupported {
        operation: Operation,
        reason: &'static str,
    },
}

#[derive(Debug, Clone)]
pub struct CreateKey {
    pub spec: KeySpec,
    pub usage: KeyUsage,
    pub description: String,
    pub policy: Option<String>,
    pub tags: Vec<Tag>,
    /// `None`: not in the request; policies may ask that.
    pub bypass_policy_lockout_safety_check: Option<bool>,
    /// CustomKeyStoreId as the caller wrote it; `Origin = AWS_CLOUDHSM` comes with it and only with it.
    pub key_store: Option<String>,
}

#[derive(Debug, Clone)]
pub struct CreateCustomKeyStore {
    pub name: String,
    /// CloudHsmClusterId, TrustAnchorCertificate and KeyStorePassword: `None` where the caller gave none (an error that only
    /// the operation can tell).
    pub cluster: Option<ClusterId>,
    pub trust_anchor: Option<String>,
    pub password: Option<SecretString>,
}

#[derive(Debug, Clone)]
pub struct UpdateCustomKeyStore {
    pub id: String,
    pub new_name: Option<String>,
    pub password: Option<SecretString>,
    pub cluster: Option<ClusterId>,
}

/// GrantTokens as the caller sent them: 10 at most.
pub type GrantTokens = Vec<String>;

/// A principal of a grant as the caller wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrantPrincipalText {
    /// GranteePrincipal, RetiringPrincipal: an ARN.
    Principal(String),
    /// GranteeServicePrincipal, RetiringServicePrincipal: a service's name.
    Service(String),
}

#[derive(Debug, Clone)]
pub struct CreateGrant {
    pub key: KeyIdText,
    pub grantee: GrantPrincipalText,
    pub retiring: Option<GrantPrincipalText>,
    pub operations: Vec<GrantOperation>,
    pub constraints: GrantConstraints,
    pub grant_tokens: GrantTokens,
    pub name: Option<String>,
    pub dry_run: bool,
}

/// By GrantToken, or by KeyId and GrantId.
#[derive(Debug, Clone)]
pub struct RetireGrant {
    pub token: Option<String>,
    pub key: Option<KeyIdText>,
    pub grant: Option<String>,
    pub dry_run: bool,
}

/// What becomes of the old key's live grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RotateGrants {
    /// The new key gets the same grants.
    Carry,
    /// They stay with the old key only.
    Leave,
}

#[derive(Debug, Clone)]
pub struct RotateAlias {
    pub alias: AliasName,
    /// `None`: the old key's.
    pub key_spec: Option<KeySpec>,
    /// Stands in the audit record.
    pub reason: Option<String>,
    /// `None`: refused while the old key has live grants.
    pub grants: Option<RotateGrants>,
    /// The same token with the same request gives the same answer and rotates once.
    pub client_token: Option<String>,
}

#[derive(Debug, Clone)]
pub struct ReEncrypt {
    pub ciphertext: Vec<u8>,
    pub source_key: Option<KeyIdText>,
    pub source_context: EncryptionContext,
    pub source_algorithm: EncryptionAlgorithm,
    pub destination_key: KeyIdText,
    pub destination_context: EncryptionContext,
    pub destination_algorithm: EncryptionAlgorithm,
    pub grant_tokens: GrantTokens,
    pub dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataKeySize {
    Spec(DataKeySpec),
    /// 1 to 1024.
    Bytes(u32),
}

impl DataKeySize {
    /// Length of the data key in bytes.
    pub fn byte_length(self) -> usize {
        match self {
            DataKeySize::Spec(spec) => spec.byte_length(),
            DataKeySize::Bytes(n) => n as usize,
        }
    }
}

impl Request {
    /// GrantTokens of the operations that take them.
    pub fn grant_tokens(&self) -> &[String] {
        match self {
            Request::CreateGrant(request) => &request.grant_tokens,
            Request::ReEncrypt(request) => &request.grant_tokens,
            Request::DescribeKey { grant_tokens, .. }
            | Request::Encrypt { grant_tokens, .. }
            | Request::Decrypt { grant_tokens, .. }
            | Request::GenerateDataKey { grant_tokens, .. }
            | Request::Sign { grant_tokens, .. }
            | Request::Verify { grant_tokens, .. }
            | Request::GetPublicKey { grant_tokens, .. }
            | Request::GenerateMac { grant_tokens, .. }
            | Request::VerifyMac { grant_tokens, .. } => grant_tokens,
            _ => &[],
        }
    }

    pub fn operation(&self) -> Operation {
        use Operation as O;
        match self {
            Request::CreateKey(_) => O::CreateKey,
            Request::DescribeKey { .. } => O::DescribeKey,
            Request::ListKeys { .. } => O::ListKeys,
            Request::EnableKey { .. } => O::EnableKey,
            Request::DisableKey { .. } => O::DisableKey,
            Request::ScheduleKeyDeletion { .. } => O::ScheduleKeyDeletion,
            Request::CancelKeyDeletion { .. } => O::CancelKeyDeletion,
            Request::UpdateKeyDescription { .. } => O::UpdateKeyDescription,
            Request::TagResource { .. } => O::TagResource,
            Request::UntagResource { .. } => O::UntagResource,
            Request::ListResourceTags { .. } => O::ListResourceTags,
            Request::CreateAlias { .. } => O::CreateAlias,
            Request::UpdateAlias { .. } => O::UpdateAlias,
            Request::DeleteAlias { .. } => O::DeleteAlias,
            Request::ListAliases { .. } => O::ListAliases,
            Request::Encrypt { .. } => O::Encrypt,
            Request::Decrypt { .. } => O::Decrypt,
            Request::ReEncrypt(_) => O::ReEncrypt,
            Request::GenerateDataKey { with_plaintext: true, .. } => O::GenerateDataKey,
            Request::GenerateDataKey { with_plaintext: false, .. } => O::GenerateDataKeyWithoutPlaintext,
            Request::GenerateRandom { .. } => O::GenerateRandom,
            Request::Sign { .. } => O::Sign,
            Request::Verify { .. } => O::Verify,
            Request::GetPublicKey { .. } => O::GetPublicKey,
            Request::GenerateMac { .. } => O::GenerateMac,
            Request::VerifyMac { .. } => O::VerifyMac,
            Request::GetKeyPolicy { .. } => O::GetKeyPolicy,
            Request::PutKeyPolicy { .. } => O::PutKeyPolicy,
            Request::ListKeyPolicies { .. } => O::ListKeyPolicies,
            Request::GetKeyRotationStatus { .. } => O::GetKeyRotationStatus,
            Request::CreateGrant(_) => O::CreateGrant,
            Request::ListGrants { .. } => O::ListGrants,
            Request::ListRetirableGrants { .. } => O::ListRetirableGrants,
            Request::RetireGrant(_) => O::RetireGrant,
            Request::RevokeGrant { .. } => O::RevokeGrant,
            Request::GetKeyLastUsage { .. } => O::GetKeyLastUsage,
            Request::CreateCustomKeyStore(_) => O::CreateCustomKeyStore,
            Request::UpdateCustomKeyStore(_) => O::UpdateCustomKeyStore,
            Request::DescribeCustomKeyStores { .. } => O::DescribeCustomKeyStores,
            Request::ConnectCustomKeyStore { .. } => O::ConnectCustomKeyStore,
            Request::DisconnectCustomKeyStore { .. } => O::DisconnectCustomKeyStore,
            Request::DeleteCustomKeyStore { .. } => O::DeleteCustomKeyStore,
            Request::RotateAlias(_) => O::RotateAlias,
            Request::RefusedOnKey { operation, .. } | Request::Unsupported { operation, .. } => *operation,
        }
    }
}
