//! Access keys and users: made by the operator, looked up by authn at every request. Secrets are sealed under a token key
//! and leave this folder once, on their way to the terminal.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::authn::federation::{self, KeyLocation, OidcProvider, Providers};
use crate::authn::{
    self, Credential, Directory, EndCaller, Holder, NotForThem, Principal, SessionClaims, SessionKeyId,
};
use crate::ids::{AccessKeyId, AccountId, ServiceName, UserName};
use crate::keystore::{CallContext, KeyRef, SystemKey, Token};
use crate::ops::iam::{self, IamChange, UserSpec};
use crate::ops::{
    AccessKeyLine, Context, Effects, OpError, OperatorResponse, Ops, ShownOnce, behalf, operator::date, sealed,
    token_error,
};
use crate::secret::{SecretBytes, SecretString};
use crate::store::{AccessKeyRecord, KeySource, Owner, Snapshot, Write, root_path};

const KEYS_PER_OWNER: usize = 2;

/// The access keys of one snapshot, as authn sees them.
pub struct SnapshotDirectory(pub Arc<Snapshot>);

impl Directory for SnapshotDirectory {
    fn credential(&self, id: &AccessKeyId) -> Option<Credential> {
        let record = self.0.access_keys.get(id)?;
        Some(Credential {
            id: record.id.clone(),
            account: record.account.clone(),
            active: record.active,
            principal: principal(&record.owner, &record.account, &self.0)?,
            wrapped_secret: record.wrapped_secret.as_slice().into(),
            created: record.created,
        })
    }

    fn end_caller(&self, service: &ServiceName, named: &str) -> Result<EndCaller, NotForThem> {
        behalf::by_arn(&self.0, service, named)
    }

    fn acts_for(&self, service: &ServiceName, account: &AccountId, arns: &[&str]) -> bool {
        self.0.services.get(service).is_some_and(|record| behalf::covers(record, account, arns))
    }

    // RULE AWS: a session of GetSessionToken or GetFederationToken outlives the access key it was got with, not its user.
    fn holder(&self, claims: &SessionClaims) -> Option<Principal> {
        let (snapshot, account) = (&self.0, &claims.account);
        let key = claims.access_key.as_str();
        if !snapshot.has_account(account) || snapshot.revoked_sessions.contains_key(key) {
            return None;
        }
        let user = |id: &str, name| snapshot.user(account, name).filter(|user| user.user_id == id);
        match &claims.holder {
            Holder::Root => {
                let enabled = snapshot.accounts.get(account).is_none_or(|account| account.root_enabled);
                enabled.then_some(Principal::Root)
            }
            Holder::User { id, name } => {
                let user = user(id, name)?;
                Some(Principal::User { name: name.clone(), path: user.path.clone(), user_id: id.clone() })
            }
            Holder::Federated { name, id, user: user_name } => {
                let user = user(id, user_name)?;
                Some(Principal::FederatedUser {
                    name: name.clone(),
                    user: user_name.clone(),
                    user_path: user.path.clone(),
                    user_id: id.clone(),
                })
            }
            Holder::Role { id, name, session } => {
                let role = snapshot.role(account, name).filter(|role| role.role_id == *id)?;
                let revoked = role.sessions_revoked_before.is_some_and(|before| claims.issued < before);
                (!revoked).then(|| Principal::AssumedRole {
                    role: name.clone(),
                    path: role.path.clone(),
                    role_id: id.clone(),
                    session_name: session.clone(),
                })
            }
        }
    }

    fn has_session_key(&self, id: SessionKeyId) -> bool {
        self.0.session_keys.contains_key(&id.to_string())
    }
}

/// A key whose user is gone has no principal and does not verify.
fn principal(owner: &Owner, account: &AccountId, snapshot: &Snapshot) -> Option<Principal> {
    match owner {
        // RULE authorization.md §4.1: a root user that is disabled is nobody, and so is one of no account of ours.
        Owner::Root => {
            let enabled = match snapshot.accounts.get(account) {
                Some(record) => record.root_enabled,
                None => snapshot.has_account(account),
            };
            enabled.then_some(Principal::Root)
        }
        Owner::User(name) => {
            let user = snapshot.user(account, name)?;
            Some(Principal::User { name: name.clone(), path: user.path.clone(), user_id: user.user_id.clone() })
        }
        Owner::Service(name) => {
            let service = snapshot.services.get(name)?;
            Some(Principal::Service { name: name.clone(), service_id: service.service_id.clone() })
        }
    }
}

/// The identity providers of one snapshot, as authn sees them.
pub struct SnapshotProviders(pub Arc<Snapshot>);

impl Providers for SnapshotProviders {
    fn oidc(&self, account: &AccountId, issuer: &str) -> Option<Arc<OidcProvider>> {
        let record = self.0.oidc_providers.get(&OidcProvider::arn_of(account, issuer))?;
        // A name that a later version knows is no algorithm of this one.
        let algorithms = record.algorithms.iter().filter_map(|name| name.parse().ok()).collect();
        let keys = match &record.keys {
            KeySource::Static { jwks } => federation::KeySource::Given(jwks.as_str().into()),
            KeySource::Fetched { url, ca } => federation::KeySource::Fetched(KeyLocation {
                issuer: record.url.clone(),
                jwks_url: Some(url.clone()),
                ca: ca.as_deref().map(Arc::from),
            }),
        };
        Some(Arc::new(OidcProvider {
            arn: record.arn.clone(),
            url: record.url.clone(),
            client_ids: record.client_ids.clone(),
            algorithms,
            keys,
        }))
    }
}

/// Opens a sealed secret with the token key `hsm-bridge/iam-wrap`. Errors are for the log.
pub(super) async fn open_access_key(
    token: &Token,
    credential: &Credential,
    within: Duration,
) -> Result<SecretString, String> {
    let (iv, sealed) = sealed::split(&credential.wrapped_secret)
        .ok_or_else(|| format!("the sealed secret of {} is too short", credential.id))?;
    let aad = authn::seal_aad(&credential.id, &credential.account, credential.principal.owner());
    let call = CallContext {
        principal: credential.id.as_str().into(),
        deadline: Instant::now() + within,
        request_id: "open-secret".into(),
    };
    let key = KeyRef::System(SystemKey::IamWrap);
    let done =
        token.decrypt(&call, &key, iv.to_vec(), aad, sealed.to_vec()).await.map_err(|error| error.to_string())?;
    match std::str::from_utf8(done.value.expose()) {
        Ok(secret) => Ok(SecretString::new(secret.to_owned())),
        Err(_) => Err(format!("the secret of {} is no text", credential.id)),
    }
}

/// A new access key with its secret sealed by the token; the secret itself is for the terminal.
pub async fn make_access_key(
    token: &Token,
    call: &CallContext,
    account: &AccountId,
    owner: Owner,
    principal: &Principal,
    now: i64,
) -> Result<(AccessKeyRecord, SecretString), OpError> {
    let failed = |error| token_error(error, "hsm-bridge/iam-wrap");
    let short = || OpError::Internal("the token gave too few random bytes".to_owned());
    let random = token.random(call, 40).await.map_err(failed)?.value;
    let (for_id, for_secret) = random.expose().split_first_chunk::<10>().ok_or_else(short)?;
    let for_secret = for_secret.first_chunk::<30>().ok_or_else(short)?;
    let id = authn::new_access_key_id(*for_id);
    let secret = authn::new_secret(*for_secret);
    let aad = authn::seal_aad(&id, account, principal.owner());
    let plaintext = SecretBytes::new(secret.expose().as_bytes().to_vec());
    let done = token.encrypt(call, &KeyRef::System(SystemKey::IamWrap), aad, plaintext).await.map_err(failed)?;
    let record = AccessKeyRecord {
        id,
        account: account.clone(),
        owner,
        active: true,
        created: now,
        wrapped_secret: sealed::join(done.value).map_err(OpError::Internal)?,
        last_used: None,
    };
    Ok((record, secret))
}

impl Ops {
    /// `access-key create`: the user is made with its first key.
    pub(super) async fn create_access_key(
        &self,
        user: Option<&UserName>,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        let account = self.locality.account.clone();
        let snapshot = self.store.snapshot();
        let new_user = user.filter(|name| snapshot.user(&account, name).is_none()).map(|name| UserSpec {
            account: account.clone(),
            name: name.clone(),
            path: root_path(),
            tags: Vec::new(),
            groups: Vec::new(),
            attached: Vec::new(),
            inline: Default::default(),
            boundary: None,
        });
        let made = match new_user {
            None => Vec::new(),
            Some(spec) => iam::writes(&snapshot, &IamChange::PutUser(spec), ctx.now, &mut iam::new_id)?,
        };
        let owner = user.map_or(Owner::Root, |name| Owner::User(name.clone()));
        self.new_access_key(account, owner, made, ctx, effects).await
    }

    /// `iam access-key create`: for a user or service that is there; for the root user where neither is named.
    pub(super) async fn create_access_key_of(
        &self,
        account: &AccountId,
        user: Option<&UserName>,
        service: Option<&ServiceName>,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        let owner = match (user, service) {
            (Some(name), None) => Owner::User(name.clone()),
            (None, Some(name)) => Owner::Service(name.clone()),
            (None, None) => Owner::Root,
            (Some(_), Some(_)) => {
                return Err(OpError::Validation("an access key is a user's or a service's, not both's".to_owned()));
            }
        };
        self.new_access_key(account.clone(), owner, Vec::new(), ctx, effects).await
    }

    /// `made`: what makes the owner, if it is new.
    async fn new_access_key(
        &self,
        account: AccountId,
        owner: Owner,
        made: Vec<Write>,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        let mut snapshot = self.store.snapshot().as_ref().clone();
        made.iter().for_each(|write| snapshot.apply(write.clone()));
        let principal = may_have_another_key(&snapshot, &account, &owner)?;
        let token = self.keystore.token();
        let (record, secret) =
            make_access_key(token, &self.call(ctx), &account, owner.clone(), &principal, ctx.now).await?;
        let (id, shown) = (record.id.clone(), owner_text(&owner));
        let ((), version) = self
            .change(ctx, move |snapshot| {
                let mut after = snapshot.clone();
                for write in &made {
                    if let Write::PutUser(user) = write {
                        // Made by another command meanwhile: its id is another, and the secret would not open.
                        if snapshot.user(&user.account, &user.name).is_some() {
                            return Err(OpError::Throttled);
                        }
                    }
                    after.apply(write.clone());
                }
                // Deleted, or deleted and made again, while the token worked: the secret is bound to whom it was made for.
                if may_have_another_key(&after, &account, &owner)?.owner() != principal.owner() {
                    return Err(OpError::Throttled);
                }
                let mut writes = made;
                writes.push(Write::PutAccessKey(record));
                Ok((writes, ()))
            })
            .await?;
        effects.store_version = Some(version);
        effects.details = Some(json!({ "accessKeyId": id, "owner": shown }));
        Ok(OperatorResponse::AccessKeyCreated { id, secret: ShownOnce(secret), owner: shown })
    }

    pub(super) fn list_access_keys(&self, snapshot: &Snapshot) -> OperatorResponse {
        let mut keys: Vec<AccessKeyLine> = snapshot
            .access_keys
            .iter()
            .map(|(id, record)| AccessKeyLine {
                id: id.clone(),
                owner: owner_text(&record.owner),
                status: if record.active { "Active" } else { "Inactive" }.to_owned(),
                created: date(record.created),
            })
            .collect();
        keys.sort_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)));
        OperatorResponse::AccessKeys { keys }
    }

    /// `access-key disable`
    pub(super) async fn disable_access_key(
        &self,
        id: &AccessKeyId,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        self.update_access_key(id, false, ctx, effects).await?;
        Ok(OperatorResponse::AccessKeyDisabled { id: id.clone() })
    }

    /// Takes effect on the next request: authn looks the state up each time.
    pub(super) async fn update_access_key(
        &self,
        id: &AccessKeyId,
        active: bool,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Value, OpError> {
        let wanted = id.clone();
        let (owner, version) = self
            .change(ctx, move |snapshot| {
                let mut record = existing_key(snapshot, &wanted)?;
                record.active = active;
                let owner = owner_text(&record.owner);
                Ok((vec![Write::PutAccessKey(record)], owner))
            })
            .await?;
        let status = if active { "Active" } else { "Inactive" };
        effects.store_version = Some(version);
        effects.details = Some(json!({ "accessKeyId": id, "owner": owner, "status": status }));
        effects.forget.push(id.clone());
        Ok(json!({ "AccessKey": { "AccessKeyId": id, "Owner": owner, "Status": status } }))
    }

    pub(super) async fn delete_access_key(
        &self,
        id: &AccessKeyId,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Value, OpError> {
        let wanted = id.clone();
        let (owner, version) = self
            .change(ctx, move |snapshot| {
                let owner = owner_text(&existing_key(snapshot, &wanted)?.owner);
                Ok((vec![Write::DeleteAccessKey(wanted)], owner))
            })
            .await?;
        effects.store_version = Some(version);
        effects.details = Some(json!({ "accessKeyId": id, "owner": owner, "status": "Deleted" }));
        effects.forget.push(id.clone());
        Ok(json!({ "AccessKey": { "AccessKeyId": id, "Owner": owner, "Status": "Deleted" } }))
    }
}

/// The owner of a new access key as a principal, if it is there and has fewer than two.
fn may_have_another_key(snapshot: &Snapshot, account: &AccountId, owner: &Owner) -> Result<Principal, OpError> {
    if !snapshot.has_account(account) {
        return Err(OpError::Validation(format!("there is no account {account}")));
    }
    let principal = match owner {
        Owner::Root => Principal::Root,
        Owner::User(name) => {
            let user = snapshot.user(account, name);
            let user =
                user.ok_or_else(|| OpError::Validation(format!("The user with name {name} cannot be found.")))?;
            Principal::User { name: name.clone(), path: user.path.clone(), user_id: user.user_id.clone() }
        }
        Owner::Service(name) => {
            let service = snapshot.services.get(name).filter(|service| service.account == *account);
            let service = service
                .ok_or_else(|| OpError::Validation(format!("there is no service {name} in account {account}")))?;
            Principal::Service { name: name.clone(), service_id: service.service_id.clone() }
        }
    };
    let keys = snapshot.access_keys_of.get(&(account.clone(), owner.clone())).map_or(0, Vec::len);
    // RULE IAM quotas: two, so that one can take the other's place.
    if keys >= KEYS_PER_OWNER {
        let quota = match owner {
            Owner::Root => "AccessKeysPerAccount",
            Owner::User(_) => "AccessKeysPerUser",
            Owner::Service(_) => "AccessKeysPerService",
        };
        return Err(OpError::LimitExceeded(format!("Cannot exceed quota for {quota}: {KEYS_PER_OWNER}")));
    }
    Ok(principal)
}

fn existing_key(snapshot: &Snapshot, id: &AccessKeyId) -> Result<AccessKeyRecord, OpError> {
    let record = snapshot.access_keys.get(id).map(|record| record.as_ref().clone());
    record.ok_or_else(|| OpError::Validation(format!("there is no access key `{id}`")))
}

fn owner_text(owner: &Owner) -> String {
    match owner {
        Owner::Root => "root".to_owned(),
        Owner::User(name) => format!("user/{name}"),
        Owner::Service(name) => name.to_string(),
    }
}
