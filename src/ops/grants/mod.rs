//! Grants: made, listed, retired, revoked. Source: authorization.md §1.8.

mod list;
mod rules;
#[cfg(test)]
mod tests;
mod token;

use crate::ids::GrantId;
use crate::ops::resolve::KeyTarget;
use crate::ops::{Context, CreateGrant, Effects, OpError, Ops, Response};
use crate::store::{GrantRecord, Snapshot, Write};

use list::grant_id;
use rules::{MOST_OF_A_KEY, Wanted};
pub(super) use token::GrantTokenKey;

impl Ops {
    pub(super) async fn create_grant(
        &self,
        key: &KeyTarget,
        request: &CreateGrant,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        self.settled(&key.record.id, &key.arn)?;
        let wanted = Wanted::new(new_grant_id()?, key, request, ctx.account.clone(), ctx.now);
        if request.dry_run {
            wanted.decide(&self.store.snapshot(), MOST_OF_A_KEY)?;
            return Err(OpError::DryRun);
        }
        let random = random()?;
        let (grant, version) = self.change(ctx, move |snapshot| wanted.decide(snapshot, MOST_OF_A_KEY)).await?;
        effects.store_version = Some(version);
        let token = self.grant_tokens.make(key.record.id, &grant, random)?;
        Ok(Response::CreateGrant { grant, token })
    }

    /// The grant is the one for which the caller was authorised.
    pub(super) async fn retire_grant(
        &self,
        key: &KeyTarget,
        grant: &GrantRecord,
        dry_run: bool,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        effects.grant = Some(grant.id.clone());
        self.delete_grant(key, grant.id.clone(), dry_run, ctx, effects).await
    }

    pub(super) async fn revoke_grant(
        &self,
        key: &KeyTarget,
        grant: &str,
        dry_run: bool,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        self.delete_grant(key, grant_id(grant)?, dry_run, ctx, effects).await
    }

    async fn delete_grant(
        &self,
        key: &KeyTarget,
        grant: GrantId,
        dry_run: bool,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        self.settled(&key.record.id, &key.arn)?;
        let id = key.record.id;
        let there = move |snapshot: &Snapshot| match snapshot.grants.contains_key(&(id, grant.clone())) {
            true => Ok(grant),
            false => Err(OpError::GrantNotFound(grant.to_string())),
        };
        if dry_run {
            there(&self.store.snapshot())?;
            return Err(OpError::DryRun);
        }
        let ((), version) =
            self.change(ctx, move |snapshot| Ok((vec![Write::DeleteGrant(id, there(snapshot)?)], ()))).await?;
        effects.store_version = Some(version);
        Ok(Response::Empty)
    }
}

/// 64 hex digits from the system's generator.
pub(super) fn new_grant_id() -> Result<GrantId, OpError> {
    let id: [u8; 32] = random()?;
    hex::encode(id).parse().map_err(|e| OpError::Internal(format!("a new grant id: {e}")))
}

fn random<const N: usize>() -> Result<[u8; N], OpError> {
    let mut bytes = [0u8; N];
    getrandom::fill(&mut bytes).map_err(|e| OpError::Internal(format!("no randomness: {e}")))?;
    Ok(bytes)
}
