//! Key policies: written with their principals bound, shown, and never so that nobody can change them any more.
//! Source: authorization.md §1.1, §1.3, §1.9.

pub(super) mod lockout;
mod principals;
mod shown;
pub(super) mod template;
#[cfg(test)]
pub(super) mod testing;

use crate::authz::Permit;
use crate::authz::language::{Policy, PolicyKind};
use crate::ops::keys::{newest, not_pending};
use crate::ops::resolve::{KeyTarget, Resolved};
use crate::ops::{Context, Effects, OpError, Ops, Response};
use crate::store::{PolicyDocument, Snapshot, Write};

use lockout::stays_in_hand;
use principals::Known;
pub use shown::shown;
pub use template::{ConsolePolicy, default_policy};

impl Ops {
    pub(super) async fn put_policy(
        &self,
        key: &KeyTarget,
        text: &str,
        bypass: bool,
        permit: &Permit<Resolved>,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        let policy = self.policy_to_write(text, Some(&key.record.policy), permit.resolved().snapshot())?;
        if !bypass {
            stays_in_hand(permit, &key.arn, &key.record.account, &policy)?;
        }
        self.settled(&key.record.id, &key.arn)?;
        let (id, arn, seen) = (key.record.id, key.arn.clone(), key.record.policy_version);
        let ((), version) = self
            .change(ctx, move |snapshot| {
                let mut record = newest(snapshot, &id, &arn)?;
                not_pending(&record, &arn)?;
                // It was authorised by the policy that it replaces, and ids of the gone were taken from it: where that one is
                // another by now, the caller comes again.
                if record.policy_version != seen {
                    return Err(OpError::Throttled);
                }
                record.policy = policy;
                record.policy_version += 1;
                Ok((vec![Write::PutKey(record)], ()))
            })
            .await?;
        effects.store_version = Some(version);
        Ok(Response::Empty)
    }

    /// A policy that may be written: its form, and that its principals exist. `current`: the one that it replaces.
    pub(super) fn policy_to_write(
        &self,
        text: &str,
        current: Option<&PolicyDocument>,
        snapshot: &Snapshot,
    ) -> Result<PolicyDocument, OpError> {
        let policy = Policy::parse(text, PolicyKind::Key).map_err(|refused| match refused.too_long {
            true => OpError::LimitExceeded(refused.text),
            false => OpError::MalformedPolicy(refused.text),
        })?;
        let known = Known { snapshot, current, unknown_accounts: self.allow_unknown_accounts };
        Ok(PolicyDocument::new(text, known.bind(&policy)?))
    }
}
