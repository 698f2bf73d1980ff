//! `iam … list` and `iam … show`.

use serde_json::{Value, json};

use super::edited::policy_named;
use super::shown::{self, Documents, set};
use super::writes::{PolicyClass, provider_arn};
use super::{IamKind, IamQuery, OWN_ACCOUNT_NAME, builtin};
use crate::ids::{AccountId, Arn, PolicyArn};
use crate::ops::OpError;
use crate::store::{AccountRecord, Owner, Snapshot};

/// `{"Users": […]}` of all, `{"User": {…}}` of one.
pub fn answer(snapshot: &Snapshot, own: &AccountId, query: &IamQuery) -> Result<Value, OpError> {
    let account = query.account.as_ref().unwrap_or(own);
    if !snapshot.has_account(account) {
        return Err(OpError::Validation(format!("there is no account {account}")));
    }
    match &query.name {
        None => Ok(all(snapshot, account, query.kind)),
        Some(name) => one(snapshot, account, query.kind, name),
    }
}

/// The record of an account; the deployment's own may have none yet.
pub fn account_record(snapshot: &Snapshot, id: &AccountId) -> Option<AccountRecord> {
    if let Some(record) = snapshot.accounts.get(id) {
        return Some(record.as_ref().clone());
    }
    let deployment = snapshot.deployment.as_ref().filter(|own| own.account == *id)?;
    Some(AccountRecord {
        id: id.clone(),
        name: OWN_ACCOUNT_NAME.to_owned(),
        created: deployment.created,
        root_enabled: true,
        unit: None,
        service_control: Vec::new(),
    })
}

fn all(snapshot: &Snapshot, account: &AccountId, kind: IamKind) -> Value {
    const WHOLE: Documents = Documents::Whole;
    match kind {
        IamKind::Account => {
            let mut ids: Vec<&AccountId> = snapshot.accounts.keys().collect();
            ids.extend(snapshot.deployment.as_ref().map(|own| &own.account).filter(|own| !ids.contains(own)));
            ids.sort();
            let shown = ids.into_iter().filter_map(|id| account_record(snapshot, id));
            json!({ "Accounts": shown.map(|record| shown::account(&record)).collect::<Vec<_>>() })
        }
        IamKind::Unit => json!({ "Units": snapshot.units.values().map(|unit| shown::unit(unit)).collect::<Vec<_>>() }),
        IamKind::User => {
            let users = snapshot.users.values().filter(|user| user.account == *account);
            let shown = users.map(|user| {
                let mut shown = shown::user(user, WHOLE);
                let keys = shown::access_keys_of(snapshot, account, Owner::User(user.name.clone()));
                set(&mut shown, "AccessKeys", keys.into());
                shown
            });
            json!({ "Users": shown.collect::<Vec<_>>() })
        }
        IamKind::Group => {
            let groups = snapshot.groups.values().filter(|group| group.account == *account);
            json!({ "Groups": groups.map(|group| shown::group(group, WHOLE)).collect::<Vec<_>>() })
        }
        IamKind::Role => {
            let roles = snapshot.roles.values().filter(|role| role.account == *account);
            json!({ "Roles": roles.map(|role| shown::role(role, WHOLE)).collect::<Vec<_>>() })
        }
        IamKind::Policy => {
            let own = snapshot.policies.values().filter(|policy| {
                Arn::parse(policy.arn.as_str()).is_ok_and(|arn| arn.account == account.as_str() || arn.account == "aws")
            });
            let own = own.map(|policy| shown::policy_in_use(snapshot, policy));
            json!({ "Policies": own.chain(shown::built_in()).collect::<Vec<_>>() })
        }
        IamKind::OidcProvider => {
            let providers = snapshot.oidc_providers.values().filter(|provider| provider.account == *account);
            json!({ "OidcProviders": providers.map(|provider| shown::provider(provider, WHOLE)).collect::<Vec<_>>() })
        }
        IamKind::Service => {
            json!({ "Services": snapshot.services.values().map(|service| shown::service(service)).collect::<Vec<_>>() })
        }
        IamKind::AccessKey => {
            let keys = snapshot.access_keys.values().filter(|key| key.account == *account);
            let mut keys: Vec<_> = keys.collect();
            keys.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
            json!({ "AccessKeys": keys.into_iter().map(|key| shown::access_key(key)).collect::<Vec<_>>() })
        }
    }
}

fn one(snapshot: &Snapshot, account: &AccountId, kind: IamKind, name: &str) -> Result<Value, OpError> {
    const WHOLE: Documents = Documents::Whole;
    let missing = |what: &str| OpError::Validation(format!("The {what} with name {name} cannot be found."));
    let wrong = |error: crate::ids::IdError| OpError::Validation(error.to_string());
    Ok(match kind {
        IamKind::Account => {
            let id = name.parse().map_err(wrong)?;
            let record = account_record(snapshot, &id).ok_or_else(|| missing("account"))?;
            json!({ "Account": shown::account(&record) })
        }
        IamKind::Unit => {
            let unit =
                snapshot.units.get(name).ok_or_else(|| OpError::Validation(format!("there is no unit `{name}`")))?;
            let in_it = snapshot.accounts.values().filter(|account| account.unit.as_deref() == Some(name));
            let mut shown = shown::unit(unit);
            set(&mut shown, "Accounts", in_it.map(|account| account.id.as_str()).collect());
            json!({ "Unit": shown })
        }
        IamKind::User => {
            let name = name.parse().map_err(wrong)?;
            let user = snapshot.user(account, &name).ok_or_else(|| missing("user"))?;
            let mut shown = shown::user(user, WHOLE);
            set(&mut shown, "AccessKeys", shown::access_keys_of(snapshot, account, Owner::User(name)).into());
            json!({ "User": shown })
        }
        IamKind::Group => {
            let name = name.parse().map_err(wrong)?;
            let group = snapshot.groups.get(&(account.clone(), name)).ok_or_else(|| missing("group"))?;
            let members =
                snapshot.users.values().filter(|user| user.account == *account && user.groups.contains(&group.name));
            let mut shown = shown::group(group, WHOLE);
            set(&mut shown, "Users", members.map(|user| user.name.as_str()).collect());
            json!({ "Group": shown })
        }
        IamKind::Role => {
            let role = snapshot.role(account, &name.parse().map_err(wrong)?).ok_or_else(|| missing("role"))?;
            json!({ "Role": shown::role(role, WHOLE) })
        }
        IamKind::Policy => json!({ "Policy": policy(snapshot, account, name)? }),
        IamKind::OidcProvider => {
            let arn = if name.starts_with("arn:") { name.to_owned() } else { provider_arn(account, name) };
            let provider = snapshot.oidc_providers.get(&arn);
            let provider = provider
                .ok_or_else(|| OpError::Validation(format!("OpenIDConnect Provider not found for arn {arn}")))?;
            json!({ "OidcProvider": shown::provider(provider, WHOLE) })
        }
        IamKind::Service => {
            let service = snapshot.services.get(&name.parse().map_err(wrong)?);
            let service = service.ok_or_else(|| OpError::Validation(format!("there is no service {name}")))?;
            let mut shown = shown::service(service);
            let keys = shown::access_keys_of(snapshot, &service.account, Owner::Service(service.name.clone()));
            set(&mut shown, "AccessKeys", keys.into());
            json!({ "Service": shown })
        }
        IamKind::AccessKey => {
            let key = snapshot.access_keys.get(&name.parse().map_err(wrong)?);
            let key = key.ok_or_else(|| OpError::Validation(format!("there is no access key `{name}`")))?;
            json!({ "AccessKey": shown::access_key(key) })
        }
    })
}

fn policy(snapshot: &Snapshot, account: &AccountId, name: &str) -> Result<Value, OpError> {
    let arn: PolicyArn = if name.starts_with("arn:") {
        name.parse().map_err(|error: crate::ids::IdError| OpError::Validation(error.to_string()))?
    } else {
        match policy_named(snapshot, account, name, PolicyClass::Managed) {
            Ok(arn) => arn,
            Err(error) => match policy_named(snapshot, account, name, PolicyClass::ServiceControl) {
                Ok(arn) if snapshot.policies.contains_key(&arn) || builtin::service_control(&arn) => arn,
                _ => return Err(error),
            },
        }
    };
    if let Some(record) = snapshot.policies.get(&arn) {
        return Ok(shown::policy_in_use(snapshot, record));
    }
    let known = shown::built_in().find(|policy| policy.get("Arn").and_then(Value::as_str) == Some(arn.as_str()));
    known.ok_or_else(|| OpError::Validation(format!("Policy {arn} was not found.")))
}
