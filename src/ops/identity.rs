//! Access keys and users: made by the operator, looked up by authn at every request. Secrets are sealed under a token key
//! and leave this folder once, on their way to the terminal.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::authn::federation::{self, KeyLocation, OidcProvider, Providers};
use crate::authn::{self, Credential, Directory, Holder, Principal, SessionClaims, SessionKeyId};
use crate::ids::{AccessKeyId, AccountId, UserName};
use crate::keystore::{CallContext, KeyRef, SystemKey, Token};
use crate::ops::{
    AccessKeyLine, Context, Effects, OpError, OperatorResponse, Ops, ShownOnce, operator::date, sealed, token_error,
};
use crate::secret::{SecretBytes, SecretString};
use crate::store::{AccessKeyRecord, KeySource, Owner, Policies, Snapshot, UserRecord, Write, root_path};

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
        Owner::Root => Some(Principal::Root),
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
    /// The user is made with its first key.
    pub(super) async fn create_access_key(
        &self,
        user: Option<&UserName>,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        let account = self.locality.account.clone();
        let call = self.call(ctx);
        let snapshot = self.store.snapshot();
        let (owner, principal, new_user) = match user {
            None => (Owner::Root, Principal::Root, None),
            Some(name) => {
                let known = snapshot.user(&account, name).cloned();
                let user = match &known {
                    Some(user) => user.as_ref().clone(),
                    None => UserRecord {
                        name: name.clone(),
                        account: account.clone(),
                        user_id: authn::new_user_id(random_id()?),
                        created: ctx.now,
                        path: root_path(),
                        tags: Vec::new(),
                        groups: Vec::new(),
                        policies: Policies::default(),
                        boundary: None,
                    },
                };
                let principal =
                    Principal::User { name: name.clone(), path: user.path.clone(), user_id: user.user_id.clone() };
                (Owner::User(name.clone()), principal, known.is_none().then_some(user))
            }
        };
        let (record, secret) =
            make_access_key(self.keystore.token(), &call, &account, owner, &principal, ctx.now).await?;
        let (id, shown) = (record.id.clone(), owner_text(&record.owner));
        let ((), version) = self
            .change(ctx, move |snapshot| {
                let mut writes = Vec::new();
                if let Some(user) = new_user {
                    // Made by another command meanwhile: its id is another, and the secret would not open.
                    if snapshot.user(&user.account, &user.name).is_some() {
                        return Err(OpError::Throttled);
                    }
                    writes.push(Write::PutUser(user));
                }
                writes.push(Write::PutAccessKey(record));
                Ok((writes, ()))
            })
            .await?;
        effects.store_version = Some(version);
        effects.details = Some(serde_json::json!({ "accessKeyId": id, "owner": shown }));
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

    /// Takes effect on the next request: authn looks the state up each time.
    pub(super) async fn disable_access_key(
        &self,
        id: &AccessKeyId,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        let wanted = id.clone();
        let ((), version) = self
            .change(ctx, move |snapshot| {
                let record = snapshot
                    .access_keys
                    .get(&wanted)
                    .ok_or_else(|| OpError::Validation(format!("there is no access key `{wanted}`")))?;
                let mut record = record.as_ref().clone();
                record.active = false;
                Ok((vec![Write::PutAccessKey(record)], ()))
            })
            .await?;
        effects.store_version = Some(version);
        effects.details = Some(serde_json::json!({ "accessKeyId": id }));
        Ok(OperatorResponse::AccessKeyDisabled { id: id.clone() })
    }
}

fn owner_text(owner: &Owner) -> String {
    match owner {
        Owner::Root => "root".to_owned(),
        Owner::User(name) => format!("user/{name}"),
        Owner::Service(name) => name.to_string(),
    }
}

fn random_id() -> Result<[u8; 11], OpError> {
    let mut random = [0u8; 11];
    getrandom::fill(&mut random).map_err(|e| OpError::Internal(format!("no randomness: {e}")))?;
    Ok(random)
}
