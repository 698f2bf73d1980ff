//! Identities: accounts, users, groups, roles, policies, organisation units, identity providers, services. Changed by the
//! operator (`hsm-bridge iam …`), one at a time or as a whole folder.

pub mod apply;
mod builtin;
pub mod change;
pub mod edit;
mod edited;
mod query;
mod root;
mod shown;
mod used;
mod writes;

use serde::{Deserialize, Serialize};

pub use apply::{IamApply, IamDesired, IamEntity, IamManaged};
pub use change::*;
pub use edit::*;

use serde_json::{Value, json};

use crate::authn::{self, Caller};
use crate::ids::{AccessKeyId, AccountId, RoleName, ServiceName, UserName};
use crate::ops::{Context, Effects, OpError, OperatorResponse, Ops, Resolved};
use crate::store::{RevokedSessionRecord, Snapshot, Write};
use shown::{Documents, differences};
pub use used::AccessKeyUses;
pub use writes::{IdKind, all_writes, writes};

/// The deployment's own account until somebody names it.
const OWN_ACCOUNT_NAME: &str = "deployment";
/// RULE authorization.md §4.3: no session lasts longer than 36 hours, so no revocation has to.
const LONGEST_SESSION_MS: i64 = 36 * 3_600_000;
/// Entries of a change that its audit record holds in full, and those that it names.
const TOLD_IN_FULL: usize = 20;
const TOLD_BY_NAME: usize = 500;

/// What `hsm-bridge iam …` asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "iam", rename_all = "kebab-case", deny_unknown_fields)]
pub enum IamRequest {
    /// All of the changes, or none. `dry_run`: only what they would do.
    Change {
        changes: Vec<IamChange>,
        dry_run: bool,
    },
    /// One thing about one entity; the account is the deployment's own where none is named.
    Edit {
        account: Option<AccountId>,
        edit: Box<IamEdit>,
    },
    /// One entity, or all of a kind: as AWS-format JSON.
    Show {
        what: IamQuery,
    },
    /// A new access key of a user or a service: two at most.
    AccessKeyCreate {
        account: Option<AccountId>,
        user: Option<UserName>,
        service: Option<ServiceName>,
    },
    AccessKeyUpdate {
        id: AccessKeyId,
        active: bool,
    },
    AccessKeyDelete {
        id: AccessKeyId,
    },
    RootDisable {
        account: Option<AccountId>,
    },
    RootEnable {
        account: Option<AccountId>,
    },
    RootStatus {
        account: Option<AccountId>,
    },
    /// Sessions of the role that were issued before now are refused from now on.
    RoleRevokeSessions {
        account: Option<AccountId>,
        role: RoleName,
    },
    /// One session, by its access key id.
    SessionRevoke {
        access_key: AccessKeyId,
    },
    /// A folder of AWS-format documents, read by the command line: what they say shall be so.
    Apply(Box<IamApply>),
    /// All identities, for such a folder.
    Export,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct IamQuery {
    pub kind: IamKind,
    pub account: Option<AccountId>,
    /// Name, ARN or id, as the kind has it; `None`: all.
    pub name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum IamKind {
    Account,
    Unit,
    User,
    Group,
    Role,
    Policy,
    OidcProvider,
    Service,
    AccessKey,
}

impl IamRequest {
    /// The name in `operator.allow`.
    pub fn permission(&self) -> &'static str {
        match self {
            IamRequest::Show { what: IamQuery { kind: IamKind::AccessKey, .. } } => "access-key:list",
            IamRequest::Show { .. } | IamRequest::RootStatus { .. } | IamRequest::Export => "iam:read",
            IamRequest::Change { dry_run: true, .. } => "iam:read",
            IamRequest::Apply(apply) if apply.dry_run => "iam:read",
            IamRequest::AccessKeyCreate { .. } | IamRequest::AccessKeyUpdate { active: true, .. } => {
                "access-key:create"
            }
            IamRequest::AccessKeyUpdate { active: false, .. } | IamRequest::AccessKeyDelete { .. } => {
                "access-key:disable"
            }
            IamRequest::RootDisable { .. } | IamRequest::RootEnable { .. } => "iam:root",
            IamRequest::Change { .. }
            | IamRequest::Edit { .. }
            | IamRequest::RoleRevokeSessions { .. }
            | IamRequest::SessionRevoke { .. }
            | IamRequest::Apply(_) => "iam:change",
        }
    }

    /// `eventName` of the audit record.
    pub fn name(&self) -> &'static str {
        match self {
            IamRequest::Change { .. } => "IamChange",
            IamRequest::Edit { .. } => "IamChange",
            IamRequest::Show { .. } => "IamShow",
            IamRequest::RootStatus { .. } => "RootStatus",
            IamRequest::AccessKeyCreate { .. } => "AccessKeyCreate",
            IamRequest::AccessKeyUpdate { .. } => "AccessKeyUpdate",
            IamRequest::AccessKeyDelete { .. } => "AccessKeyDelete",
            IamRequest::RootDisable { .. } => "RootDisable",
            IamRequest::RootEnable { .. } => "RootEnable",
            IamRequest::RoleRevokeSessions { .. } => "RoleRevokeSessions",
            IamRequest::SessionRevoke { .. } => "SessionRevoke",
            IamRequest::Apply(_) => "IamApply",
            IamRequest::Export => "IamExport",
        }
    }

    /// What the audit log keeps of it: no document in full, of many changes the first.
    pub fn recorded(&self) -> Option<Value> {
        // A folder of any size is told by its digest.
        if let IamRequest::Apply(apply) = self {
            return Some(json!({ "iam": "apply", "apply": apply.recorded() }));
        }
        Some(shown::recorded(serde_json::to_value(self).ok()?, TOLD_IN_FULL))
    }

    pub fn changes(&self) -> bool {
        !matches!(self.permission(), "iam:read" | "access-key:list")
    }
}

impl Ops {
    pub(super) async fn iam(
        &self,
        request: &IamRequest,
        _caller: &Caller,
        resolved: &Resolved,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        let snapshot = resolved.snapshot();
        let own = &self.locality.account;
        let report = match request {
            IamRequest::Show { what: what @ IamQuery { kind: IamKind::AccessKey, .. } } => {
                // What was noted and is not written yet is a use too.
                self.write_access_key_uses().await;
                query::answer(&self.store.snapshot(), own, what)?
            }
            IamRequest::Show { what } => query::answer(snapshot, own, what)?,
            IamRequest::Change { changes, dry_run } => {
                let (changes, now) = (changes.clone(), ctx.now);
                let decide = move |snapshot: &Snapshot| Ok(all_writes(snapshot, &changes, now, &mut new_id)?.0);
                json!({ "Changes": self.change_identities(*dry_run, ctx, effects, decide).await? })
            }
            IamRequest::Edit { account, edit } => {
                let (account, edit, now) = (self.iam_account(account.as_ref()), edit.clone(), ctx.now);
                let decide = move |snapshot: &Snapshot| {
                    let (change, trust) = edited::change_of(snapshot, &account, &edit, &mut new_id)?;
                    writes::writes_with(snapshot, &change, trust, now, &mut new_id)
                };
                json!({ "Changes": self.change_identities(false, ctx, effects, decide).await? })
            }
            IamRequest::AccessKeyCreate { account, user, service } => {
                let account = self.iam_account(account.as_ref());
                return self.create_access_key_of(&account, user.as_ref(), service.as_ref(), ctx, effects).await;
            }
            IamRequest::AccessKeyUpdate { id, active } => self.update_access_key(id, *active, ctx, effects).await?,
            IamRequest::AccessKeyDelete { id } => self.delete_access_key(id, ctx, effects).await?,
            IamRequest::RootStatus { account } => {
                let account = self.iam_account(account.as_ref());
                let record = query::account_record(snapshot, &account);
                let record = record.ok_or_else(|| OpError::Validation(format!("there is no account {account}")))?;
                json!({ "Account": shown::account(&record) })
            }
            IamRequest::RootDisable { account } => self.set_root(account.as_ref(), false, ctx, effects).await?,
            IamRequest::RootEnable { account } => self.set_root(account.as_ref(), true, ctx, effects).await?,
            IamRequest::RoleRevokeSessions { account, role } => {
                let (account, role, now) = (self.iam_account(account.as_ref()), role.clone(), ctx.now);
                let decide = move |snapshot: &Snapshot| {
                    let record = snapshot.role(&account, &role);
                    let record = record
                        .ok_or_else(|| OpError::Validation(format!("The role with name {role} cannot be found.")))?;
                    let mut record = record.as_ref().clone();
                    record.sessions_revoked_before = Some(now);
                    Ok(vec![Write::PutRole(record)])
                };
                json!({ "Changes": self.change_identities(false, ctx, effects, decide).await? })
            }
            IamRequest::SessionRevoke { access_key } => self.revoke_session(access_key, ctx, effects).await?,
            IamRequest::Export => apply::everything(snapshot, own)?,
            IamRequest::Apply(request) => self.apply(request, ctx, effects).await?,
        };
        Ok(OperatorResponse::Iam { report })
    }

    fn iam_account(&self, named: Option<&AccountId>) -> AccountId {
        named.unwrap_or(&self.locality.account).clone()
    }

    /// What `decide` says, in one transaction, with what it changed as the answer. Nobody is let in by it before it is durable,
    /// and everybody is measured by it from the next request on.
    pub(super) async fn change_identities(
        &self,
        dry_run: bool,
        ctx: &Context,
        effects: &mut Effects,
        decide: impl FnOnce(&Snapshot) -> Result<Vec<Write>, OpError> + Send + 'static,
    ) -> Result<Vec<Value>, OpError> {
        if dry_run {
            let snapshot = self.store.snapshot();
            let writes = decide(&snapshot)?;
            return Ok(differences(&snapshot, &writes, Documents::Whole));
        }
        let (done, version) = self
            .change(ctx, move |snapshot| {
                let writes = decide(snapshot)?;
                let done = Done {
                    told: differences(snapshot, &writes, Documents::Whole),
                    recorded: differences(snapshot, &writes, Documents::Digest),
                    gone: writes.iter().filter_map(gone).cloned().collect(),
                };
                Ok((writes, done))
            })
            .await?;
        effects.store_version = Some(version);
        effects.details = Some(in_the_log(done.recorded));
        effects.forget.extend(done.gone);
        Ok(done.told)
    }

    async fn revoke_session(&self, id: &AccessKeyId, ctx: &Context, effects: &mut Effects) -> Result<Value, OpError> {
        if !id.as_str().starts_with("ASIA") {
            return Err(OpError::Validation(format!(
                "`{id}` is no access key id of temporary credentials (`ASIA…`): use `iam access-key disable`"
            )));
        }
        let record = RevokedSessionRecord { access_key: id.to_string(), until: ctx.now + LONGEST_SESSION_MS };
        let ((), version) = self.change(ctx, move |_| Ok((vec![Write::PutRevokedSession(record)], ()))).await?;
        effects.store_version = Some(version);
        effects.details = Some(json!({ "accessKeyId": id }));
        effects.forget.push(id.clone());
        Ok(json!({ "Session": { "AccessKeyId": id, "Status": "Revoked" } }))
    }
}

struct Done {
    told: Vec<Value>,
    recorded: Vec<Value>,
    gone: Vec<AccessKeyId>,
}

fn gone(write: &Write) -> Option<&AccessKeyId> {
    match write {
        Write::DeleteAccessKey(id) => Some(id),
        _ => None,
    }
}

/// A record is of bounded size: a folder of ten thousand users is named as far as it fits, and counted.
fn in_the_log(mut changes: Vec<Value>) -> Value {
    let count = changes.len();
    changes.truncate(TOLD_BY_NAME);
    for change in changes.iter_mut().skip(TOLD_IN_FULL) {
        if let Value::Object(members) = change {
            members.retain(|name, _| matches!(name.as_str(), "Kind" | "Name" | "Action"));
        }
    }
    json!({ "changes": changes, "count": count })
}

/// An id that nobody had before.
pub(super) fn new_id(kind: IdKind) -> String {
    let mut random = [0; 11];
    getrandom::fill(&mut random).expect("the system has a random generator");
    match kind {
        IdKind::User => authn::new_unique_id("AIDA", random),
        IdKind::Group => authn::new_unique_id("AGPA", random),
        IdKind::Role => authn::new_unique_id("AROA", random),
        IdKind::Policy => authn::new_unique_id("ANPA", random),
        IdKind::Service => authn::new_unique_id("ASVC", random),
        IdKind::OrganizationPolicy => authn::new_unique_id("p-", random).to_lowercase(),
        IdKind::Root => authn::new_unique_id("r-", random).to_lowercase(),
        IdKind::Unit => authn::new_unique_id("ou-", random).to_lowercase(),
        IdKind::Organization => authn::new_unique_id("o-", random).to_lowercase(),
    }
}
