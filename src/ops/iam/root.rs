//! The root user of an account: the bootstrap administrator, refused once somebody else administers. Source:
//! authorization.md §4.1.

use serde_json::{Value, json};

use super::query::account_record;
use super::shown;
use crate::authn::{Caller, Principal};
use crate::authz::evaluate::evaluate;
use crate::authz::{Check, Environment, Identity, Resource, with_question};
use crate::ids::{AccountId, Locality};
use crate::ops::{Context, Effects, OpError, Ops};
use crate::store::{KeyRecord, Lifecycle, Owner, Snapshot, UserRecord, Write};

impl Ops {
    /// From the next request on.
    pub(super) async fn set_root(
        &self,
        account: Option<&AccountId>,
        enabled: bool,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Value, OpError> {
        let account = self.iam_account(account);
        let (locality, now) = (self.locality.of(&account), ctx.now);
        let ((record, keys), version) = self
            .change(ctx, move |snapshot| {
                let record = account_record(snapshot, &account);
                let mut record = record.ok_or_else(|| OpError::Validation(format!("there is no account {account}")))?;
                if record.root_enabled && !enabled {
                    replaceable(snapshot, &locality, now)?;
                }
                record.root_enabled = enabled;
                let keys = snapshot.access_keys_of.get(&(account, Owner::Root)).cloned().unwrap_or_default();
                Ok((vec![Write::PutAccount(record.clone())], (record, keys)))
            })
            .await?;
        effects.store_version = Some(version);
        effects.details = Some(json!({ "account": record.id, "rootEnabled": record.root_enabled }));
        effects.forget.extend(keys);
        Ok(json!({ "Account": shown::account(&record) }))
    }
}

/// Another administrator: a user of the account with an active access key, whom its policies allow kms:CreateKey; and every
/// key that root may manage has one who may call kms:PutKeyPolicy on it. Roles do not count: whether somebody gets at one
/// depends on more than is known here.
fn replaceable(snapshot: &Snapshot, here: &Locality, now: i64) -> Result<(), OpError> {
    let account = &here.account;
    let users = snapshot.users.values().filter(|user| user.account == *account && has_active_key(snapshot, user));
    let callers: Vec<Caller> = users.map(|user| supposed(user)).collect();
    let asked = Asked { snapshot, here, now };
    let administrators: Vec<&Caller> = callers.iter().filter(|caller| asked.may_create_keys(caller)).collect();
    if administrators.is_empty() {
        return Err(OpError::Validation(format!(
            "root of account {account} is its only administrator. Make another one first: a user with an access key whose \
             policies allow kms:CreateKey and kms:PutKeyPolicy (`iam user create admin`, `iam user attach-policy admin \
             AdministratorAccess`, `iam access-key create --user admin`)"
        )));
    }
    let root = Caller::supposed(Principal::Root, account.clone());
    for key in snapshot.keys.values().filter(|key| key.account == *account && is_managed_by_people(key)) {
        let may = |caller: &Caller| asked.may_put_policy(caller, key);
        if may(&root) && !administrators.iter().any(|caller| may(caller)) {
            let arn = here.key_arn(&key.id);
            return Err(OpError::Validation(format!(
                "root of account {account} is the only one who may change the policy of {arn}: let another administrator \
                 do it first (kms:PutKeyPolicy)"
            )));
        }
    }
    Ok(())
}

fn has_active_key(snapshot: &Snapshot, user: &UserRecord) -> bool {
    let keys = snapshot.access_keys_of.get(&(user.account.clone(), Owner::User(user.name.clone())));
    keys.into_iter().flatten().any(|id| snapshot.access_keys.get(id).is_some_and(|key| key.active))
}

fn supposed(user: &UserRecord) -> Caller {
    let principal = Principal::User { name: user.name.clone(), path: user.path.clone(), user_id: user.user_id.clone() };
    Caller::supposed(principal, user.account.clone())
}

fn is_managed_by_people(key: &KeyRecord) -> bool {
    key.managed_by.is_none() && !matches!(key.lifecycle, Lifecycle::Creating | Lifecycle::Deleting)
}

/// Questions to the evaluator about somebody who did not ask.
struct Asked<'a> {
    snapshot: &'a Snapshot,
    here: &'a Locality,
    now: i64,
}

impl Asked<'_> {
    fn may_create_keys(&self, caller: &Caller) -> bool {
        self.may(caller, &Check::new("kms:CreateKey", Resource::Any))
    }

    fn may_put_policy(&self, caller: &Caller, key: &std::sync::Arc<KeyRecord>) -> bool {
        let arn = self.here.key_arn(&key.id);
        self.may(caller, &Check::new("kms:PutKeyPolicy", Resource::Key { arn: &arn, record: key }))
    }

    /// What cannot be told is "no".
    fn may(&self, caller: &Caller, check: &Check<'_>) -> bool {
        let environment = Environment {
            now: self.now,
            source_ip: None,
            secure_transport: true,
            user_agent: None,
            region: self.here.region.clone(),
        };
        let Ok(identity) = Identity::of(caller, self.snapshot) else { return false };
        with_question(&identity, check, self.snapshot, &environment, true, |question| evaluate(question).allowed)
            .unwrap_or(false)
    }
}
