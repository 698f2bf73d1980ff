//! Which callers a principal means, and in which way: the way decides whether boundary and session limit it
//! (authorization.md §1.3).

use super::{Actor, ActorKind, Bindings};
use crate::authz::language::{Principal, Principals};

/// How a principal names the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The caller's own ARN, or the service itself.
    Exact,
    /// `*`
    Wild,
    /// The role of a role session.
    Role,
    /// The user of a federated session.
    FederatingUser,
    /// The caller's account: delegation to its identity policies.
    Account,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Exact, Kind::Wild, Kind::Role, Kind::FederatingUser, Kind::Account];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Exact => "exact",
            Kind::Wild => "wildcard",
            Kind::Role => "role",
            Kind::FederatingUser => "federating user",
            Kind::Account => "account",
        }
    }
}

/// For each kind what matched first.
#[derive(Debug, Clone, Copy)]
pub struct Hits<T>([Option<T>; 5]);

impl<T: Copy> Hits<T> {
    pub fn none() -> Self {
        Hits([None; 5])
    }

    pub fn add(&mut self, kind: Kind, what: T) {
        if let Some(slot) = self.0.get_mut(kind as usize) {
            slot.get_or_insert(what);
        }
    }

    pub fn of(&self, kind: Kind) -> Option<T> {
        self.0.get(kind as usize).copied().flatten()
    }

    /// The first that is there, in the order asked.
    pub fn first_of(&self, kinds: &[Kind]) -> Option<T> {
        kinds.iter().find_map(|k| self.of(*k))
    }

    pub fn any(&self) -> bool {
        self.0.iter().any(Option::is_some)
    }
}

impl Actor<'_> {
    /// A user, root user or session: what `*` means.
    pub fn is_identity(&self) -> bool {
        matches!(self.kind, ActorKind::User | ActorKind::Root | ActorKind::RoleSession | ActorKind::FederatedSession)
    }

    /// Whether `arn` is the caller itself, its role or its federating user. `bound` is the unique id that the ARN meant when
    /// it was written down.
    pub fn named_by(&self, arn: &str, bound: Option<&str>) -> Option<Kind> {
        let kind = match self.kind {
            ActorKind::User | ActorKind::RoleSession | ActorKind::FederatedSession if arn == self.arn => Kind::Exact,
            // RULE §1.3: the role ARN that the session records; the session's own ARN has no path.
            ActorKind::RoleSession if self.role_arn == Some(arn) => Kind::Role,
            ActorKind::FederatedSession if self.federating_user_arn == Some(arn) => Kind::FederatingUser,
            _ => return None,
        };
        // RULE §1.3: a user deleted and made again does not inherit.
        match (bound, self.unique_id) {
            (Some(bound), Some(id)) if bound != id => None,
            _ => Some(kind),
        }
    }

    pub fn in_account(&self, account: &str) -> bool {
        self.is_identity() && self.account == Some(account)
    }

    pub fn matches(&self, principal: &Principal, bindings: &dyn Bindings) -> Option<Kind> {
        match principal {
            Principal::Everyone => self.is_identity().then_some(Kind::Wild),
            Principal::Account(account) => self.in_account(account).then_some(Kind::Account),
            Principal::Arn(arn) => self.named_by(arn, None).and_then(|_| self.named_by(arn, bindings.bound(arn))),
            Principal::Service(name) => (self.kind == ActorKind::Service && *self.arn == **name).then_some(Kind::Exact),
            Principal::Federated(arn) => {
                (self.kind == ActorKind::WebIdentity && *self.arn == **arn).then_some(Kind::Exact)
            }
            Principal::UniqueId(_) | Principal::Nobody => None,
        }
    }
}

/// The ways in which a statement's Principal or NotPrincipal means the caller.
pub fn kinds(
    principals: &Principals,
    actor: &Actor<'_>,
    bindings: &dyn Bindings,
    allows: bool,
    has_boundary: bool,
) -> [bool; 5] {
    let mut found = [false; 5];
    let mut add = |kind: Kind| {
        if let Some(slot) = found.get_mut(kind as usize) {
            *slot = true;
        }
    };
    if !principals.negated {
        principals.list.iter().filter_map(|p| actor.matches(p, bindings)).for_each(&mut add);
        return found;
    }
    let listed = principals.list.iter().any(|p| actor.matches(p, bindings).is_some());
    let meant = match allows {
        // Everyone else means identities: services are named by Service alone.
        true => !listed && actor.is_identity(),
        // RULE §1.3: Deny with NotPrincipal always hits a caller that has a permissions boundary.
        false => !listed || has_boundary,
    };
    if meant {
        add(Kind::Wild);
    }
    found
}
