//! A case becomes questions to the evaluator, and their verdicts one answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::form::{Case, CaseCheck, CaseGrant, CaseKey, Constraints, PrincipalType};
use crate::authz::evaluate::{
    Actor, ActorKind, Asks, Attached, Attachment, AttachmentKind, Bindings, Grants, Question, Target, Verdict,
    evaluate, lockout,
};
use crate::authz::language::{Listed, Policy, PolicyKind};
use crate::ids::spec::GrantOperation;
use crate::ids::{Arn, GrantId, KeyId};
use crate::store::{GrantConstraints, GrantPrincipal, GrantRecord};

/// The text of MalformedPolicyDocumentException when the lockout safety check refuses.
const LOCKOUT: &str = "The new key policy will not allow you to update the key policy in the future.";
const DRY_RUN: &str = "The request would have succeeded, but the DryRun option is set.";

pub struct Answer {
    pub allowed: bool,
    pub explicit: bool,
    pub by: &'static str,
    pub message: String,
    pub statement: String,
}

/// Every check must allow; the first that does not is the answer, else the last. Then the lockout safety check, then DryRun.
pub fn ask(case: &Case) -> Result<Answer, String> {
    let attached = attached(case)?;
    let keys = case.keys.iter().map(|(arn, key)| Ok((arn.as_str(), Key::new(case, arn, key)?)));
    let keys = keys.collect::<Result<BTreeMap<&str, Key>, String>>()?;
    let new_policy = case.request.new_policy.as_ref().map(|p| policy(p, PolicyKind::Key)).transpose()?;
    let child = child_grant(case)?;
    let actor = actor(case);
    let mut last = None;
    for check in &case.request.checks {
        let key = keys.get(check.resource.as_str());
        let listed = condition_keys(case, check);
        let context = encryption_context(case, check);
        let target = target(&actor, check, key)?;
        let asks = match (check.action.as_str(), &child) {
            ("kms:CreateGrant", (operations, constraints)) => Asks::CreateGrant { operations, constraints },
            ("kms:RetireGrant", _) => {
                let id = case.request.grant_id.as_deref().ok_or("RetireGrant without `grant_id`")?;
                let grant = key.and_then(|k| k.all.iter().find(|(name, _)| name == id));
                Asks::RetireGrant { grant: grant.map(|(_, g)| g).ok_or(format!("there is no grant `{id}`"))? }
            }
            _ => Asks::Plain,
        };
        let question = Question {
            actor,
            attached: &attached,
            action: &check.action,
            target,
            keys: &listed,
            encryption_context: &context,
            asks,
            grants_suffice_cross_account: true,
        };
        let verdict = evaluate(&question);
        if !verdict.allowed {
            return Ok(answer(&verdict, verdict.message(&question)));
        }
        let asks_for_policy = matches!(case.request.operation.as_str(), "PutKeyPolicy" | "CreateKey");
        if let Some(policy) = new_policy.as_ref().filter(|_| asks_for_policy && !case.request.bypass_lockout_check) {
            // The key of CreateKey does not exist yet: any ARN of the account stands for it.
            let account = actor.account.unwrap_or_default();
            let made = format!("arn:aws:kms:us-east-1:{account}:key/00000000-0000-4000-8000-000000000000");
            let (arn, owner) = match target {
                Target::Resource { arn, account, .. } => (arn, account),
                Target::Account { .. } | Target::OfIdentities { .. } => (made.as_str(), account),
            };
            let bindings: &dyn Bindings = match key {
                Some(key) => key,
                None => &crate::authz::evaluate::NoBindings,
            };
            let verdict = lockout(&question, arn, owner, policy, bindings);
            if !verdict.allowed {
                let answer = answer(&verdict, LOCKOUT.to_owned());
                return Ok(Answer { explicit: false, by: "lockout_check", ..answer });
            }
        }
        last = Some(answer(&verdict, String::new()));
    }
    let answer = last.ok_or("a request without checks")?;
    Ok(match case.request.dry_run {
        true => Answer { by: "DryRunOperationException", message: DRY_RUN.to_owned(), ..answer },
        false => answer,
    })
}

fn answer(verdict: &Verdict, message: String) -> Answer {
    let statement = verdict.statement.as_ref().map(|s| {
        let sid = s.sid.as_ref().map(|sid| format!(" `{sid}`")).unwrap_or_default();
        format!("{} `{}`, statement {}{sid}", s.kind, s.policy, s.index)
    });
    Answer {
        allowed: verdict.allowed,
        explicit: verdict.explicit,
        by: verdict.by.as_str(),
        message,
        statement: statement.unwrap_or_default(),
    }
}

fn actor(case: &Case) -> Actor<'_> {
    let principal = &case.principal;
    let kind = match principal.kind {
        PrincipalType::User => ActorKind::User,
        PrincipalType::Root => ActorKind::Root,
        PrincipalType::RoleSession => ActorKind::RoleSession,
        PrincipalType::FederatedSession => ActorKind::FederatedSession,
        PrincipalType::Service => ActorKind::Service,
        PrincipalType::Anonymous => ActorKind::Anonymous,
    };
    Actor {
        kind,
        arn: &principal.arn,
        account: principal.account.as_deref(),
        unique_id: principal.unique_id.as_deref(),
        role_arn: principal.role_arn.as_deref(),
        federating_user_arn: principal.federating_user_arn.as_deref(),
    }
}

/// Policies of a case may hold what a write would refuse: cases say what such a policy does once it is stored.
fn policy(document: &Value, kind: PolicyKind) -> Result<Policy, String> {
    Policy::parse_stored(&document.to_string(), kind).map_err(|e| e.text)
}

fn attached(case: &Case) -> Result<Attached, String> {
    let attachment = |kind, name: String, document: &Value, policy_kind| {
        Ok::<_, String>(Attachment { kind, name, policy: Arc::new(policy(document, policy_kind)?) })
    };
    let mut attached = Attached::default();
    for named in &case.identity_policies {
        let kind = match named.kind.as_deref() {
            None | Some("user-inline") => AttachmentKind::UserInline,
            Some("user-managed" | "managed") => AttachmentKind::UserManaged,
            Some("group-inline") => AttachmentKind::GroupInline,
            Some("group-managed") => AttachmentKind::GroupManaged,
            Some("role-inline") => AttachmentKind::RoleInline,
            Some("role-managed") => AttachmentKind::RoleManaged,
            Some(other) => return Err(format!("`{other}` is no kind of identity policy")),
        };
        attached.identity.push(attachment(kind, named.name.clone(), &named.document, PolicyKind::IdentityManaged)?);
    }
    if let Some(document) = &case.boundary {
        let kind = AttachmentKind::Boundary;
        attached.boundary = Some(attachment(kind, "boundary".to_owned(), document, PolicyKind::Boundary)?);
    }
    if !case.session_policies.is_empty() {
        let kind = AttachmentKind::Session;
        let list = case.session_policies.iter().map(|d| attachment(kind, "session".to_owned(), d, PolicyKind::Session));
        attached.session = Some(list.collect::<Result<_, _>>()?);
    }
    for (n, level) in case.scps.iter().enumerate() {
        let kind = AttachmentKind::ServiceControl;
        let list = level.iter().map(|d| attachment(kind, format!("level {n}"), d, PolicyKind::ServiceControl));
        attached.service_control.push(list.collect::<Result<_, _>>()?);
    }
    Ok(attached)
}

fn target<'a>(actor: &Actor<'a>, check: &'a CaseCheck, key: Option<&'a Key<'a>>) -> Result<Target<'a>, String> {
    let resource = check.resource.as_str();
    if resource == "*" {
        return Ok(Target::Account { account: actor.account.unwrap_or_default() });
    }
    let arn = Arn::parse(resource).map_err(|e| e.to_string())?;
    if arn.resource.starts_with("alias/") {
        return Ok(Target::OfIdentities { arn: resource, account: arn.account });
    }
    let key = key.ok_or_else(|| format!("there is no key `{resource}` in the case"))?;
    Ok(Target::Resource { arn: resource, account: arn.account, policy: &key.policy, bindings: key, grants: key })
}

struct Key<'a> {
    case: &'a CaseKey,
    policy: Policy,
    /// By the case's own ids.
    all: Vec<(String, GrantRecord)>,
    visible: Vec<GrantRecord>,
}

impl<'a> Key<'a> {
    fn new(case: &Case, arn: &str, key: &'a CaseKey) -> Result<Key<'a>, String> {
        let mut all = Vec::new();
        let mut visible = Vec::new();
        for grant in &key.grants {
            let record = record(arn, grant)?;
            // A grant inside the window of eventual consistency is there for whoever brings its token.
            let brought = grant.token.as_ref().is_some_and(|token| case.request.grant_tokens.contains(token));
            if grant.visible != Some(false) || brought {
                visible.push(record.clone());
            }
            all.push((grant.grant_id.clone(), record));
        }
        Ok(Key { case: key, policy: policy(&key.policy, PolicyKind::Key)?, all, visible })
    }
}

impl Bindings for Key<'_> {
    fn bound(&self, principal_arn: &str) -> Option<&str> {
        self.case.bindings.get(principal_arn).map(String::as_str)
    }
}

impl Grants for Key<'_> {
    fn to<'s>(&'s self, grantee: &str) -> Box<dyn Iterator<Item = &'s GrantRecord> + 's> {
        let grantee = grantee.to_owned();
        Box::new(self.visible.iter().filter(move |g| g.grantee.name() == grantee))
    }
}

fn record(key_arn: &str, grant: &CaseGrant) -> Result<GrantRecord, String> {
    let key = Arn::parse(key_arn).map_err(|e| e.to_string())?;
    let account = match grant.issuing_account.as_deref() {
        None => key.account.to_owned(),
        Some(text) => Arn::parse(text).map_or(text, |arn| arn.account).to_owned(),
    };
    let principal = |aws: &Option<String>, service: &Option<String>| match (aws, service) {
        (Some(arn), _) if arn.len() == 12 && arn.bytes().all(|b| b.is_ascii_digit()) => {
            Ok(Some(GrantPrincipal::Aws { arn: format!("arn:{}:iam::{arn}:root", key.partition), id: None }))
        }
        (Some(arn), _) => Ok(Some(GrantPrincipal::Aws { arn: arn.clone(), id: None })),
        (None, Some(name)) => {
            name.parse().map(|name| Some(GrantPrincipal::Service { name })).map_err(|e| e.to_string())
        }
        (None, None) => Ok::<_, String>(None),
    };
    let grantee = principal(&grant.grantee_principal, &grant.grantee_service_principal)?;
    Ok(GrantRecord {
        id: grant_id(&grant.grant_id)?,
        key: KeyId::new([0; 16], false),
        issuing_account: account.parse().map_err(|e: crate::ids::IdError| e.to_string())?,
        grantee: grantee.ok_or("a grant without grantee")?,
        retiring: principal(&grant.retiring_principal, &grant.retiring_service_principal)?,
        operations: operations(&grant.operations)?,
        constraints: constraints(grant.constraints.as_ref()),
        name: None,
        created: 0,
    })
}

/// Cases call their grants what they like: the record's id has 64 hex digits.
fn grant_id(text: &str) -> Result<GrantId, String> {
    let hex: String =
        text.bytes().map(|b| format!("{b:02x}")).chain(std::iter::repeat("0".to_owned())).take(64).collect();
    hex.get(..64).unwrap_or_default().parse().map_err(|e: crate::ids::IdError| e.to_string())
}

fn operations(names: &[String]) -> Result<Vec<GrantOperation>, String> {
    let read = |name: &String| GrantOperation::from_wire(name).ok_or(format!("`{name}` is no operation of grants"));
    names.iter().map(read).collect()
}

fn constraints(given: Option<&Constraints>) -> GrantConstraints {
    let given = given.cloned().unwrap_or_default();
    GrantConstraints {
        equals: given.encryption_context_equals,
        subset: given.encryption_context_subset,
        source_arn: given.source_arn,
    }
}

fn child_grant(case: &Case) -> Result<(Vec<GrantOperation>, GrantConstraints), String> {
    match &case.request.new_grant {
        Some(grant) => Ok((operations(&grant.operations)?, constraints(grant.constraints.as_ref()))),
        None => Ok((Vec::new(), GrantConstraints::default())),
    }
}

fn encryption_context(case: &Case, check: &CaseCheck) -> Vec<(String, String)> {
    let request = &case.request;
    let of_action = match check.action.as_str() {
        "kms:ReEncryptFrom" => request.source_encryption_context.as_ref(),
        "kms:ReEncryptTo" => request.destination_encryption_context.as_ref(),
        _ => None,
    };
    // RULE §2.7: for CreateGrant the context is that of the constraints.
    let of_grant = request.new_grant.as_ref().and_then(|g| g.constraints.as_ref());
    let of_grant = of_grant.and_then(|c| c.encryption_context_equals.as_ref().or(c.encryption_context_subset.as_ref()));
    let context = check.encryption_context.as_ref().or(of_action).or(request.encryption_context.as_ref()).or(of_grant);
    context.into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// The condition keys that follow from the case (§2.7), then those that it gives.
fn condition_keys(case: &Case, check: &CaseCheck) -> Listed {
    let mut keys = Listed::new();
    of_principal(case, &mut keys);
    let arn = Arn::parse(&check.resource).ok();
    let region = arn.as_ref().map_or("us-east-1", |a| a.region);
    keys.set("aws:RequestedRegion", region);
    if let Some(account) = arn.as_ref().map(|a| a.account).or(case.principal.account.as_deref()) {
        keys.set("aws:ResourceAccount", account);
    }
    if let Some(key) = case.keys.get(&check.resource) {
        let or = |given: &Option<String>, default: &str| given.clone().unwrap_or_else(|| default.to_owned());
        keys.set("kms:KeySpec", or(&key.spec, "SYMMETRIC_DEFAULT"));
        keys.set("kms:KeyUsage", or(&key.usage, "ENCRYPT_DECRYPT"));
        keys.set("kms:KeyOrigin", or(&key.origin, "AWS_KMS"));
        keys.set("kms:MultiRegion", key.multi_region.unwrap_or(false).to_string());
        keys.set_many("kms:ResourceAliases", key.aliases.iter().cloned());
        for (tag, value) in &key.tags {
            keys.set(format!("aws:ResourceTag/{tag}"), value);
        }
    }
    let context = encryption_context(case, check);
    keys.set_many("kms:EncryptionContextKeys", context.iter().map(|(key, _)| key.clone()));
    for (key, value) in context {
        keys.set(format!("kms:EncryptionContext:{key}"), value);
    }
    if let Some(grant) = &case.request.new_grant {
        keys.set_many("kms:GrantOperations", grant.operations.iter().cloned());
        for (name, value) in [
            ("kms:GranteePrincipal", &grant.grantee_principal),
            ("kms:GranteeServicePrincipal", &grant.grantee_service_principal),
            ("kms:RetiringPrincipal", &grant.retiring_principal),
            ("kms:RetiringServicePrincipal", &grant.retiring_service_principal),
        ] {
            if let Some(value) = value {
                keys.set(name, value);
            }
        }
        let constraints = constraints(grant.constraints.as_ref());
        match (constraints.equals.is_some(), constraints.subset.is_some()) {
            (true, _) => keys.set("kms:GrantConstraintType", "EncryptionContextEquals"),
            (false, true) => keys.set("kms:GrantConstraintType", "EncryptionContextSubset"),
            (false, false) => {}
        }
        if let Some(arn) = constraints.source_arn {
            keys.set("kms:GrantConstraintSourceArn", arn);
        }
    }
    if let ("ReEncrypt", [from, to]) = (case.request.operation.as_str(), case.request.checks.as_slice()) {
        keys.set("kms:ReEncryptOnSameKey", (from.resource == to.resource).to_string());
    }
    for (name, value) in case.request.context.iter().chain(&check.context) {
        match value {
            Value::Array(list) => keys.set_many(name, list.iter().map(plain)),
            Value::Null => {}
            one => keys.set(name, plain(one)),
        }
    }
    keys
}

fn of_principal(case: &Case, keys: &mut Listed) {
    let principal = &case.principal;
    let named = |text: &str| text.rsplit_once('/').map(|(_, name)| name.to_owned()).unwrap_or_default();
    let kind = match principal.kind {
        PrincipalType::Anonymous => return keys.set("aws:PrincipalType", "Anonymous"),
        PrincipalType::Service => {
            keys.set("aws:PrincipalIsAWSService", "true");
            return keys.set("aws:PrincipalServiceName", &principal.arn);
        }
        PrincipalType::User => {
            keys.set("aws:username", named(&principal.arn));
            "User"
        }
        PrincipalType::Root => "Account",
        PrincipalType::RoleSession => "AssumedRole",
        PrincipalType::FederatedSession => "FederatedUser",
    };
    keys.set("aws:PrincipalIsAWSService", "false");
    keys.set("aws:ViaAWSService", "false");
    keys.set("aws:PrincipalType", kind);
    // RULE §2.7: the role's ARN, not the session's.
    keys.set("aws:PrincipalArn", principal.role_arn.as_ref().unwrap_or(&principal.arn));
    if let Some(account) = &principal.account {
        keys.set("aws:PrincipalAccount", account);
        keys.set("kms:CallerAccount", account);
    }
    let session = || named(&principal.arn);
    let userid = match (principal.kind, &principal.unique_id, &principal.account) {
        (PrincipalType::RoleSession, Some(id), _) => Some(format!("{id}:{}", session())),
        (PrincipalType::FederatedSession, _, Some(account)) => Some(format!("{account}:{}", session())),
        (PrincipalType::Root, _, Some(account)) => Some(account.clone()),
        (_, id, _) => id.clone(),
    };
    if let Some(userid) = userid {
        keys.set("aws:userid", userid);
    }
    for (tag, value) in principal.tags.iter().chain(&principal.session_tags) {
        keys.set(format!("aws:PrincipalTag/{tag}"), value);
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
