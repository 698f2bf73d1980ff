//! From who asks to whom the evaluator judges: the actor, and all policies that bear on it, from one snapshot. Who was deleted,
//! made anew or revoked since its credentials were issued is nobody; a policy that should be there and is not denies.

use std::sync::Arc;

use super::builtin;
use super::evaluate::{Actor, ActorKind, Attached, Attachment, AttachmentKind};
use super::language::{Policy, PolicyKind};
use crate::authn::{Caller, Principal, Session};
use crate::ids::{AccountId, PolicyArn, PolicyDocument};
use crate::store::{Policies, RoleRecord, Snapshot, UserRecord};

/// Longest chain of organisation units; AWS has five below the root. Records that form a ring end here.
const MOST_UNITS: usize = 16;

/// A caller as the evaluator sees it.
pub struct Identity<'a> {
    pub caller: &'a Caller,
    /// Of the user or role; session tags apart.
    pub tags: &'a [(String, String)],
    kind: ActorKind,
    arn: String,
    unique_id: Option<&'a str>,
    role_arn: Option<String>,
    federating_user_arn: Option<String>,
    attached: Attached,
}

/// Why a caller is nobody whom policies could allow anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoIdentity {
    /// The operator or the service itself: no principal of KMS.
    NotOfAws,
    /// The user, role, service or account is gone or another one, the root user is disabled, the session was revoked.
    Gone,
}

impl<'a> Identity<'a> {
    pub fn of(caller: &'a Caller, snapshot: &'a Snapshot) -> Result<Self, NoIdentity> {
        let account = caller.account();
        let mut identity = Self {
            caller,
            tags: &[],
            kind: ActorKind::Root,
            arn: caller.arn(),
            unique_id: None,
            role_arn: None,
            federating_user_arn: None,
            attached: Attached::default(),
        };
        match caller.principal() {
            Principal::Operator { .. } | Principal::Bridge => return Err(NoIdentity::NotOfAws),
            Principal::WebIdentity(_) => {
                identity.kind = ActorKind::WebIdentity;
                return Ok(identity);
            }
            Principal::Service { name, service_id } => {
                identity.kind = ActorKind::Service;
                let registered = snapshot.services.get(name).is_some_and(|s| s.service_id == *service_id);
                return if registered { Ok(identity) } else { Err(NoIdentity::Gone) };
            }
            Principal::Root => {
                let disabled = snapshot.accounts.get(account).is_some_and(|record| !record.root_enabled);
                if disabled {
                    return Err(NoIdentity::Gone);
                }
            }
            Principal::User { name, user_id, .. } => {
                identity.kind = ActorKind::User;
                identity.be_user(snapshot, snapshot.user(account, name), user_id)?;
            }
            Principal::FederatedUser { user, user_path, user_id, .. } => {
                identity.kind = ActorKind::FederatedSession;
                identity.federating_user_arn = Some(format!("arn:aws:iam::{account}:user{user_path}{user}"));
                identity.be_user(snapshot, snapshot.user(account, user), user_id)?;
            }
            Principal::AssumedRole { role, role_id, .. } => {
                identity.kind = ActorKind::RoleSession;
                identity.role_arn = Some(caller.principal_arn());
                identity.be_role(snapshot, snapshot.role(account, role), role_id)?;
            }
        }
        if !snapshot.has_account(account) {
            return Err(NoIdentity::Gone);
        }
        if let Some(session) = caller.session() {
            let revoked = caller.access_key().is_some_and(|key| snapshot.revoked_sessions.contains_key(key.as_str()));
            if revoked {
                return Err(NoIdentity::Gone);
            }
            identity.attached.session = session_policies(snapshot, session);
        }
        identity.attached.service_control = service_control(snapshot, account);
        Ok(identity)
    }

    pub fn actor(&self) -> Actor<'_> {
        Actor {
            kind: self.kind,
            arn: &self.arn,
            account: (self.kind != ActorKind::WebIdentity).then_some(self.caller.account().as_str()),
            unique_id: self.unique_id,
            role_arn: self.role_arn.as_deref(),
            federating_user_arn: self.federating_user_arn.as_deref(),
        }
    }

    pub fn attached(&self) -> &Attached {
        &self.attached
    }

    /// The ARN as AWS shows it.
    pub fn arn(&self) -> &str {
        &self.arn
    }

    fn be_user(
        &mut self,
        snapshot: &'a Snapshot,
        user: Option<&'a Arc<UserRecord>>,
        user_id: &'a str,
    ) -> Result<(), NoIdentity> {
        let user = user.filter(|user| user.user_id == user_id).ok_or(NoIdentity::Gone)?;
        self.unique_id = Some(user_id);
        self.tags = &user.tags;
        let identity = &mut self.attached.identity;
        let kinds = (AttachmentKind::UserInline, AttachmentKind::UserManaged);
        add(identity, snapshot, &user.policies, kinds, None);
        for name in &user.groups {
            let kinds = (AttachmentKind::GroupInline, AttachmentKind::GroupManaged);
            match snapshot.groups.get(&(user.account.clone(), name.clone())) {
                Some(group) => add(identity, snapshot, &group.policies, kinds, Some(name.as_str())),
                None => identity.push(missing(kinds.1, name.to_string())),
            }
        }
        self.attached.boundary = user.boundary.as_ref().map(|arn| managed(snapshot, arn, AttachmentKind::Boundary));
        Ok(())
    }

    fn be_role(
        &mut self,
        snapshot: &'a Snapshot,
        role: Option<&'a Arc<RoleRecord>>,
        role_id: &'a str,
    ) -> Result<(), NoIdentity> {
        let role = role.filter(|role| role.role_id == role_id).ok_or(NoIdentity::Gone)?;
        // A session says here to the second when it was issued, and who revokes wants the one that is asked for next to be good. Authn
        // compares to the millisecond, on every request.
        let issued = self.caller.session().map(|session| session.issued.saturating_mul(1000).saturating_add(999));
        if role.sessions_revoked_before.is_some_and(|before| issued.is_none_or(|issued| issued < before)) {
            return Err(NoIdentity::Gone);
        }
        self.unique_id = Some(role_id);
        self.tags = &role.tags;
        let kinds = (AttachmentKind::RoleInline, AttachmentKind::RoleManaged);
        add(&mut self.attached.identity, snapshot, &role.policies, kinds, None);
        self.attached.boundary = role.boundary.as_ref().map(|arn| managed(snapshot, arn, AttachmentKind::Boundary));
        Ok(())
    }
}

/// Inline and managed policies of a user, group or role.
fn add(
    to: &mut Vec<Attachment>,
    snapshot: &Snapshot,
    policies: &Policies,
    (inline, attached): (AttachmentKind, AttachmentKind),
    group: Option<&str>,
) {
    let named = |name: &str| group.map_or_else(|| name.to_owned(), |group| format!("{group}/{name}"));
    to.reserve(policies.inline.len() + policies.attached.len());
    // The size of inline policies was checked when they were written.
    let kind = PolicyKind::IdentityInline { max: usize::MAX };
    to.extend(policies.inline.iter().map(|(name, document)| attachment(inline, named(name.as_str()), document, kind)));
    to.extend(policies.attached.iter().map(|arn| managed(snapshot, arn, attached)));
}

fn session_policies(snapshot: &Snapshot, session: &Session) -> Option<Vec<Attachment>> {
    let given = session.policies.as_ref()?;
    let inline = given
        .inline
        .iter()
        .map(|document| attachment(AttachmentKind::Session, "session".to_owned(), document, PolicyKind::Session));
    let by_arn = given.arns.iter().map(|arn| managed(snapshot, arn, AttachmentKind::SessionManaged));
    Some(inline.chain(by_arn).collect())
}

/// The levels of an account's organisation, root first, then the account itself.
fn service_control(snapshot: &Snapshot, account: &AccountId) -> Vec<Vec<Attachment>> {
    const KIND: AttachmentKind = AttachmentKind::ServiceControl;
    let Some(record) = snapshot.accounts.get(account) else { return Vec::new() };
    let Some(first) = &record.unit else { return Vec::new() };
    let policies = |list: &[PolicyArn]| list.iter().map(|arn| managed(snapshot, arn, KIND)).collect();
    let mut levels: Vec<Vec<Attachment>> = vec![policies(&record.service_control)];
    for unit in units(snapshot, first) {
        levels.push(match unit {
            Ok(unit) => policies(&unit.service_control),
            Err(name) => vec![missing(KIND, name.to_owned())],
        });
    }
    levels.reverse();
    levels
}

/// A unit and those above it, the root last. `Err`: the name of one that is not there, or that would never end.
pub fn units<'s>(
    snapshot: &'s Snapshot,
    first: &'s str,
) -> impl Iterator<Item = Result<&'s crate::store::UnitRecord, &'s str>> {
    let mut next = Some(first);
    let mut left = MOST_UNITS;
    std::iter::from_fn(move || {
        let name = next.take()?;
        let Some(unit) = snapshot.units.get(name).filter(|_| left > 0) else { return Some(Err(name)) };
        left -= 1;
        next = unit.parent.as_deref();
        Some(Ok(unit.as_ref()))
    })
}

fn managed(snapshot: &Snapshot, arn: &PolicyArn, kind: AttachmentKind) -> Attachment {
    if let Some(record) = snapshot.policies.get(arn) {
        return attachment(kind, arn.to_string(), &record.document, builtin::kind_of(arn.as_str()));
    }
    match builtin::builtin(arn.as_str()) {
        Some(policy) => Attachment { kind, name: arn.to_string(), policy: Arc::clone(policy) },
        None => missing(kind, arn.to_string()),
    }
}

fn attachment(kind: AttachmentKind, name: String, document: &PolicyDocument, parse_as: PolicyKind) -> Attachment {
    match compiled(document, parse_as) {
        Some(policy) => Attachment { kind, name, policy },
        None => missing(kind, name),
    }
}

/// It may have denied what is asked: whoever it bears on is allowed nothing.
fn missing(kind: AttachmentKind, name: String) -> Attachment {
    tracing::error!(policy = name, kind = kind.as_str(), "a policy is missing or cannot be read: all is denied");
    Attachment { kind, name, policy: Arc::clone(builtin::deny_all()) }
}

/// The policy of a stored document, parsed once. `None`: it cannot be read.
pub fn compiled(document: &PolicyDocument, kind: PolicyKind) -> Option<Arc<Policy>> {
    let compiled = document.compiled(|text| Policy::parse_stored(text, kind).ok().map(Arc::new));
    compiled.as_ref().clone()
}
