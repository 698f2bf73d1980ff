//! What each operation does, on values that were resolved once and permitted. Knows no HTTP, no JSON of callers, no
//! PKCS#11 and no SQL.

mod aliases;
mod attributes;
mod audit_context;
pub mod audit_keys;
mod behalf;
pub mod ciphertext;
pub mod clock;
mod crypto;
pub mod effective;
pub mod error;
mod grants;
pub mod iam;
pub mod identity;
mod key_create;
mod key_policy;
mod key_stores;
mod keys;
mod last_use;
mod managed;
mod marker;
mod officer;
pub mod operation;
mod operator;
pub mod principals;
mod requests;
pub mod resolve;
mod responses;
mod rotation;
mod rotation_report;
mod sealed;
pub mod settle;
mod signing;
mod simulate;
pub mod state;
pub mod store_key;
pub mod sts;
pub mod task;
pub mod trail;
mod usage;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::authz::Permit;
use crate::ids::{AccountId, ClusterId, GrantId, KeyStoreId, Locality};
use crate::keystore::{CallContext, ErrorClass, Facts, KeyStores, Token, TokenError};
use crate::store::{Store, StoreError, UpdateError};

pub use crate::keystore::Facts as HsmUse;
pub use crate::store::{GrantConstraints, GrantPrincipal, GrantRecord};
pub use audit_context::ContextForm;
pub use audit_keys::*;
pub use clock::ClockWatch;
pub use error::OpError;
pub use iam::*;
pub use key_policy::default_policy;
pub use last_use::{KeyUse, LastUses, USES};
pub use managed::{FirstUse, ManagedKey};
pub use officer::{AUDIT_HEAD, ReadPin};
pub use operation::{Operation, Service};
pub use operator::RESTORED_DELETIONS_WAIT_MS;
pub use requests::*;
pub use resolve::{Resolved, Subject};
pub use responses::*;
pub use sts::*;
pub use task::*;
pub use trail::*;
pub use usage::{BudgetUse, DEFAULT_LIMIT as DEFAULT_GCM_LIMIT};

use grants::GrantTokenKey;
use marker::Markers;
use resolve::KeyTarget;
use usage::Budgets;

/// A day in milliseconds.
const DAY_MS: i64 = 86_400_000;

/// The operations and what they work on.
pub struct Ops {
    store: Store,
    keystore: KeyStores,
    locality: Locality,
    markers: Markers,
    grant_tokens: GrantTokenKey,
    budgets: Budgets,
    clock: Arc<ClockWatch>,
    last_uses: Arc<LastUses>,
    access_key_uses: AccessKeyUses,
    generate_deadline: Duration,
    custom_store_key_specs: Vec<crate::ids::spec::KeySpec>,
    /// Key policies may name accounts that this bridge does not serve.
    allow_unknown_accounts: bool,
    /// As in `authz::Rules`, for simulations.
    grants_suffice_cross_account: bool,
    rotation: RotationSettings,
    /// One rotation at a time: whoever comes second finds what the first one did.
    rotating: tokio::sync::Mutex<()>,
    /// One AWS managed key at a time: whoever comes second finds the first one's.
    first_use: tokio::sync::Mutex<()>,
    /// Keys with a change whose outcome is not settled: their changes are refused, their use goes on.
    unsettled: arc_swap::ArcSwap<std::collections::BTreeSet<crate::ids::KeyId>>,
    /// Who reads PINs for `token pin`.
    pins: std::sync::OnceLock<Box<dyn ReadPin>>,
    /// How records show encryption contexts.
    contexts: std::sync::OnceLock<ContextForm>,
    /// Who answers questions about the log.
    audit_office: std::sync::OnceLock<Box<dyn AuditOffice>>,
    /// The tokens' objects as last seen.
    watched: officer::watch::Watched,
    /// Who keeps the trail's own keys.
    audit_keys: std::sync::OnceLock<Box<dyn AuditKeyOffice>>,
    /// Who deletes old files of the log.
    audit_keeper: std::sync::OnceLock<Box<dyn AuditKeeper>>,
    session_keys: Arc<SessionKeys>,
    /// Requests whose outcome is recorded and whose marker may go.
    finished: std::sync::Mutex<Vec<String>>,
    /// Told when a backup was put back.
    restored: tokio::sync::Notify,
    /// What requests in work have changed, until their outcome is recorded.
    changed: std::sync::Mutex<std::collections::HashMap<String, state::Parts>>,
}

/// What one task runs with. Time is a parameter.
#[derive(Debug, Clone)]
pub struct Context {
    /// Where a long operation says how far it is.
    pub progress: Option<Arc<Progress>>,
    pub request_id: Arc<str>,
    /// For fairness between principals.
    pub principal: Arc<str>,
    /// The caller's: what it makes and lists is there.
    pub account: AccountId,
    /// Milliseconds since the epoch.
    pub now: i64,
    pub deadline: Instant,
}

/// How far a long operation is; read by whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    pub done: std::sync::atomic::AtomicU64,
    /// 0: not known yet.
    pub total: std::sync::atomic::AtomicU64,
}

/// What the audit record says beyond the answer.
#[derive(Debug, Clone, Default)]
pub struct Effects {
    pub hsm: Option<Facts>,
    /// The token's refusal: C function and return value, by name.
    pub refused: Option<(&'static str, String)>,
    pub key_material_id: Option<Arc<str>>,
    pub source_key_material_id: Option<Arc<str>>,
    pub destination_key_material_id: Option<Arc<str>>,
    /// The store's version after the change.
    pub store_version: Option<u64>,
    /// Of a custom key store and what is in it.
    pub key_store: Option<KeyStoreFacts>,
    /// The grant that was retired: a token in the request does not tell it.
    pub grant: Option<GrantId>,
    /// Access keys that are refused from now on: what was derived from their secrets is of no use any more.
    pub forget: Vec<crate::ids::AccessKeyId>,
    /// Facts of a service event or an operator's call.
    pub details: Option<serde_json::Value>,
    /// What became different of keys, identities and tokens (`state`).
    pub state_change: Option<serde_json::Value>,
}

/// CloudTrail's members about a custom key store. The last three are JSON in a string, as AWS has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyStoreFacts {
    pub id: Option<KeyStoreId>,
    pub name: Option<String>,
    pub cluster: Option<ClusterId>,
    pub backing_key: Option<String>,
    pub backing_keys: Option<String>,
    pub deletion_status: Option<String>,
}

/// An outcome with its effects; an error may have effects too (a token call that failed).
#[derive(Debug)]
pub struct Acted {
    pub result: Result<Answer, OpError>,
    pub effects: Effects,
}

pub struct Settings {
    /// Milliseconds since the epoch.
    pub now: i64,
    pub locality: Locality,
    /// Encryptions under one AES key at most (SP 800-38D §8.3: 2^32 with random IVs).
    pub gcm_limit: u64,
    pub generate_deadline: Duration,
    /// Key specs beyond SYMMETRIC_DEFAULT for custom key stores.
    pub custom_store_key_specs: Vec<crate::ids::spec::KeySpec>,
    /// Key policies may name accounts that this bridge does not serve.
    pub allow_unknown_accounts: bool,
    /// As in `authz::Rules`, for simulations.
    pub grants_suffice_cross_account: bool,
    pub rotation: RotationSettings,
}

/// `[rotation]` of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct RotationSettings {
    /// For Decrypt and ReEncrypt's source an alias also means the keys of its history.
    pub alias_history_decrypts: bool,
    /// Share of the GCM budget, in thousandths.
    pub at_usage: Option<u32>,
    pub max_age_days: u32,
    pub retire_unused_days: u32,
}

impl Ops {
    pub fn new(store: Store, keystore: KeyStores, clock: Arc<ClockWatch>, settings: Settings) -> Result<Self, OpError> {
        let markers = Markers::new(&store.derive("list-marker"))?;
        let grant_tokens = GrantTokenKey::new(&store.derive("grant-token"));
        let session_keys = Arc::new(SessionKeys::new(store.clone(), keystore.token().clone()));
        let budgets = Budgets::new(store.clone(), settings.gcm_limit, settings.rotation.at_usage);
        Ok(Self {
            store,
            keystore,
            locality: settings.locality,
            markers,
            grant_tokens,
            budgets,
            clock,
            last_uses: Arc::new(LastUses::new(settings.now)),
            access_key_uses: AccessKeyUses::default(),
            generate_deadline: settings.generate_deadline,
            custom_store_key_specs: settings.custom_store_key_specs,
            allow_unknown_accounts: settings.allow_unknown_accounts,
            grants_suffice_cross_account: settings.grants_suffice_cross_account,
            rotation: settings.rotation,
            rotating: tokio::sync::Mutex::default(),
            first_use: tokio::sync::Mutex::default(),
            unsettled: arc_swap::ArcSwap::default(),
            pins: std::sync::OnceLock::new(),
            contexts: std::sync::OnceLock::new(),
            audit_office: std::sync::OnceLock::new(),
            watched: officer::watch::Watched::default(),
            audit_keys: std::sync::OnceLock::new(),
            audit_keeper: std::sync::OnceLock::new(),
            session_keys,
            finished: std::sync::Mutex::default(),
            restored: tokio::sync::Notify::new(),
            changed: std::sync::Mutex::default(),
        })
    }

    /// Comes back when a backup was put back: no record says what became different.
    pub async fn a_store_was_restored(&self) {
        self.restored.notified().await;
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn keystore(&self) -> &KeyStores {
        &self.keystore
    }

    pub fn locality(&self) -> &Locality {
        &self.locality
    }

    pub fn clock(&self) -> &Arc<ClockWatch> {
        &self.clock
    }

    pub fn budget_use(&self) -> BudgetUse {
        self.budgets.in_use(&self.store.snapshot())
    }

    /// Does what was permitted: state, usage, DryRun, then the token or the store.
    pub async fn act(&self, permit: &Permit<Resolved>, ctx: &Context) -> Acted {
        let mut effects = Effects::default();
        let resolved = permit.resolved();
        let result = match resolved.task() {
            Task::Kms(request) => {
                effects.key_store = self.store_used(request, resolved.subject());
                let own = self.within_deadline(resolved.subject(), ctx);
                let done = self.kms(request, permit, own.as_ref().unwrap_or(ctx), &mut effects).await;
                done.map(Answer::Kms)
                    .map_err(|error| self.told_of_disconnect(error, &ctx.account, request, resolved.subject()))
            }
            // Boxed: its state is six times that of all others, and would be part of every request's.
            Task::Operator(request) => Box::pin(self.operator(request, permit.caller(), resolved, ctx, &mut effects))
                .await
                .map(Answer::Operator),
            Task::Sts(request) => Box::pin(self.sts(request, permit.caller(), resolved, ctx)).await.map(Answer::Sts),
            // Nothing is looked up: the front opens it once the record of that is on disk.
            Task::Audit(AuditRequest::Stream(request)) => Ok(Answer::Audit(request.opened())),
            Task::Audit(request) => Box::pin(self.audit_call(request, ctx, &mut effects)).await.map(Answer::Audit),
            Task::Timer(TimerRequest::DeleteKey { key }) => self
                .destroy_key(key, resolved.key_arn().unwrap_or_default(), ctx, &mut effects)
                .await
                .map(|()| Answer::Timer),
            Task::Timer(TimerRequest::ConnectKeyStore { id }) => {
                Box::pin(self.connect_now(id, ctx, &mut effects)).await.map(|()| Answer::Timer)
            }
            Task::Timer(TimerRequest::MakeManagedKey(wanted)) => {
                Box::pin(self.make_managed_key(wanted, resolved, ctx, &mut effects)).await.map(|()| Answer::Timer)
            }
            Task::Timer(TimerRequest::SessionKeys) => {
                Box::pin(self.keep_session_keys(ctx, &mut effects)).await.map(|()| Answer::Timer)
            }
            Task::Timer(TimerRequest::Rotate { .. }) => {
                Box::pin(self.rotate_by_timer(resolved, ctx, &mut effects)).await.map(|()| Answer::Timer)
            }
        };
        effects.state_change = self.state_change(&ctx.request_id);
        Acted { result, effects }
    }

    async fn kms(
        &self,
        request: &Request,
        permit: &Permit<Resolved>,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        let resolved = permit.resolved();
        self.reachable(request, resolved.subject())?;
        match (request, resolved.subject()) {
            (Request::Unsupported { operation, reason }, _) => {
                Err(OpError::Unsupported(format!("{}: {reason}", operation.name())))
            }
            (Request::CreateKey(request), Subject::NewKey { id, arn }) => {
                self.create_key(request, *id, arn, permit, ctx, effects).await
            }
            (Request::DescribeKey { .. }, Subject::Key(key)) => Ok(Response::DescribeKey(Box::new(self.metadata(key)))),
            (Request::ListKeys { page }, _) => self.list_keys(page, &ctx.account, resolved.snapshot()),
            (Request::EnableKey { .. }, Subject::Key(key)) => self.set_enabled(key, true, ctx, effects).await,
            (Request::DisableKey { .. }, Subject::Key(key)) => self.set_enabled(key, false, ctx, effects).await,
            (Request::ScheduleKeyDeletion { pending_window_in_days, .. }, Subject::Key(key)) => {
                self.schedule_deletion(key, *pending_window_in_days, ctx, effects).await
            }
            (Request::CancelKeyDeletion { .. }, Subject::Key(key)) => self.cancel_deletion(key, ctx, effects).await,
            (Request::UpdateKeyDescription { description, .. }, Subject::Key(key)) => {
                self.update_description(key, description, ctx, effects).await
            }
            (Request::TagResource { tags, .. }, Subject::Key(key)) => self.tag(key, tags, ctx, effects).await,
            (Request::UntagResource { tag_keys, .. }, Subject::Key(key)) => {
                self.untag(key, tag_keys, ctx, effects).await
            }
            (Request::ListResourceTags { page, .. }, Subject::Key(key)) => self.list_tags(key, page),
            (Request::CreateAlias { .. }, Subject::Alias(alias)) => self.create_alias(alias, ctx, effects).await,
            (Request::UpdateAlias { .. }, Subject::Alias(alias)) => self.update_alias(alias, ctx, effects).await,
            (Request::DeleteAlias { .. }, Subject::Alias(alias)) => self.delete_alias(alias, ctx, effects).await,
            (Request::ListAliases { page, .. }, Subject::Key(key)) => {
                self.list_aliases(Some(key), page, &ctx.account, resolved.snapshot())
            }
            (Request::ListAliases { page, .. }, Subject::Account) => {
                self.list_aliases(None, page, &ctx.account, resolved.snapshot())
            }
            (Request::Encrypt { plaintext, context, algorithm, dry_run, .. }, Subject::Key(key)) => {
                self.encrypt(key, plaintext, context, *algorithm, *dry_run, ctx, effects).await
            }
            (Request::Decrypt { ciphertext, context, algorithm, dry_run, .. }, Subject::Blob { key, named, .. }) => {
                self.decrypt(key, named.as_ref(), ciphertext, context, *algorithm, *dry_run, ctx, effects).await
            }
            (Request::ReEncrypt(request), Subject::ReEncrypt { source, named, destination, .. }) => {
                self.re_encrypt(request, source, named.as_ref(), destination, ctx, effects).await
            }
            (Request::GenerateDataKey { size, context, with_plaintext, dry_run, .. }, Subject::Key(key)) => {
                self.generate_data_key(key, *size, context, *with_plaintext, *dry_run, ctx, effects).await
            }
            (Request::GenerateRandom { number_of_bytes, key_store }, _) => {
                self.random(*number_of_bytes, key_store.as_deref(), ctx, effects).await
            }
            (Request::Sign { message, message_type, algorithm, dry_run, .. }, Subject::Key(key)) => {
                self.sign(key, message, *message_type, *algorithm, *dry_run, ctx, effects).await
            }
            (Request::Verify { message, message_type, signature, algorithm, dry_run, .. }, Subject::Key(key)) => {
                self.verify(key, message, *message_type, signature, *algorithm, *dry_run)
            }
            (Request::GetPublicKey { .. }, Subject::Key(key)) => self.public_key(key),
            (Request::GenerateMac { message, algorithm, dry_run, .. }, Subject::Key(key)) => {
                self.generate_mac(key, message, *algorithm, *dry_run, ctx, effects).await
            }
            (Request::VerifyMac { message, mac, algorithm, dry_run, .. }, Subject::Key(key)) => {
                self.verify_mac(key, message, mac, *algorithm, *dry_run, ctx, effects).await
            }
            (Request::GetKeyPolicy { .. }, Subject::Key(key)) => {
                Ok(Response::GetKeyPolicy { policy: key_policy::shown(&key.record.policy, resolved.snapshot()) })
            }
            (Request::PutKeyPolicy { policy, bypass_policy_lockout_safety_check, .. }, Subject::Key(key)) => {
                let bypass = bypass_policy_lockout_safety_check.unwrap_or(false);
                self.put_policy(key, policy, bypass, permit, ctx, effects).await
            }
            (Request::ListKeyPolicies { .. }, Subject::Key(_)) => Ok(Response::ListKeyPolicies),
            (Request::GetKeyRotationStatus { .. }, Subject::Key(key)) => {
                match key.record.key_store {
                    // RULE KMS: keys in custom key stores do not rotate.
                    Some(_) => Err(OpError::WrongOrigin { arn: key.arn.clone(), origin: "AWS_CLOUDHSM" }),
                    None => Ok(Response::GetKeyRotationStatus { key_arn: key.arn.clone() }),
                }
            }
            (Request::CreateGrant(request), Subject::Key(key)) => {
                Box::pin(self.create_grant(key, request, ctx, effects)).await
            }
            (Request::ListGrants { grant, grantee, page, .. }, Subject::Key(key)) => {
                self.list_grants(key, grant.as_deref(), grantee.as_ref(), page, permit.caller(), resolved.snapshot())
            }
            (Request::ListRetirableGrants { retiring, page }, Subject::Account) => {
                self.list_retirable_grants(retiring, page, permit.caller(), resolved.snapshot())
            }
            (Request::RetireGrant(request), Subject::Grant { key, grant }) => {
                self.retire_grant(key, grant, request.dry_run, ctx, effects).await
            }
            (Request::RevokeGrant { grant, dry_run, .. }, Subject::Key(key)) => {
                self.revoke_grant(key, grant, *dry_run, ctx, effects).await
            }
            (Request::GetKeyLastUsage { .. }, Subject::Key(key)) => self.key_last_usage(key),
            (Request::CreateCustomKeyStore(request), _) => Box::pin(self.create_key_store(request, ctx, effects)).await,
            (Request::UpdateCustomKeyStore(request), _) => Box::pin(self.update_key_store(request, ctx, effects)).await,
            (Request::DescribeCustomKeyStores { id, name, page }, _) => {
                self.describe_key_stores(id.as_deref(), name.as_deref(), page, &ctx.account, resolved.snapshot())
            }
            (Request::ConnectCustomKeyStore { id }, _) => self.connect_key_store(id, ctx, effects).await,
            (Request::DisconnectCustomKeyStore { id }, _) => self.disconnect_key_store(id, ctx, effects).await,
            (Request::DeleteCustomKeyStore { id }, _) => self.delete_key_store(id, ctx, effects).await,
            (Request::RotateAlias(_), _) => Box::pin(self.rotate_alias(resolved, ctx, effects)).await,
            (Request::RefusedOnKey { operation, reason, .. }, Subject::Key(key)) => {
                Err(refused_on(key, *operation, reason))
            }
            (request, subject) => {
                Err(OpError::Internal(format!("{} was resolved to {subject:?}", request.operation().name())))
            }
        }
    }

    /// The token that holds a key, or AWS's refusal where its key store is not connected.
    fn token_of(&self, key: &KeyTarget) -> Result<Token, OpError> {
        self.keystore
            .token_of(key.record.key_store.as_ref())
            .ok_or_else(|| OpError::KeyStoreDisconnected { arn: key.arn.clone() })
    }

    fn call(&self, ctx: &Context) -> CallContext {
        CallContext { principal: ctx.principal.clone(), deadline: ctx.deadline, request_id: ctx.request_id.clone() }
    }
}

/// Import, rotation under one key id and replicas: AWS's text where the key's origin forbids it, ours where this version does.
fn refused_on(key: &KeyTarget, operation: Operation, reason: &str) -> OpError {
    let import = matches!(
        operation,
        Operation::DeleteImportedKeyMaterial | Operation::GetParametersForImport | Operation::ImportKeyMaterial
    );
    if matches!(operation, Operation::ReplicateKey | Operation::UpdatePrimaryRegion) {
        return OpError::Unsupported(format!("{} is not a multi-region primary key.", key.arn));
    }
    match (&key.record.key_store, import) {
        (Some(_), _) => OpError::WrongOrigin { arn: key.arn.clone(), origin: "AWS_CLOUDHSM" },
        (None, true) => OpError::WrongOrigin { arn: key.arn.clone(), origin: "AWS_KMS" },
        (None, false) => OpError::Unsupported(format!("{}: {reason}", operation.name())),
    }
}

impl Effects {
    /// An error of the token on a key, noted for the record.
    fn refused(&mut self, error: TokenError, arn: &str) -> OpError {
        self.refused = error.rv_name().map(|rv| (error.function, rv.into_owned()));
        token_error(error, arn)
    }
}

/// An error of the token on a key, in the domain's words.
fn token_error(error: TokenError, arn: &str) -> OpError {
    match error.class {
        ErrorClass::Data => OpError::InvalidCiphertext,
        ErrorClass::KeyMissing | ErrorClass::WrongKey => {
            tracing::error!(key = arn, %error, "the token does not hold the key that the record names");
            OpError::KeyUnavailable { arn: arn.to_owned() }
        }
        ErrorClass::Full => OpError::LimitExceeded("The token has no room for another key.".to_owned()),
        ErrorClass::Capacity => OpError::Throttled,
        ErrorClass::Deadline => OpError::DependencyTimeout(error.to_string()),
        ErrorClass::Session | ErrorClass::Context | ErrorClass::Operator => OpError::Token(error.to_string()),
        ErrorClass::Unsupported => {
            tracing::warn!(key = arn, %error, "the token refuses the mechanism");
            OpError::Unsupported("The token does not support this operation on this key.".to_owned())
        }
    }
}

fn store_error(error: StoreError) -> OpError {
    OpError::Internal(error.to_string())
}

fn update_error(error: UpdateError<OpError>) -> OpError {
    match error {
        UpdateError::Refused(error) => error,
        UpdateError::Failed(error) => store_error(error),
    }
}
