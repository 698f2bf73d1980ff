//! From names to things, once per request and from one snapshot: alias, key, ciphertext header → key record. What comes
//! out is what is authorised and what is used.

mod asked;
mod checks;
#[cfg(test)]
mod checks_tests;
mod grants;
mod named;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::authn::Caller;
use crate::authz::AliasGeneration;
use crate::ids::{AccountId, AliasName, Arn, KeyId, Locality};
use crate::ops::ciphertext::{Blob, Header};
use crate::ops::grants::GrantTokenKey;
use crate::ops::rotation::{self, RotationSubject};
use crate::ops::{
    FederatedUserSubject, KeyIdText, OpError, Operation, OperatorRequest, Ops, Request, RoleSubject, StsRequest, Task,
    TimerRequest, TrailSubject,
};
use crate::store::{AliasRecord, GrantRecord, KeyRecord, Lifecycle, Snapshot};

use named::how_named;
pub use named::{Named, Stay};

/// A key that exists, with its ARN.
#[derive(Debug, Clone)]
pub struct KeyTarget {
    pub record: Arc<KeyRecord>,
    pub arn: String,
}

/// What a task is about.
#[derive(Debug, Clone)]
pub enum Subject {
    /// The account: lists, GenerateRandom, refused operations.
    Account,
    /// An ARN of another account that names nothing; `after`: what else was named, and exists.
    Foreign {
        after: Option<Box<Subject>>,
    },
    Key(KeyTarget),
    /// CreateKey: the id that the key will have.
    NewKey {
        id: KeyId,
        arn: String,
    },
    Alias(AliasSubject),
    /// Decrypt: the key that the ciphertext names, and what the caller named.
    Blob {
        header: Header,
        key: KeyTarget,
        named: Option<Named>,
    },
    ReEncrypt {
        header: Header,
        source: KeyTarget,
        named: Option<Named>,
        destination: KeyTarget,
    },
    Rotation(Box<RotationSubject>),
    /// RetireGrant: the grant, and its key.
    Grant {
        key: KeyTarget,
        grant: Arc<GrantRecord>,
    },
    /// What a session is asked of.
    Role(Box<RoleSubject>),
    FederatedUser(Box<FederatedUserSubject>),
    /// The log: its trail, bucket or an object of it.
    Trail(Box<TrailSubject>),
    Command,
    Timer,
}

#[derive(Debug, Clone)]
pub struct AliasSubject {
    pub account: AccountId,
    pub name: AliasName,
    pub arn: String,
    /// The alias as it is now.
    pub record: Option<Arc<AliasRecord>>,
    /// The key that it points to now.
    pub current: Option<KeyTarget>,
    /// The key that it shall point to.
    pub target: Option<KeyTarget>,
}

/// A task with everything it names. Only `resolve` makes it.
pub struct Resolved {
    task: Task,
    subject: Subject,
    /// The alias by which the key was named that is used as it is now (for ReEncrypt the destination).
    alias: Option<Arc<AliasRecord>>,
    /// A key of another account that was named beside a ciphertext which is not its own.
    named_elsewhere: Option<KeyTarget>,
    /// When the key was last used, where policies may ask that.
    last_used: Option<i64>,
    snapshot: Arc<Snapshot>,
}

impl std::fmt::Debug for Resolved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolved").field("task", &self.task).field("subject", &self.subject).finish_non_exhaustive()
    }
}

impl Resolved {
    pub fn task(&self) -> &Task {
        &self.task
    }

    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// `(kind, ARN)` of what the audit record lists: alias and key, source and destination.
    pub fn resources(&self) -> Vec<(&'static str, &str)> {
        const KEY: &str = "AWS::KMS::Key";
        const ALIAS: &str = "AWS::KMS::Alias";
        const ROLE: &str = "AWS::IAM::Role";
        match &self.subject {
            Subject::Account | Subject::Foreign { .. } | Subject::Command | Subject::Timer => Vec::new(),
            Subject::Key(key) | Subject::Blob { key, .. } | Subject::Grant { key, .. } => vec![(KEY, &key.arn)],
            Subject::NewKey { arn, .. } => vec![(KEY, arn)],
            Subject::Role(role) => vec![(ROLE, &role.arn)],
            Subject::FederatedUser(_) => Vec::new(),
            Subject::Trail(trail) => trail.resources(),
            Subject::Alias(alias) => {
                let keys = alias.target.iter().chain(&alias.current);
                std::iter::once((ALIAS, alias.arn.as_str())).chain(keys.map(|k| (KEY, k.arn.as_str()))).collect()
            }
            Subject::ReEncrypt { source, destination, .. } => vec![(KEY, &source.arn), (KEY, &destination.arn)],
            Subject::Rotation(rotation) => {
                let aliases = rotation.aliases.iter().map(|alias| (ALIAS, alias.arn.as_str()));
                aliases.chain([(KEY, rotation.old.arn.as_str()), (KEY, rotation.new.arn.as_str())]).collect()
            }
        }
    }

    /// A refusal of STS, which never says why nor whether there is such a role. `action`: the one that was refused.
    pub fn told_instead(&self, caller: &Caller, action: &str) -> Option<String> {
        match (&self.task, &self.subject) {
            (Task::Sts(StsRequest::AssumeRoleWithWebIdentity(_)), _) => {
                Some("Not authorized to perform sts:AssumeRoleWithWebIdentity".to_owned())
            }
            (Task::Sts(_), Subject::Role(role)) => {
                Some(format!("User: {} is not authorized to perform: {action} on resource: {}", caller.arn(), role.arn))
            }
            _ => None,
        }
    }

    /// Where an alias was named for a ciphertext: whether the ciphertext's key is its key of now or of before.
    pub fn alias_generation(&self) -> Option<AliasGeneration> {
        match &self.subject {
            Subject::Blob { named, .. } | Subject::ReEncrypt { named, .. } => named.as_ref()?.generation(),
            _ => None,
        }
    }

    /// The ARN that answers and audit records name as `keyId`.
    pub fn key_arn(&self) -> Option<&str> {
        match &self.subject {
            Subject::Key(key) | Subject::Blob { key, .. } | Subject::Grant { key, .. } => Some(&key.arn),
            Subject::NewKey { arn, .. } => Some(arn),
            Subject::Alias(alias) => alias.target.as_ref().or(alias.current.as_ref()).map(|k| k.arn.as_str()),
            Subject::ReEncrypt { destination, .. } => Some(&destination.arn),
            Subject::Rotation(rotation) => Some(&rotation.new.arn),
            Subject::Account
            | Subject::Foreign { .. }
            | Subject::Role(_)
            | Subject::FederatedUser(_)
            | Subject::Trail(_)
            | Subject::Command
            | Subject::Timer => None,
        }
    }
}

impl Ops {
    /// Resolves everything that a task names, from one snapshot. Names count in `account`. `who`: the principal that asks; `new_id`: the id for a key
    /// that it would make.
    pub fn resolve(&self, task: Task, account: &AccountId, who: &str, new_id: KeyId) -> Result<Resolved, OpError> {
        if let Task::Audit(request) = &task {
            request.refused_to_all()?;
        }
        let here = self.locality.of(account);
        let history = self.rotation.alias_history_decrypts;
        let mut resolved = resolve(task, who, self.store.snapshot(), &here, history, new_id, &self.grant_tokens)?;
        if let Task::Audit(request) = &resolved.task {
            resolved.subject = self.trail_subject(request)?;
        }
        if let (
            Task::Kms(Request::DisableKey { .. } | Request::ScheduleKeyDeletion { .. }),
            Subject::Key(KeyTarget { record, .. }),
        ) = (&resolved.task, &resolved.subject)
        {
            resolved.last_used = self.unused_since(record);
        }
        Ok(resolved)
    }
}

pub(super) fn resolve(
    task: Task,
    who: &str,
    snapshot: Arc<Snapshot>,
    locality: &Locality,
    history: bool,
    new_id: KeyId,
    tokens: &GrantTokenKey,
) -> Result<Resolved, OpError> {
    let (subject, alias) = match subject(&task, who, &snapshot, locality, history, new_id, tokens) {
        Ok(found) => found,
        Err(Unresolved::Foreign(after)) => (Subject::Foreign { after }, None),
        Err(Unresolved::Error(error)) => return Err(error),
    };
    // Of what does not exist in another account too: else the error for a bad token would tell what does.
    if let Task::Kms(request) = &task {
        grants::check_tokens(request, &snapshot, tokens)?;
    }
    let named_elsewhere = named_elsewhere(&subject, &snapshot, locality);
    Ok(Resolved { task, subject, alias, named_elsewhere, last_used: None, snapshot })
}

fn named_elsewhere(subject: &Subject, snapshot: &Snapshot, here: &Locality) -> Option<KeyTarget> {
    let (named, key) = match subject {
        Subject::Blob { named, key, .. } | Subject::ReEncrypt { named, source: key, .. } => (named.as_ref()?, key),
        Subject::Foreign { after } => return named_elsewhere(after.as_deref()?, snapshot, here),
        _ => return None,
    };
    let id = match named {
        Named::Key(id) => id,
        Named::Alias { record, .. } => &record.target,
    };
    let record = snapshot.keys.get(id).filter(|record| *id != key.record.id && record.account != here.account)?;
    Some(target(record, here))
}

enum Unresolved {
    /// With what else was named, and exists.
    Foreign(Option<Box<Subject>>),
    Error(OpError),
}

impl Unresolved {
    /// The same, where `subject` was found before.
    fn after(self, subject: Subject) -> Unresolved {
        match self {
            Unresolved::Foreign(None) => Unresolved::Foreign(Some(Box::new(subject))),
            other => other,
        }
    }
}

impl From<OpError> for Unresolved {
    fn from(error: OpError) -> Self {
        Unresolved::Error(error)
    }
}

/// A key, and the alias by which it was named.
type NamedKey = (KeyTarget, Option<Arc<AliasRecord>>);

/// The subject, and the alias by which its key was named.
type Found = (Subject, Option<Arc<AliasRecord>>);

fn subject(
    task: &Task,
    who: &str,
    snapshot: &Snapshot,
    here: &Locality,
    history: bool,
    new_id: KeyId,
    tokens: &GrantTokenKey,
) -> Result<Found, Unresolved> {
    let request = match task {
        Task::Kms(request) => request,
        Task::Operator(request) => return Ok((of_command(request, who, snapshot, here, new_id)?, None)),
        Task::Sts(request) => return Ok((of_sts(request, snapshot, here)?, None)),
        Task::Audit(_) => return Ok((Subject::Account, None)),
        Task::Timer(timer) => return Ok((of_timer(timer, snapshot, here, new_id)?, None)),
    };
    let operation = request.operation();
    let find = |text: &KeyIdText| find(snapshot, here, operation, &text.0);
    let key = |text: &KeyIdText| find(text).map(|(key, _)| key);
    let subject = match request {
        Request::ListKeys { .. }
        | Request::GenerateRandom { .. }
        | Request::CreateCustomKeyStore(_)
        | Request::UpdateCustomKeyStore(_)
        | Request::DescribeCustomKeyStores { .. }
        | Request::ConnectCustomKeyStore { .. }
        | Request::DisconnectCustomKeyStore { .. }
        | Request::DeleteCustomKeyStore { .. }
        | Request::Unsupported { .. } => Subject::Account,
        Request::RotateAlias(request) => {
            Subject::Rotation(Box::new(rotation::resolve(request.clone(), who, snapshot, here, new_id)?))
        }
        Request::ListAliases { key: Some(text), .. } => {
            // RULE §1.6: allowed on the account, so that nothing would be asked of a key of another one.
            let own = |(key, alias): (KeyTarget, _)| (key.record.account == here.account).then_some((key, alias));
            let (key, alias) = own(find(text)?).ok_or(Unresolved::Foreign(None))?;
            return Ok((Subject::Key(key), alias));
        }
        Request::ListAliases { key: None, .. } => Subject::Account,
        Request::ListRetirableGrants { retiring, .. } => grants::retirable(retiring, here)?,
        Request::CreateGrant(request) => {
            let (key, alias) = find(&request.key)?;
            return Ok((Subject::Key(key), alias));
        }
        Request::RetireGrant(request) => grants::to_retire(request, snapshot, here, tokens)?,
        Request::CreateKey(_) => Subject::NewKey { id: new_id, arn: here.key_arn(&new_id) },
        Request::CreateAlias { alias, target } => {
            let subject = |target| Subject::Alias(alias_subject(snapshot, here, alias, target));
            subject(Some(key(target).map_err(|error| error.after(subject(None)))?))
        }
        Request::UpdateAlias { alias, target } => {
            let subject = |target| known_alias(alias_subject(snapshot, here, alias, target));
            match key(target) {
                Err(foreign @ Unresolved::Foreign(_)) => return Err(foreign.after(subject(None)?)),
                target => subject(Some(target?))?,
            }
        }
        Request::DeleteAlias { alias } => known_alias(alias_subject(snapshot, here, alias, None))?,
        Request::Decrypt { key, ciphertext, .. } => {
            let named = key.as_ref().map(find).transpose()?;
            let header = Blob::parse(ciphertext)?.header;
            let key = of_header(snapshot, here, &header)?;
            let named = named.map(|named| how_named(named, &key.record.id, history));
            Subject::Blob { header, key, named }
        }
        Request::ReEncrypt(request) => {
            let named = request.source_key.as_ref().map(find).transpose()?;
            let header = Blob::parse(&request.ciphertext)?.header;
            let source = of_header(snapshot, here, &header)?;
            let named = named.map(|named| how_named(named, &source.record.id, history));
            let found = find(&request.destination_key)
                .map_err(|error| error.after(Subject::Blob { header, key: source.clone(), named: named.clone() }));
            let (destination, alias) = found?;
            return Ok((Subject::ReEncrypt { header, source, named, destination }, alias));
        }
        Request::DescribeKey { key, .. }
        | Request::EnableKey { key }
        | Request::DisableKey { key }
        | Request::ScheduleKeyDeletion { key, .. }
        | Request::CancelKeyDeletion { key }
        | Request::UpdateKeyDescription { key, .. }
        | Request::TagResource { key, .. }
        | Request::UntagResource { key, .. }
        | Request::ListResourceTags { key, .. }
        | Request::Encrypt { key, .. }
        | Request::GenerateDataKey { key, .. }
        | Request::Sign { key, .. }
        | Request::Verify { key, .. }
        | Request::GetPublicKey { key, .. }
        | Request::GenerateMac { key, .. }
        | Request::VerifyMac { key, .. }
        | Request::GetKeyPolicy { key }
        | Request::PutKeyPolicy { key, .. }
        | Request::ListKeyPolicies { key, .. }
        | Request::GetKeyRotationStatus { key }
        | Request::ListGrants { key, .. }
        | Request::RevokeGrant { key, .. }
        | Request::GetKeyLastUsage { key }
        | Request::RefusedOnKey { key, .. } => {
            let (key, alias) = find(key)?;
            return Ok((Subject::Key(key), alias));
        }
    };
    Ok((subject, None))
}

fn of_sts(request: &StsRequest, snapshot: &Snapshot, here: &Locality) -> Result<Subject, OpError> {
    let role = match request {
        StsRequest::AssumeRole(request) => RoleSubject::of_assume_role(request, snapshot)?,
        StsRequest::AssumeRoleWithWebIdentity(request) => RoleSubject::of_web_identity(request, snapshot)?,
        StsRequest::GetCallerIdentity | StsRequest::GetSessionToken { .. } | StsRequest::GetAccessKeyInfo { .. } => {
            return Ok(Subject::Account);
        }
        StsRequest::GetFederationToken(request) => {
            return Ok(Subject::FederatedUser(Box::new(FederatedUserSubject::new(request, &here.account))));
        }
    };
    Ok(Subject::Role(Box::new(role)))
}

fn of_command(
    request: &OperatorRequest,
    who: &str,
    snapshot: &Snapshot,
    here: &Locality,
    new_id: KeyId,
) -> Result<Subject, Unresolved> {
    if request.account().is_some_and(|account| !snapshot.has_account(account)) {
        return Err(OpError::Validation(format!("account `{}` is not served here", here.account)).into());
    }
    match request {
        // Any form: the operator asks as DescribeKey does.
        OperatorRequest::KeyShow { key, .. } | OperatorRequest::KeyAttest { key, .. } => {
            Ok(Subject::Key(find(snapshot, here, Operation::DescribeKey, key)?.0))
        }
        OperatorRequest::KeyAdopt(_) | OperatorRequest::KeyCreate(_) => {
            Ok(Subject::NewKey { id: new_id, arn: here.key_arn(&new_id) })
        }
        OperatorRequest::AliasHistory { alias, .. }
        | OperatorRequest::AliasHistoryDrop { alias, .. }
        | OperatorRequest::RotatePlan { alias, .. } => Ok(known_alias(alias_subject(snapshot, here, alias, None))?),
        OperatorRequest::Rotate { alias, key_spec, reason, grants, .. } => {
            let request = crate::ops::RotateAlias {
                alias: alias.clone(),
                key_spec: *key_spec,
                reason: reason.clone(),
                grants: *grants,
                client_token: None,
            };
            Ok(Subject::Rotation(Box::new(rotation::resolve(request, who, snapshot, here, new_id)?)))
        }
        _ => Ok(Subject::Command),
    }
}

fn of_timer(
    request: &TimerRequest,
    snapshot: &Snapshot,
    here: &Locality,
    new_id: KeyId,
) -> Result<Subject, Unresolved> {
    match request {
        TimerRequest::ConnectKeyStore { .. } | TimerRequest::SessionKeys => Ok(Subject::Timer),
        TimerRequest::DeleteKey { key } => match snapshot.keys.get(key) {
            Some(record) => Ok(Subject::Key(target(record, here))),
            None => Err(OpError::KeyNotFound { arn: here.key_arn(key) }.into()),
        },
        TimerRequest::MakeManagedKey(wanted) => {
            Ok(Subject::NewKey { id: new_id, arn: here.of(&wanted.account).key_arn(&new_id) })
        }
        TimerRequest::Rotate { key } => {
            Ok(Subject::Rotation(Box::new(rotation::resolve_key(key, snapshot, here, new_id)?)))
        }
    }
}

/// A key in any of the four forms, with the alias by which it was named. `None`: another account has no such key.
pub(super) fn find_key(snapshot: &Snapshot, here: &Locality, text: &str) -> Result<Option<NamedKey>, OpError> {
    match find(snapshot, here, Operation::DescribeKey, text) {
        Ok(found) => Ok(Some(found)),
        Err(Unresolved::Foreign(_)) => Ok(None),
        Err(Unresolved::Error(error)) => Err(error),
    }
}

/// A KeyId in the forms that AWS takes for this operation: all four for cryptographic operations, DescribeKey and
/// GetPublicKey; key id or key ARN for the rest, where an alias is `Invalid keyId`.
fn find(snapshot: &Snapshot, here: &Locality, operation: Operation, text: &str) -> Result<NamedKey, Unresolved> {
    let invalid = || Unresolved::Error(OpError::InvalidKeyId(text.to_owned()));
    let name = if text.starts_with("arn:") {
        let arn = Arn::parse(text).map_err(|_| OpError::MalformedArn(text.to_owned()))?;
        if arn.partition != "aws" || arn.service != "kms" {
            return Err(OpError::MalformedArn(text.to_owned()).into());
        }
        if arn.region != here.region.as_str() {
            return Err(OpError::InvalidArn(arn.region.to_owned()).into());
        }
        let Ok(account) = arn.account.parse::<AccountId>() else {
            return Err(OpError::MalformedArn(text.to_owned()).into());
        };
        if account != here.account {
            return foreign(snapshot, &here.of(&account), operation, arn.resource);
        }
        match arn.resource.strip_prefix("key/") {
            Some(id) => id,
            None if arn.resource.starts_with("alias/") => arn.resource,
            None => return Err(OpError::MalformedArn(text.to_owned()).into()),
        }
    } else {
        text
    };
    if name.starts_with("alias/") {
        let alias: AliasName = match name.parse() {
            Ok(alias) if operation.takes_alias() => alias,
            _ => return Err(invalid()),
        };
        let not_found = || OpError::AliasNotFound { arn: here.alias_arn(&alias) };
        let record = snapshot.alias(&here.account, &alias).ok_or_else(not_found)?;
        return Ok((by_id(snapshot, here, &record.target)?, Some(record.clone())));
    }
    let id: KeyId = name.parse().map_err(|_| invalid())?;
    Ok((by_id(snapshot, here, &id)?, None))
}

/// By an ARN of another account. What does not exist there is not told from what the caller may not know of.
fn foreign(
    snapshot: &Snapshot,
    there: &Locality,
    operation: Operation,
    resource: &str,
) -> Result<NamedKey, Unresolved> {
    if let Some(id) = resource.strip_prefix("key/") {
        let id: KeyId = id.parse().map_err(|_| Unresolved::Foreign(None))?;
        return Ok((by_id(snapshot, there, &id).map_err(|_| Unresolved::Foreign(None))?, None));
    }
    let alias = resource.parse::<AliasName>().ok().filter(|_| operation.takes_alias());
    let record = alias.and_then(|alias| snapshot.alias(&there.account, &alias)).ok_or(Unresolved::Foreign(None))?;
    Ok((by_id(snapshot, there, &record.target).map_err(|_| Unresolved::Foreign(None))?, Some(record.clone())))
}

/// A key of this account. Keys that are being made or destroyed do not exist for callers.
pub(super) fn by_id(snapshot: &Snapshot, here: &Locality, id: &KeyId) -> Result<KeyTarget, OpError> {
    match in_any_account(snapshot, here, id) {
        Some(key) if key.record.account == here.account => Ok(key),
        _ => Err(OpError::KeyNotFound { arn: here.key_arn(id) }),
    }
}

fn in_any_account(snapshot: &Snapshot, here: &Locality, id: &KeyId) -> Option<KeyTarget> {
    let record = snapshot.keys.get(id)?;
    let told = !matches!(record.lifecycle, Lifecycle::Creating | Lifecycle::Deleting);
    told.then(|| target(record, here))
}

/// A key's ARN says whose it is, whoever asks.
pub(super) fn target(record: &Arc<KeyRecord>, here: &Locality) -> KeyTarget {
    KeyTarget { record: record.clone(), arn: here.of(&record.account).key_arn(&record.id) }
}

/// The key and generation that the header names is the only one ever tried. A header that names no key of ours is not one
/// that we made, or one whose key is gone for good.
fn of_header(snapshot: &Snapshot, here: &Locality, header: &Header) -> Result<KeyTarget, OpError> {
    let key = in_any_account(snapshot, here, &header.key).ok_or(OpError::InvalidCiphertext)?;
    if !key.record.spec.is_symmetric() || key.record.material(header.generation).is_none() {
        return Err(OpError::InvalidCiphertext);
    }
    Ok(key)
}

pub(super) fn alias_subject(
    snapshot: &Snapshot,
    here: &Locality,
    name: &AliasName,
    target: Option<KeyTarget>,
) -> AliasSubject {
    let record = snapshot.alias(&here.account, name).cloned();
    let current = record.as_ref().and_then(|r| Some(self::target(snapshot.keys.get(&r.target)?, here)));
    AliasSubject {
        account: here.account.clone(),
        name: name.clone(),
        arn: here.alias_arn(name),
        record,
        current,
        target,
    }
}

fn known_alias(alias: AliasSubject) -> Result<Subject, OpError> {
    if alias.record.is_none() {
        return Err(OpError::AliasNotFound { arn: alias.arn });
    }
    Ok(Subject::Alias(alias))
}
