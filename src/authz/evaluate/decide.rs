//! The algorithm: same account, other account, account-scoped operations, RetireGrant (authorization.md §1.4–1.8).

use super::principal::Kind;
use super::weigh::{Found, Weighed};
use super::{ActorKind, Asks, DecidedBy, Question, Target, Verdict, grant};
use crate::authz::language::{About, AboutResource};
use crate::ids::spec::GrantOperation;
use crate::store::GrantRecord;

/// RULE §1.5: operations that a caller of another account may ask for; sts: assuming a role.
const CROSS_ACCOUNT: &[&str] = &[
    "kms:CreateGrant",
    "kms:Decapsulate",
    "kms:Decrypt",
    "kms:DeriveSharedSecret",
    "kms:DescribeKey",
    "kms:Encapsulate",
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyPair",
    "kms:GenerateDataKeyPairWithoutPlaintext",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:GenerateMac",
    "kms:GetKeyRotationStatus",
    "kms:GetPublicKey",
    "kms:ListGrants",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
    "kms:RetireGrant",
    "kms:RevokeGrant",
    "kms:Sign",
    "kms:Verify",
    "kms:VerifyMac",
    "sts:AssumeRole",
    "sts:SetSourceIdentity",
    "sts:TagSession",
];

pub fn decide(question: &Question<'_>) -> Verdict {
    let actor = &question.actor;
    if actor.kind == ActorKind::Anonymous {
        return refuse(DecidedBy::Anonymous);
    }
    let folded = question.action.to_ascii_lowercase();
    let (service, action) = folded.split_once(':').unwrap_or(("", &folded));
    let resource = match question.target {
        Target::Account { account } => AboutResource::Account(account),
        Target::OfIdentities { arn, .. } | Target::Resource { arn, .. } => AboutResource::Arn(arn),
    };
    let weighed = Weighed::new(question, &About { service, action, resource });
    let mut verdict = in_order(question, service, &weighed);
    verdict.resource_side = weighed.key_policy_deny.is_none() && (weighed.direct.any() || weighed.grants.any());
    verdict
}

fn in_order(question: &Question<'_>, service: &str, weighed: &Weighed<'_>) -> Verdict {
    let actor = &question.actor;
    // Step 1: an explicit deny anywhere.
    if let Some((by, found)) = weighed.explicit_deny() {
        return Verdict { explicit: true, statement: Some(found.reference()), ..refuse(by) };
    }
    // Step 2: organisation policies.
    if !weighed.service_control_allows() {
        return refuse(DecidedBy::Scp);
    }
    let Target::Resource { account: owner, .. } = question.target else {
        return identity_only(question, weighed);
    };
    if let Asks::RetireGrant { grant } = question.asks {
        return retire(question, grant, weighed);
    }
    // RULE §4.2: the root user may not assume roles.
    if service == "sts" && actor.kind == ActorKind::Root {
        return refuse(DecidedBy::KeyPolicy);
    }
    if actor.is_identity() && actor.account != Some(owner) {
        other_account(question, weighed)
    } else {
        same_account(question, weighed)
    }
}

/// §1.4 steps 3 and 4. Services come here too: nothing but their own name matches them.
fn same_account(question: &Question<'_>, weighed: &Weighed<'_>) -> Verdict {
    let limit = weighed.limit();
    let (direct, grants) = (&weighed.direct, &weighed.grants);
    let limited_direct = direct.first_of(&[Kind::Role, Kind::FederatingUser]);
    let limited_grant = grants.first_of(&[Kind::Role, Kind::FederatingUser]);
    if let Some(found) = direct.first_of(&[Kind::Exact, Kind::Wild]) {
        return allow(DecidedBy::KeyPolicy, Some(found));
    }
    if let Some(found) = limited_direct
        && limit.is_none()
    {
        return allow(DecidedBy::KeyPolicy, Some(found));
    }
    if let Some(grant) = grants.of(Kind::Exact) {
        return by_grant(grant, None);
    }
    if let Some(grant) = limited_grant
        && limit.is_none()
    {
        return by_grant(grant, None);
    }
    let delegated = direct.of(Kind::Account);
    let to_account = delegated.is_some() || grants.of(Kind::Account).is_some();
    if to_account && question.actor.kind == ActorKind::Root {
        return allow(DecidedBy::KeyPolicy, delegated);
    }
    let identity = weighed.identity.allow.filter(|_| to_account);
    if let Some(found) = identity
        && limit.is_none()
    {
        return allow(DecidedBy::Identity, Some(found));
    }
    match limit {
        Some(by) if limited_direct.is_some() || limited_grant.is_some() || identity.is_some() => refuse(by),
        _ if delegated.is_some() => refuse(DecidedBy::Identity),
        _ => refuse(DecidedBy::KeyPolicy),
    }
}

/// §1.5: both sides must say yes, and boundary and session always limit.
fn other_account(question: &Question<'_>, weighed: &Weighed<'_>) -> Verdict {
    if !CROSS_ACCOUNT.contains(&question.action) {
        return refuse(DecidedBy::CrossAccountNotSupported);
    }
    let limit = weighed.limit();
    let to_caller = weighed.grants.first_of(&[Kind::Exact, Kind::Role, Kind::FederatingUser]);
    let sufficient = to_caller.filter(|_| question.grants_suffice_cross_account);
    if let Some(grant) = sufficient
        && limit.is_none()
    {
        return by_grant(grant, None);
    }
    let trusted = weighed.direct.any()
        || weighed.grants.of(Kind::Account).is_some()
        || (to_caller.is_some() && !question.grants_suffice_cross_account);
    let is_root = question.actor.kind == ActorKind::Root;
    let both = trusted && (is_root || weighed.identity.allow.is_some());
    match limit {
        None if both => allow(DecidedBy::IdentityAndKeyPolicy, weighed.identity.allow),
        Some(by) if both || sufficient.is_some() => refuse(by),
        _ if trusted => refuse(DecidedBy::Identity),
        _ => refuse(DecidedBy::KeyPolicy),
    }
}

/// §1.6: operations on the account and on aliases are allowed by policies of the caller's identity alone.
fn identity_only(question: &Question<'_>, weighed: &Weighed<'_>) -> Verdict {
    let actor = &question.actor;
    if actor.is_identity() && actor.account != Some(question.target.account()) {
        return refuse(DecidedBy::CrossAccountNotSupported);
    }
    if actor.kind == ActorKind::Root {
        return allow(DecidedBy::Root, None);
    }
    match (weighed.identity.allow, weighed.limit()) {
        (Some(found), None) => allow(DecidedBy::Identity, Some(found)),
        (Some(_), Some(by)) => refuse(by),
        (None, _) => refuse(DecidedBy::Identity),
    }
}

/// §1.8: the retiring principal, the grantee whose grant says so, and the account that issued the grant.
fn retire(question: &Question<'_>, grant: &GrantRecord, weighed: &Weighed<'_>) -> Verdict {
    let actor = &question.actor;
    let retiring = grant.retiring.as_ref().and_then(|p| grant::names(p, actor));
    let may_retire = grant.operations.contains(&GrantOperation::RetireGrant);
    let grantee = grant::names(&grant.grantee, actor).filter(|_| may_retire);
    let issuer = actor.in_account(grant.issuing_account.as_str()).then_some(Kind::Account);
    let ways = [retiring, grantee, issuer];
    let has = |kind: Kind| ways.contains(&Some(kind));
    let limited = has(Kind::Role) || has(Kind::FederatingUser);
    let delegated = has(Kind::Account) && weighed.identity.allow.is_some();
    if has(Kind::Exact) || (has(Kind::Account) && actor.kind == ActorKind::Root) {
        return by_grant(grant, None);
    }
    match weighed.limit() {
        None if limited => by_grant(grant, None),
        None if delegated => by_grant(grant, weighed.identity.allow),
        Some(by) if limited || delegated => refuse(by),
        _ => refuse(DecidedBy::Grant),
    }
}

fn allow(by: DecidedBy, found: Option<Found<'_>>) -> Verdict {
    Verdict { allowed: true, statement: found.map(|f| f.reference()), ..refuse(by) }
}

fn by_grant(grant: &GrantRecord, found: Option<Found<'_>>) -> Verdict {
    Verdict { grant: Some(grant.id.to_string()), ..allow(DecidedBy::Grant, found) }
}

fn refuse(by: DecidedBy) -> Verdict {
    Verdict { allowed: false, explicit: false, by, statement: None, grant: None, resource_side: false }
}
