//! What a request says to policies: condition keys with their effective values, defaults included. Source: authorization.md
//! §1.14 and §2.7.

use std::borrow::Cow;

use crate::authz::language::Values;
use crate::ids::spec::{KeySpec, KeyUsage};
use crate::ops::{CreateGrant, GrantPrincipalText, Request, Tag};
use crate::store::{GrantConstraints, KeyRecord};

/// Full names of condition keys with what the request has for them.
pub type Said<'a> = Vec<(Cow<'a, str>, Values<'a>)>;

fn one<'a>(name: &'static str, value: impl Into<Cow<'a, str>>) -> (Cow<'a, str>, Values<'a>) {
    (Cow::Borrowed(name), Values::One(value.into()))
}

fn many<'a>(
    name: &'static str,
    values: impl IntoIterator<Item = impl Into<Cow<'a, str>>>,
) -> (Cow<'a, str>, Values<'a>) {
    (Cow::Borrowed(name), Values::Many(values.into_iter().map(Into::into).collect()))
}

/// Of a request on one key. ReEncrypt, which has two, has its own.
pub fn of_request(request: &Request) -> Said<'_> {
    match request {
        Request::Encrypt { algorithm, .. } | Request::Decrypt { algorithm, .. } => encryption(algorithm.as_str()),
        // RULE §2.7: the data key is encrypted under the key.
        Request::GenerateDataKey { .. } => encryption(KeySpec::SymmetricDefault.as_str()),
        Request::Sign { message_type, algorithm, .. } | Request::Verify { message_type, algorithm, .. } => {
            vec![one("kms:MessageType", message_type.as_str()), one("kms:SigningAlgorithm", algorithm.as_str())]
        }
        Request::GenerateMac { algorithm, .. } | Request::VerifyMac { algorithm, .. } => {
            vec![one("kms:MacAlgorithm", algorithm.as_str())]
        }
        Request::GetKeyPolicy { .. } => vec![one("kms:PolicyName", "default")],
        Request::PutKeyPolicy { bypass_policy_lockout_safety_check: bypass, .. } => {
            std::iter::once(one("kms:PolicyName", "default")).chain(bypassing(*bypass)).collect()
        }
        Request::ScheduleKeyDeletion { pending_window_in_days, .. } => {
            vec![one("kms:ScheduleKeyDeletionPendingWindowInDays", pending_window_in_days.to_string())]
        }
        Request::TagResource { tags, .. } => of_tags(tags.iter().map(|Tag { key, value }| (key, value))),
        Request::UntagResource { tag_keys, .. } => vec![many("aws:TagKeys", tag_keys)],
        Request::CreateGrant(request) => of_grant(request),
        _ => Vec::new(),
    }
}

/// Of CreateKey itself; `of_new_key` and the tags beside it.
pub fn bypassing<'a>(given: Option<bool>) -> Option<(Cow<'a, str>, Values<'a>)> {
    // RULE §1.9: present only when the parameter is in the request, so that `Null` tells.
    given.map(|value| one("kms:BypassPolicyLockoutSafetyCheck", if value { "true" } else { "false" }))
}

/// What a key will be that is not there yet.
pub fn of_new_key<'a>(spec: KeySpec, usage: KeyUsage, in_key_store: bool) -> Said<'a> {
    vec![
        one("kms:KeySpec", spec.as_str()),
        one("kms:CustomerMasterKeySpec", spec.as_str()),
        one("kms:KeyUsage", usage.as_str()),
        one("kms:CustomerMasterKeyUsage", usage.as_str()),
        one("kms:KeyOrigin", if in_key_store { "AWS_CLOUDHSM" } else { "AWS_KMS" }),
        one("kms:MultiRegion", "false"),
    ]
}

/// A rotation makes a key like another one.
pub fn of_successor(record: &KeyRecord) -> Said<'_> {
    let mut said = of_new_key(record.spec, record.usage, record.key_store.is_some());
    said.extend(of_tags(record.tags.iter().map(|(key, value)| (key, value))));
    said
}

/// No tags, no keys: an empty list is an absent one.
pub fn of_tags<'a>(tags: impl Iterator<Item = (&'a String, &'a String)> + Clone) -> Said<'a> {
    let mut said: Said<'a> = tags
        .clone()
        .map(|(key, value)| (Cow::Owned(format!("aws:RequestTag/{key}")), Values::One(Cow::Borrowed(value.as_str()))))
        .collect();
    if !said.is_empty() {
        said.push(many("aws:TagKeys", tags.map(|(key, _)| key)));
    }
    said
}

pub fn re_encryption(algorithm: &str, same_key: bool) -> Said<'_> {
    let mut said = encryption(algorithm);
    said.push(one("kms:ReEncryptOnSameKey", if same_key { "true" } else { "false" }));
    said
}

fn encryption(algorithm: &str) -> Said<'_> {
    vec![one("kms:EncryptionAlgorithm", algorithm)]
}

fn of_grant(request: &CreateGrant) -> Said<'_> {
    let mut said = vec![
        many("kms:GrantOperations", request.operations.iter().map(|operation| operation.as_str())),
        match &request.grantee {
            GrantPrincipalText::Principal(arn) => one("kms:GranteePrincipal", arn),
            GrantPrincipalText::Service(name) => one("kms:GranteeServicePrincipal", name),
        },
    ];
    said.extend(request.retiring.as_ref().map(|retiring| match retiring {
        GrantPrincipalText::Principal(arn) => one("kms:RetiringPrincipal", arn),
        GrantPrincipalText::Service(name) => one("kms:RetiringServicePrincipal", name),
    }));
    said.extend(constraint_type(&request.constraints));
    said.extend(request.constraints.source_arn.as_ref().map(|arn| one("kms:GrantConstraintSourceArn", arn)));
    said
}

/// `kms:GrantConstraintType`
pub fn constraint_type<'a>(constraints: &GrantConstraints) -> Option<(Cow<'a, str>, Values<'a>)> {
    let name = match constraints {
        GrantConstraints { equals: Some(_), .. } => "EncryptionContextEquals",
        GrantConstraints { subset: Some(_), .. } => "EncryptionContextSubset",
        _ => return None,
    };
    Some(one("kms:GrantConstraintType", name))
}

/// The encryption context that policies and constraints of grants see. CreateGrant's is that of its constraints.
pub fn encryption_context(request: &Request) -> Cow<'_, [(String, String)]> {
    match request {
        Request::Encrypt { context, .. }
        | Request::Decrypt { context, .. }
        | Request::GenerateDataKey { context, .. } => Cow::Borrowed(context),
        Request::CreateGrant(request) => Cow::Owned(constrained_context(&request.constraints)),
        _ => Cow::Borrowed(&[]),
    }
}

/// The pairs that a grant's constraints name.
pub fn constrained_context(constraints: &GrantConstraints) -> Vec<(String, String)> {
    let pairs = constraints.equals.iter().chain(&constraints.subset).flatten();
    pairs.map(|(key, value)| (key.clone(), value.clone())).collect()
}
