//! Key records, aliases, policies, tags, identities: sealed rows in SQL for durability, an immutable snapshot in memory for
//! reads. Knows no token (it is handed a `WrapKey`) and no HTTP.

mod backup;
mod envelope;
mod files;
mod handle;
mod head;
mod lock;
pub mod records;
mod schema;
mod seal;
mod snapshot;
mod sql;
mod table;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use rpds::{HashTrieMapSync, RedBlackTreeMapSync};

use crate::ids::{
    AccessKeyId, AccountId, AliasName, GrantId, GroupName, KeyId, KeyStoreId, PolicyArn, RoleName, ServiceName,
    UserName,
};
use crate::secret::SecretBytes;
pub use backup::brought_back;
pub use handle::Store;
pub use lock::StoreLock;
pub use records::*;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Wraps and unwraps the store key (32 bytes) under a token key used for nothing else.
pub trait WrapKey: Send + Sync {
    fn wrap<'a>(&'a self, aad: Vec<u8>, key: &'a SecretBytes) -> BoxFuture<'a, Result<Vec<u8>, String>>;
    fn unwrap<'a>(&'a self, aad: Vec<u8>, wrapped: &'a [u8]) -> BoxFuture<'a, Result<SecretBytes, String>>;
    /// 32 bytes from the token's generator.
    fn random32(&self) -> BoxFuture<'_, Result<SecretBytes, String>>;
    /// Names the root token (its serial): one wrapped copy is kept per root token.
    fn name(&self) -> String;
}

/// An immutable view of all records. Reads on the hot path use nothing else.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// Advances by one with each committed transaction.
    pub version: u64,
    pub deployment: Option<Arc<DeploymentRecord>>,
    pub keys: RedBlackTreeMapSync<KeyId, Arc<KeyRecord>>,
    pub aliases: RedBlackTreeMapSync<(AccountId, AliasName), Arc<AliasRecord>>,
    /// Names of the aliases that point to a key now.
    pub aliases_of: HashTrieMapSync<KeyId, Vec<AliasName>>,
    pub users: RedBlackTreeMapSync<(AccountId, UserName), Arc<UserRecord>>,
    pub access_keys: HashTrieMapSync<AccessKeyId, Arc<AccessKeyRecord>>,
    /// Encryptions reserved per key and generation (GCM budget).
    pub usage: HashTrieMapSync<KeyId, Arc<UsageRecord>>,
    /// Requests whose change was committed and whose outcome record may not be written yet.
    pub applied: HashTrieMapSync<String, Arc<AppliedRecord>>,
    pub key_stores: RedBlackTreeMapSync<KeyStoreId, Arc<KeyStoreRecord>>,
    /// By their name in the configuration.
    pub tokens: RedBlackTreeMapSync<String, Arc<TokenRecord>>,
    /// By ClientToken.
    pub rotations: HashTrieMapSync<String, Arc<RotationRecord>>,
    pub accounts: RedBlackTreeMapSync<AccountId, Arc<AccountRecord>>,
    pub units: RedBlackTreeMapSync<String, Arc<UnitRecord>>,
    pub groups: RedBlackTreeMapSync<(AccountId, GroupName), Arc<GroupRecord>>,
    pub roles: RedBlackTreeMapSync<(AccountId, RoleName), Arc<RoleRecord>>,
    pub policies: RedBlackTreeMapSync<PolicyArn, Arc<PolicyRecord>>,
    /// By ARN.
    pub oidc_providers: RedBlackTreeMapSync<String, Arc<OidcProviderRecord>>,
    pub services: RedBlackTreeMapSync<ServiceName, Arc<ServiceRecord>>,
    pub session_keys: RedBlackTreeMapSync<String, Arc<SessionKeyRecord>>,
    /// By access key id.
    pub revoked_sessions: HashTrieMapSync<String, Arc<RevokedSessionRecord>>,
    /// In the order of a key's grants.
    pub grants: RedBlackTreeMapSync<(KeyId, GrantId), Arc<GrantRecord>>,
    /// Key → its grants by grantee (ARN or service name): a decision looks at the caller's own only. Apart for each key, so that
    /// what a decision costs does not follow from the grants on others.
    pub grants_to: HashTrieMapSync<KeyId, GrantsByGrantee>,
    /// Retiring principal → grants, over all keys.
    pub grants_retired_by: RedBlackTreeMapSync<(Arc<str>, KeyId, GrantId), Arc<GrantRecord>>,
    /// By use and generation: the keys of the audit trail, oldest first.
    pub audit_keys: RedBlackTreeMapSync<(String, u32), Arc<AuditKeyRecord>>,
    /// Access key ids of a user (`account/name`).
    pub access_keys_of: HashTrieMapSync<(AccountId, Owner), Vec<AccessKeyId>>,
}

/// The grants of one key.
pub type GrantsByGrantee = RedBlackTreeMapSync<(Arc<str>, GrantId), Arc<GrantRecord>>;

/// One write. Applied in order, in one transaction.
#[derive(Debug, Clone)]
pub enum Write {
    PutDeployment(DeploymentRecord),
    PutKey(KeyRecord),
    DeleteKey(KeyId),
    PutAlias(AliasRecord),
    DeleteAlias(AccountId, AliasName),
    PutUser(UserRecord),
    DeleteUser(AccountId, UserName),
    PutAccessKey(AccessKeyRecord),
    DeleteAccessKey(AccessKeyId),
    PutUsage(UsageRecord),
    DeleteUsage(KeyId),
    PutTombstone(TombstoneRecord),
    PutApplied(AppliedRecord),
    DeleteApplied(String),
    PutKeyStore(KeyStoreRecord),
    DeleteKeyStore(KeyStoreId),
    PutToken(TokenRecord),
    PutRotation(RotationRecord),
    /// By ClientToken.
    DeleteRotation(String),
    PutAccount(AccountRecord),
    DeleteAccount(AccountId),
    PutUnit(UnitRecord),
    DeleteUnit(String),
    PutGroup(GroupRecord),
    DeleteGroup(AccountId, GroupName),
    PutRole(RoleRecord),
    DeleteRole(AccountId, RoleName),
    PutPolicy(PolicyRecord),
    DeletePolicy(PolicyArn),
    PutOidcProvider(OidcProviderRecord),
    /// By ARN.
    DeleteOidcProvider(String),
    PutService(ServiceRecord),
    DeleteService(ServiceName),
    PutSessionKey(SessionKeyRecord),
    DeleteSessionKey(String),
    PutRevokedSession(RevokedSessionRecord),
    DeleteRevokedSession(String),
    PutGrant(GrantRecord),
    DeleteGrant(KeyId, GrantId),
    PutAuditKey(AuditKeyRecord),
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store at `{0}` does not exist: run `hsm-bridge init` first")]
    Missing(PathBuf),
    #[error("the store at `{0}` exists already")]
    Exists(PathBuf),
    #[error("the store at `{path}` is locked by process {pid}")]
    Locked { path: PathBuf, pid: String },
    /// A row was edited, removed, swapped or is older than the head says.
    #[error("the store was changed behind the service: {0}")]
    Tampered(String),
    #[error("the store's schema {found} is newer than this program knows ({known})")]
    NewerSchema { found: i64, known: i64 },
    #[error("the store key does not open under this token: {0}")]
    Wrap(String),
    /// The officer's key that should get a copy of the store key.
    #[error("the recovery key is not an RSA public key of 2048 bits or more in PEM: {0}")]
    RecoveryKey(String),
    #[error("the backup `{path}` cannot be restored: {reason}")]
    Backup { path: PathBuf, reason: String },
    /// A deployment record with an id that is not the store's own.
    #[error("the record is of deployment `{found}`, this store is `{own}`")]
    OtherDeployment { found: String, own: String },
    /// RULE SP 800-38D §8.3: a bound on seals under one key.
    #[error("the store key has sealed {seals} records, its limit: it must be replaced")]
    Exhausted { seals: u64 },
    #[error("store: {0}")]
    Sql(String),
    #[error("store: {0}")]
    Io(String),
}

/// What a transaction's closure says: the writes, and a value for the caller.
pub type Decision<T, E> = Result<(Vec<Write>, T), E>;

#[derive(Debug)]
pub enum UpdateError<E> {
    /// The closure refused; nothing was written.
    Refused(E),
    /// Nothing was written.
    Failed(StoreError),
}

/// Facts of a backup, as `store backup` prints them.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct BackupFacts {
    pub path: PathBuf,
    pub version: u64,
    pub keys: u64,
    pub aliases: u64,
    pub bytes: u64,
}

/// Where the files are: `<state>/store/`.
pub fn database_path(state_dir: &Path) -> PathBuf {
    state_dir.join("store").join("store.sqlite")
}
