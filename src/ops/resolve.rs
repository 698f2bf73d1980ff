//! From names to things, once per request and from one snapshot: alias, key, ciphertext header → key record. What comes
//! out is what is authorised and what is used.

use std::sync::Arc;

use crate::authz::{Check, Checks, Resource};
use crate::ids::{AliasName, Arn, KeyId, Locality};
use crate::ops::ciphertext::{Blob, Header};
use crate::ops::{KeyIdText, OpError, Operation, OperatorRequest, Request, Task, TimerRequest};
use crate::store::{AliasRecord, KeyRecord, Lifecycle, Snapshot};

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
    /// An ARN of another account.
    Foreign,
    Key(KeyTarget),
    /// CreateKey: the id that the key will have.
    NewKey {
        id: KeyId,
        arn: String,
    },
    Alias(AliasSubject),
    /// Decrypt: the key that the ciphertext names, and the one that the caller named.
    Blob {
        header: Header,
        key: KeyTarget,
        named: Option<KeyTarget>,
    },
    ReEncrypt {
        header: Header,
        source: KeyTarget,
        named: Option<KeyTarget>,
        destination: KeyTarget,
    },
    Command,
    Timer,
}

#[derive(Debug, Clone)]
pub struct AliasSubject {
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
        match &self.subject {
            Subject::Account | Subject::Foreign | Subject::Command | Subject::Timer => Vec::new(),
            Subject::Key(key) | Subject::Blob { key, .. } => vec![(KEY, &key.arn)],
            Subject::NewKey { arn, .. } => vec![(KEY, arn)],
            Subject::Alias(alias) => {
                let keys = alias.target.iter().chain(&alias.current);
                std::iter::once((ALIAS, alias.arn.as_str())).chain(keys.map(|k| (KEY, k.arn.as_str()))).collect()
            }
            Subject::ReEncrypt { source, destination, .. } => vec![(KEY, &source.arn), (KEY, &destination.arn)],
        }
    }

    /// The ARN that answers and audit records name as `keyId`.
    pub fn key_arn(&self) -> Option<&str> {
        match &self.subject {
            Subject::Key(key) | Subject::Blob { key, .. } => Some(&key.arn),
            Subject::NewKey { arn, .. } => Some(arn),
            Subject::Alias(alias) => alias.target.as_ref().or(alias.current.as_ref()).map(|k| k.arn.as_str()),
            Subject::ReEncrypt { destination, .. } => Some(&destination.arn),
            Subject::Account | Subject::Foreign | Subject::Command | Subject::Timer => None,
        }
    }
}

impl Checks for Resolved {
    fn checks(&self) -> Vec<Check<'_>> {
        let action = self.task.operation().map_or("", Operation::action);
        let account = |action| Check { action, resource: Resource::Any };
        match (&self.task, &self.subject) {
            (Task::Operator(request), _) => {
                vec![Check { action: request.permission(), resource: Resource::Command(request.permission()) }]
            }
            (Task::CallerIdentity, _) => {
                vec![Check { action: "sts:GetCallerIdentity", resource: Resource::Identity }]
            }
            (Task::Timer(_), _) => vec![Check { action: "timer", resource: Resource::Timer(self.task.name()) }],
            (_, Subject::Foreign) => vec![Check { action, resource: Resource::Foreign }],
            (_, Subject::Key(target) | Subject::Blob { key: target, .. }) => vec![on_key(action, target)],
            (_, Subject::ReEncrypt { source, destination, .. }) => {
                vec![on_key("kms:ReEncryptFrom", source), on_key("kms:ReEncryptTo", destination)]
            }
            (_, Subject::Alias(alias)) => {
                let mut checks = vec![Check { action, resource: Resource::Alias { arn: &alias.arn } }];
                checks.extend(alias.current.iter().chain(&alias.target).map(|target| on_key(action, target)));
                checks
            }
            (Task::Kms(Request::CreateKey(request)), _) if !request.tags.is_empty() => {
                vec![account(action), account("kms:TagResource")]
            }
            (_, Subject::NewKey { .. } | Subject::Account | Subject::Command | Subject::Timer) => vec![account(action)],
        }
    }
}

fn on_key<'a>(action: &'static str, target: &'a KeyTarget) -> Check<'a> {
    Check { action, resource: Resource::Key { arn: &target.arn, record: &target.record } }
}

/// Resolves everything that a task names. `new_id`: the id for a key that CreateKey would make.
pub fn resolve(task: Task, snapshot: Arc<Snapshot>, locality: &Locality, new_id: KeyId) -> Result<Resolved, OpError> {
    match subject(&task, &snapshot, locality, new_id) {
        Ok(subject) => Ok(Resolved { task, subject, snapshot }),
        Err(Unresolved::Foreign) => Ok(Resolved { task, subject: Subject::Foreign, snapshot }),
        Err(Unresolved::Error(error)) => Err(error),
    }
}

enum Unresolved {
    Foreign,
    Error(OpError),
}

impl From<OpError> for Unresolved {
    fn from(error: OpError) -> Self {
        Unresolved::Error(error)
    }
}

fn subject(task: &Task, snapshot: &Snapshot, here: &Locality, new_id: KeyId) -> Result<Subject, Unresolved> {
    let request = match task {
        Task::Kms(request) => request,
        Task::Operator(OperatorRequest::KeyShow { key } | OperatorRequest::KeyAttest { key }) => {
            // Any form: the operator asks as DescribeKey does.
            return Ok(Subject::Key(find(snapshot, here, Operation::DescribeKey, key)?));
        }
        Task::Operator(OperatorRequest::KeyAdopt(_)) => {
            return Ok(Subject::NewKey { id: new_id, arn: here.key_arn(&new_id) });
        }
        Task::Operator(_) => return Ok(Subject::Command),
        Task::CallerIdentity => return Ok(Subject::Account),
        Task::Timer(TimerRequest::ConnectKeyStore { .. }) => return Ok(Subject::Timer),
        Task::Timer(TimerRequest::DeleteKey { key } | TimerRequest::Rotate { key }) => {
            let record = snapshot.keys.get(key).cloned();
            let arn = here.key_arn(key);
            return match record {
                Some(record) => Ok(Subject::Key(KeyTarget { record, arn })),
                None => Err(OpError::KeyNotFound { arn }.into()),
            };
        }
    };
    let operation = request.operation();
    let find = |text: &KeyIdText| find(snapshot, here, operation, &text.0);
    Ok(match request {
        Request::ListKeys { .. }
        | Request::GenerateRandom { .. }
        | Request::CreateCustomKeyStore(_)
        | Request::UpdateCustomKeyStore(_)
        | Request::DescribeCustomKeyStores { .. }
        | Request::ConnectCustomKeyStore { .. }
        | Request::DisconnectCustomKeyStore { .. }
        | Request::DeleteCustomKeyStore { .. }
        | Request::RotateAlias(_)
        | Request::Unsupported { .. } => Subject::Account,
        Request::ListAliases { key: None, .. } => Subject::Account,
        Request::CreateKey(_) => Subject::NewKey { id: new_id, arn: here.key_arn(&new_id) },
        Request::CreateAlias { alias, target } => {
            let target = find(target)?;
            Subject::Alias(alias_subject(snapshot, here, alias, Some(target)))
        }
        Request::UpdateAlias { alias, target } => {
            let target = find(target)?;
            known_alias(alias_subject(snapshot, here, alias, Some(target)))?
        }
        Request::DeleteAlias { alias } => known_alias(alias_subject(snapshot, here, alias, None))?,
        Request::Decrypt { key, ciphertext, .. } => {
            let named = key.as_ref().map(find).transpose()?;
            let header = Blob::parse(ciphertext)?.header;
            Subject::Blob { header, key: of_header(snapshot, here, &header)?, named }
        }
        Request::ReEncrypt(request) => {
            let named = request.source_key.as_ref().map(find).transpose()?;
            let header = Blob::parse(&request.ciphertext)?.header;
            let source = of_header(snapshot, here, &header)?;
            Subject::ReEncrypt { header, source, named, destination: find(&request.destination_key)? }
        }
        Request::DescribeKey { key }
        | Request::EnableKey { key }
        | Request::DisableKey { key }
        | Request::ScheduleKeyDeletion { key, .. }
        | Request::CancelKeyDeletion { key }
        | Request::UpdateKeyDescription { key, .. }
        | Request::TagResource { key, .. }
        | Request::UntagResource { key, .. }
        | Request::ListResourceTags { key, .. }
        | Request::ListAliases { key: Some(key), .. }
        | Request::Encrypt { key, .. }
        | Request::GenerateDataKey { key, .. }
        | Request::Sign { key, .. }
        | Request::Verify { key, .. }
        | Request::GetPublicKey { key }
        | Request::GenerateMac { key, .. }
        | Request::VerifyMac { key, .. }
        | Request::GetKeyPolicy { key }
        | Request::PutKeyPolicy { key, .. }
        | Request::ListKeyPolicies { key, .. }
        | Request::GetKeyRotationStatus { key }
        | Request::ListGrants { key, .. }
        | Request::GetKeyLastUsage { key }
        | Request::RefusedOnKey { key, .. } => Subject::Key(find(key)?),
    })
}

/// A KeyId in the forms that AWS takes for this operation: all four for cryptographic operations, DescribeKey and
/// GetPublicKey; key id or key ARN for the rest, where an alias is `Invalid keyId`.
fn find(snapshot: &Snapshot, here: &Locality, operation: Operation, text: &str) -> Result<KeyTarget, Unresolved> {
    let invalid = || Unresolved::Error(OpError::InvalidKeyId(text.to_owned()));
    let name = if text.starts_with("arn:") {
        let arn = Arn::parse(text).map_err(|_| OpError::MalformedArn(text.to_owned()))?;
        if arn.partition != "aws" || arn.service != "kms" {
            return Err(OpError::MalformedArn(text.to_owned()).into());
        }
        if arn.region != here.region.as_str() {
            return Err(OpError::InvalidArn(arn.region.to_owned()).into());
        }
        if arn.account.parse::<crate::ids::AccountId>().is_err() {
            return Err(OpError::MalformedArn(text.to_owned()).into());
        }
        if arn.account != here.account.as_str() {
            return Err(Unresolved::Foreign);
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
        let target = snapshot.aliases.get(&alias).ok_or_else(not_found)?.target;
        return Ok(by_id(snapshot, here, &target)?);
    }
    let id: KeyId = name.parse().map_err(|_| invalid())?;
    Ok(by_id(snapshot, here, &id)?)
}

/// Keys that are being made or destroyed do not exist for callers.
fn by_id(snapshot: &Snapshot, here: &Locality, id: &KeyId) -> Result<KeyTarget, OpError> {
    let arn = here.key_arn(id);
    match snapshot.keys.get(id) {
        Some(record) if !matches!(record.lifecycle, Lifecycle::Creating | Lifecycle::Deleting) => {
            Ok(KeyTarget { record: record.clone(), arn })
        }
        _ => Err(OpError::KeyNotFound { arn }),
    }
}

/// The key and generation that the header names is the only one ever tried. A header that names no key of ours is not one
/// that we made, or one whose key is gone for good.
fn of_header(snapshot: &Snapshot, here: &Locality, header: &Header) -> Result<KeyTarget, OpError> {
    let key = by_id(snapshot, here, &header.key).map_err(|_| OpError::InvalidCiphertext)?;
    if !key.record.spec.is_symmetric() || key.record.material(header.generation).is_none() {
        return Err(OpError::InvalidCiphertext);
    }
    Ok(key)
}

fn alias_subject(snapshot: &Snapshot, here: &Locality, name: &AliasName, target: Option<KeyTarget>) -> AliasSubject {
    let record = snapshot.aliases.get(name).cloned();
    let current = record.as_ref().and_then(|r| {
        let record = snapshot.keys.get(&r.target)?.clone();
        Some(KeyTarget { record, arn: here.key_arn(&r.target) })
    });
    AliasSubject { name: name.clone(), arn: here.alias_arn(name), record, current, target }
}

fn known_alias(alias: AliasSubject) -> Result<Subject, OpError> {
    if alias.record.is_none() {
        return Err(OpError::AliasNotFound { arn: alias.arn });
    }
    Ok(Subject::Alias(alias))
}
