//! What a grant allows (authorization.md §1.8).

use std::collections::BTreeMap;

use super::principal::{Hits, Kind};
use super::{Actor, ActorKind, Asks, Grants, Question};
use crate::authz::language::{ConditionKeys, Values};
use crate::store::{GrantConstraints, GrantPrincipal, GrantRecord};

/// The names under which grants to the caller may stand: its own, its role's or user's, its account's.
pub fn grantee_names<'a>(actor: &Actor<'a>, root_arn: Option<&'a str>) -> impl Iterator<Item = &'a str> {
    let own = (actor.kind != ActorKind::Root).then_some(actor.arn);
    [own, actor.role_arn, actor.federating_user_arn, root_arn].into_iter().flatten()
}

/// The root ARN of the caller's account: grants to an account are to it.
pub fn root_arn(actor: &Actor<'_>) -> Option<String> {
    let account = actor.account.filter(|_| actor.is_identity())?;
    let partition = actor.arn.split(':').nth(1).unwrap_or("aws");
    Some(format!("arn:{partition}:iam::{account}:root"))
}

/// The grants on the key that allow what is asked, by the way in which they name the caller.
pub fn hits<'g>(question: &Question<'_>, grants: &'g dyn Grants) -> Hits<&'g GrantRecord> {
    let root = root_arn(&question.actor);
    let mut hits = Hits::none();
    for name in grantee_names(&question.actor, root.as_deref()) {
        for grant in grants.to(name) {
            if let Some(kind) = names(&grant.grantee, &question.actor).filter(|_| covers(grant, question)) {
                hits.add(kind, grant);
            }
        }
    }
    hits
}

/// Whether the grant is the caller's and allows what is asked.
pub fn applies(grant: &GrantRecord, question: &Question<'_>) -> bool {
    names(&grant.grantee, &question.actor).is_some() && covers(grant, question)
}

/// How a grant's principal means the caller.
pub fn names(principal: &GrantPrincipal, actor: &Actor<'_>) -> Option<Kind> {
    match principal {
        GrantPrincipal::Service { name } => {
            (actor.kind == ActorKind::Service && actor.arn == name.as_str()).then_some(Kind::Exact)
        }
        GrantPrincipal::Aws { arn, id } => {
            let of_account = actor.account.is_some_and(|account| is_root_of(arn, account));
            if of_account && actor.is_identity() {
                return Some(Kind::Account);
            }
            actor.named_by(arn, id.as_deref())
        }
    }
}

fn is_root_of(arn: &str, account: &str) -> bool {
    arn.strip_suffix(":root").and_then(|rest| rest.strip_suffix(account)).is_some_and(|rest| rest.ends_with(":iam::"))
}

/// Whether the grant allows the operation in this request.
fn covers(grant: &GrantRecord, question: &Question<'_>) -> bool {
    let Some(operation) = question.action.strip_prefix("kms:") else { return false };
    grant.operations.iter().any(|o| o.as_str() == operation)
        && match (operation, question.asks) {
            ("CreateGrant", Asks::CreateGrant { operations, constraints }) => {
                source_arn_holds(&grant.constraints, question.keys)
                    && operations.iter().all(|o| grant.operations.contains(o))
                    && at_least_as_strict(constraints, &grant.constraints)
            }
            // RetireGrant has rules of its own, and a child grant that is not told cannot be compared.
            ("CreateGrant" | "RetireGrant", _) => false,
            // RULE §1.8: constraints on the encryption context do not concern DescribeKey.
            ("DescribeKey", _) => source_arn_holds(&grant.constraints, question.keys),
            _ => {
                source_arn_holds(&grant.constraints, question.keys)
                    && context_holds(&grant.constraints, question.encryption_context)
            }
        }
}

fn source_arn_holds(constraints: &GrantConstraints, keys: &dyn ConditionKeys) -> bool {
    match &constraints.source_arn {
        None => true,
        Some(wanted) => matches!(keys.value("aws:SourceArn"), Some(Values::One(arn)) if arn == *wanted),
    }
}

/// RULE §1.8: case-sensitive in keys and values; Equals: the same pairs, Subset: at least these; both: both.
fn context_holds(constraints: &GrantConstraints, context: &[(String, String)]) -> bool {
    let has = |pairs: &BTreeMap<String, String>| {
        pairs.iter().all(|(key, value)| context.iter().any(|(k, v)| k == key && v == value))
    };
    constraints.equals.as_ref().is_none_or(|pairs| pairs.len() == context.len() && has(pairs))
        && constraints.subset.as_ref().is_none_or(has)
}

/// RULE §1.8: a parent's Equals stays as it is; a parent's Subset stays or grows, or becomes an Equals that holds it.
fn at_least_as_strict(child: &GrantConstraints, parent: &GrantConstraints) -> bool {
    let holds = |pairs: &Option<BTreeMap<String, String>>, wanted: &BTreeMap<String, String>| {
        pairs.as_ref().is_some_and(|pairs| wanted.iter().all(|(key, value)| pairs.get(key) == Some(value)))
    };
    (parent.equals.is_none() || child.equals == parent.equals)
        && parent.subset.as_ref().is_none_or(|wanted| holds(&child.subset, wanted) || holds(&child.equals, wanted))
        && (parent.source_arn.is_none() || child.source_arn == parent.source_arn)
}
