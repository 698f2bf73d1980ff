//! What principals could do with keys: the decisions of requests that nobody made, over a state of some moment. Decided by
//! the same evaluator as requests are.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::state::State;
use super::state::restore::Conditions;
use crate::authn::{Caller, Principal, Session};
use crate::authz::evaluate::{Verdict, evaluate};
use crate::authz::{Check, Environment, Identity, Resource, with_question};
use crate::ids::Locality;
use crate::store::Snapshot;

/// What administers a key. RULE audit.md §5.2 R8.
pub const ADMIN_ACTIONS: &[&str] = &[
    "kms:PutKeyPolicy",
    "kms:CreateGrant",
    "kms:RevokeGrant",
    "kms:ScheduleKeyDeletion",
    "kms:CancelKeyDeletion",
    "kms:DisableKey",
    "kms:EnableKey",
    "kms:ImportKeyMaterial",
    "kms:DeleteImportedKeyMaterial",
    "kms:UpdateAlias",
    "kms:CreateAlias",
    "kms:DeleteAlias",
    "kms:RotateKeyOnDemand",
    "kms:UpdateKeyDescription",
    "kms:TagResource",
    "kms:UntagResource",
];

/// What uses a key.
pub const USE_ACTIONS: &[&str] = &[
    "kms:Encrypt",
    "kms:Decrypt",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:GenerateDataKeyPair",
    "kms:GenerateDataKeyPairWithoutPlaintext",
    "kms:Sign",
    "kms:Verify",
    "kms:GenerateMac",
    "kms:VerifyMac",
    "kms:DeriveSharedSecret",
];

/// Allowed by no list of actions, only by a pattern such as `kms:*`.
pub const ANY_ACTION: &str = "kms:HsmBridgeAnyAction";
const ASSUME_ROLE: &str = "sts:AssumeRole";
/// Decisions at most: beyond it the question has to be narrowed to a key or a principal.
pub const MOST_DECISIONS: u64 = 4_000_000;

/// One action of one principal on one key that would be allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    /// ARN; the role's own for sessions of a role.
    pub principal: String,
    /// `user`, `role`, `root`, `service`
    pub kind: &'static str,
    pub key: String,
    pub key_arn: String,
    pub action: &'static str,
    /// `key_policy`, `identity`, `grant` and so on.
    pub by: &'static str,
    /// The policy and statement that allow.
    pub statement: Option<String>,
    pub grant: Option<String>,
    /// Only where the request meets conditions or a grant's constraints.
    pub conditional: bool,
}

/// One role that a principal may assume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Assumption {
    pub principal: String,
    pub role: String,
    pub conditional: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Effective {
    pub permissions: Vec<Permission>,
    pub assumptions: BTreeSet<Assumption>,
    /// More decisions than allowed: what is here is not all.
    pub cut: bool,
    /// AWS managed keys, which only their services use: not asked about.
    pub managed_keys: u64,
}

struct Asker {
    arn: String,
    kind: &'static str,
    caller: Caller,
}

/// All that is allowed. `keys`, `principals`: ids or ARNs that it is narrowed to; `now`: milliseconds since the epoch.
pub fn effective(state: &State, keys: Option<&str>, principals: Option<&str>, now: i64) -> Effective {
    let world = World {
        kept: state.records(Conditions::Kept),
        met: state.records(Conditions::Met),
        here: Locality { account: state.account.clone(), region: state.region.clone() },
        environment: Environment {
            now,
            source_ip: None,
            secure_transport: true,
            user_agent: None,
            region: state.region.clone(),
        },
    };
    let mut found = Effective::default();
    let mut left = MOST_DECISIONS;
    for asker in askers(state, now) {
        if principals.is_some_and(|wanted| !asker.arn.contains(wanted)) {
            continue;
        }
        for role in state.roles.values() {
            let arn = format!("arn:aws:iam::{}:role{}{}", role.account, role.path, role.name);
            if arn == asker.arn || asker.kind == "service" {
                continue;
            }
            left = left.saturating_sub(1);
            if let Some((_, conditional)) = world.may_assume(&asker.caller, role, &arn) {
                found.assumptions.insert(Assumption { principal: asker.arn.clone(), role: arn, conditional });
            }
        }
        for key in state.keys.values() {
            if keys.is_some_and(|wanted| wanted != key.arn && wanted != key.id.to_string()) {
                continue;
            }
            if key.managed_by.is_some() {
                found.managed_keys += 1;
                continue;
            }
            for action in ADMIN_ACTIONS.iter().chain(USE_ACTIONS).copied().chain([ANY_ACTION]) {
                if left == 0 {
                    found.cut = true;
                    return found;
                }
                left -= 1;
                let Some((verdict, conditional)) = world.may(&asker.caller, action, key.id) else { continue };
                let statement = verdict.statement.map(|s| {
                    let name = s.sid.unwrap_or_else(|| format!("#{}", s.index));
                    format!("{} {} {name}", s.kind, s.policy)
                });
                found.permissions.push(Permission {
                    principal: asker.arn.clone(),
                    kind: asker.kind,
                    key: key.id.to_string(),
                    key_arn: key.arn.clone(),
                    action,
                    by: verdict.by.as_str(),
                    statement,
                    grant: verdict.grant,
                    conditional,
                });
            }
        }
    }
    found
}

struct World {
    kept: Snapshot,
    /// Every condition met.
    met: Snapshot,
    here: Locality,
    environment: Environment,
}

impl World {
    /// `None`: refused whatever the request says. Else whether it takes conditions.
    fn may(&self, caller: &Caller, action: &'static str, key: crate::ids::KeyId) -> Option<(Verdict, bool)> {
        self.decided(&|snapshot: &Snapshot| {
            let record = snapshot.keys.get(&key)?;
            let arn = self.here.of(&record.account).key_arn(&key);
            let mut check = Check::new(action, Resource::Key { arn: &arn, record });
            let aliases = snapshot.aliases_of.get(&key);
            check.conditions.resource_aliases = aliases.map_or(&[][..], Vec::as_slice);
            self.ask(caller, &check, snapshot)
        })
    }

    fn may_assume(&self, caller: &Caller, role: &super::state::Role, arn: &str) -> Option<(Verdict, bool)> {
        self.decided(&|snapshot: &Snapshot| {
            let record = snapshot.role(&role.account, &role.name)?;
            self.ask(caller, &Check::new(ASSUME_ROLE, Resource::Role { arn, record }), snapshot)
        })
    }

    fn decided(&self, ask: &dyn Fn(&Snapshot) -> Option<Verdict>) -> Option<(Verdict, bool)> {
        let met = ask(&self.met).filter(|verdict| verdict.allowed)?;
        match ask(&self.kept).filter(|verdict| verdict.allowed) {
            Some(kept) => Some((kept, false)),
            None => Some((met, true)),
        }
    }

    fn ask(&self, caller: &Caller, check: &Check<'_>, snapshot: &Snapshot) -> Option<Verdict> {
        let identity = Identity::of(caller, snapshot).ok()?;
        let mut check = check.clone();
        check.encryption_context = Cow::Borrowed(&[]);
        with_question(&identity, &check, snapshot, &self.environment, true, evaluate).ok()
    }
}

/// Everybody who may ask: root users, users, roles and services.
fn askers(state: &State, now: i64) -> Vec<Asker> {
    let mut accounts: BTreeMap<&str, &crate::ids::AccountId> = BTreeMap::new();
    accounts.insert(state.account.as_str(), &state.account);
    accounts.extend(state.accounts.values().map(|account| (account.id.as_str(), &account.id)));
    let mut askers = Vec::new();
    for account in accounts.values() {
        let caller = Caller::simulated(Principal::Root, (*account).clone(), None);
        askers.push(Asker { arn: format!("arn:aws:iam::{account}:root"), kind: "root", caller });
    }
    for user in state.users.values() {
        let principal =
            Principal::User { name: user.name.clone(), path: user.path.clone(), user_id: user.user_id.clone() };
        let caller = Caller::simulated(principal, user.account.clone(), None);
        let arn = format!("arn:aws:iam::{}:user{}{}", user.account, user.path, user.name);
        askers.push(Asker { arn, kind: "user", caller });
    }
    for role in state.roles.values() {
        let principal = Principal::AssumedRole {
            role: role.name.clone(),
            path: role.path.clone(),
            role_id: role.role_id.clone(),
            session_name: "audit-report".to_owned(),
        };
        let issued = now.div_euclid(1000);
        let session = Session {
            issued,
            expires: issued + 3_600,
            mfa_at: None,
            source_identity: None,
            tags: Vec::new(),
            transitive: Vec::new(),
            policies: None,
            federated_provider: None,
            claims: Vec::new(),
            chained: false,
        };
        let caller = Caller::simulated(principal, role.account.clone(), Some(session));
        let arn = format!("arn:aws:iam::{}:role{}{}", role.account, role.path, role.name);
        askers.push(Asker { arn, kind: "role", caller });
    }
    for service in state.services.values() {
        let principal = Principal::Service { name: service.name.clone(), service_id: service.service_id.clone() };
        let caller = Caller::simulated(principal, service.account.clone(), None);
        askers.push(Asker { arn: service.name.to_string(), kind: "service", caller });
    }
    askers
}
