//! What the operations on grants are about, and the grant tokens of all others.

use std::sync::Arc;

use crate::ids::{Arn, GrantId, Locality};
use crate::ops::grants::GrantTokenKey;
use crate::ops::resolve::{Subject, Unresolved, find, in_any_account};
use crate::ops::{GrantPrincipalText, OpError, Operation, Request, RetireGrant};
use crate::store::{GrantRecord, Snapshot};

/// RetireGrant by token, or by key and grant id.
pub(super) fn to_retire(
    request: &RetireGrant,
    snapshot: &Snapshot,
    here: &Locality,
    tokens: &GrantTokenKey,
) -> Result<Subject, Unresolved> {
    match (&request.token, &request.key, &request.grant) {
        (Some(token), None, None) => {
            let grant = alive(token, snapshot, tokens)?;
            let key = in_any_account(snapshot, here, &grant.key).ok_or(OpError::InvalidGrantToken)?;
            Ok(Subject::Grant { key, grant })
        }
        (None, Some(key), Some(grant)) => {
            let id: GrantId = grant.parse().map_err(|_| OpError::InvalidGrantId(grant.clone()))?;
            let (key, _) = find(snapshot, here, Operation::RetireGrant, &key.0)?;
            match snapshot.grants.get(&(key.record.id, id)).cloned() {
                Some(grant) => Ok(Subject::Grant { key, grant }),
                None if key.record.account == here.account => Err(OpError::GrantNotFound(grant.clone()).into()),
                // Whether there is such a key in another account is not to be learnt from its grants.
                None => Err(Unresolved::Foreign(None)),
            }
        }
        _ => {
            let text = "Specify either a grant token, or both a key id and a grant id.";
            Err(OpError::Validation(text.to_owned()).into())
        }
    }
}

/// RULE ListRetirableGrants: the retiring principal is one of the caller's account.
pub(super) fn retirable(retiring: &GrantPrincipalText, here: &Locality) -> Result<Subject, Unresolved> {
    let GrantPrincipalText::Principal(text) = retiring else { return Ok(Subject::Account) };
    let arn = Arn::parse(text).map_err(|_| OpError::MalformedArn(text.clone()))?;
    if arn.account == here.account.as_str() { Ok(Subject::Account) } else { Err(Unresolved::Foreign(None)) }
}

/// Grants are in force at once, so tokens give nothing; one that names no grant of ours is refused. One for another key, or
/// of another's grant, is not: clients send all that they have with every call.
pub(super) fn check_tokens(request: &Request, snapshot: &Snapshot, tokens: &GrantTokenKey) -> Result<(), OpError> {
    request.grant_tokens().iter().try_for_each(|token| alive(token, snapshot, tokens).map(drop))
}

fn alive(token: &str, snapshot: &Snapshot, tokens: &GrantTokenKey) -> Result<Arc<GrantRecord>, OpError> {
    let named = tokens.open(token)?;
    snapshot.grants.get(&named).cloned().ok_or(OpError::InvalidGrantToken)
}
