//! The root user of an account: the bootstrap administrator, refused once somebody else administers.

use serde_json::{Value, json};

use super::query::account_record;
use super::shown;
use crate::ids::AccountId;
use crate::ops::{Context, Effects, OpError, Ops};
use crate::store::Write;

impl Ops {
    /// From the next request on. The alarm is the record itself: its name is `RootEnable` or `RootDisable`.
    pub(super) async fn set_root(
        &self,
        account: Option<&AccountId>,
        enabled: bool,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Value, OpError> {
        let account = self.iam_account(account);
        let (record, version) = self
            .change(ctx, move |snapshot| {
                let record = account_record(snapshot, &account);
                let mut record = record.ok_or_else(|| OpError::Validation(format!("there is no account {account}")))?;
                record.root_enabled = enabled;
                Ok((vec![Write::PutAccount(record.clone())], record))
            })
            .await?;
        effects.store_version = Some(version);
        effects.details = Some(json!({ "account": record.id, "rootEnabled": record.root_enabled }));
        Ok(json!({ "Account": shown::account(&record) }))
    }
}
