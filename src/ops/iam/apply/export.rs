//! All identities from one snapshot, for `iam export`.

use serde_json::{Value, json};

use crate::ids::AccountId;
use crate::ops::OpError;
use crate::ops::iam::query::answer;
use crate::ops::iam::shown::{self, Documents};
use crate::ops::iam::writes::{PolicyClass, kind_of};
use crate::ops::iam::{IamKind, IamQuery};
use crate::store::Snapshot;

/// Kinds of an account and the member of the answer that has them.
const KINDS: [(IamKind, &str); 4] = [
    (IamKind::Group, "Groups"),
    (IamKind::User, "Users"),
    (IamKind::Role, "Roles"),
    (IamKind::OidcProvider, "OidcProviders"),
];

pub fn everything(snapshot: &Snapshot, own: &AccountId) -> Result<Value, OpError> {
    let mut accounts = Vec::new();
    let others = snapshot.accounts.keys().filter(|id| *id != own);
    for id in std::iter::once(own).chain(others) {
        // The deployment's own has a record only once something about it was changed.
        let record = snapshot.accounts.get(id).map(|record| shown::account(record));
        let mut account = json!({ "Id": id, "Account": record });
        for (kind, member) in KINDS {
            let mut answer = answer(snapshot, own, &IamQuery { kind, account: Some(id.clone()), name: None })?;
            shown::set(&mut account, member, answer.get_mut(member).map(Value::take).unwrap_or_default());
        }
        let services = snapshot.services.values().filter(|service| service.account == *id);
        shown::set(&mut account, "Services", services.map(|service| shown::service(service)).collect());
        let of = format!("arn:aws:iam::{id}:");
        let policies = snapshot.policies.values().filter(|policy| policy.arn.as_str().starts_with(&of));
        shown::set(&mut account, "Policies", policies.map(|policy| shown::policy(policy, Documents::Whole)).collect());
        accounts.push(account);
    }
    let service_control =
        snapshot.policies.values().filter(|policy| kind_of(&policy.arn) == Some(PolicyClass::ServiceControl));
    Ok(json!({
        "Account": own,
        "Accounts": accounts,
        "Units": snapshot.units.values().map(|unit| shown::unit(unit)).collect::<Vec<_>>(),
        "ServiceControlPolicies":
            service_control.map(|policy| shown::policy(policy, Documents::Whole)).collect::<Vec<_>>(),
    }))
}
