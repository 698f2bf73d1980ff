//! Answers questions about the log: put together from what the log's parts can tell.

mod export;

use crate::ops::{AuditAnswer, AuditOffice, AuditRequest, Context, OpError};
use crate::store::BoxFuture;
pub use export::Exports;

pub struct Office {
    pub exports: Exports,
}

impl AuditOffice for Office {
    fn answer<'a>(
        &'a self,
        request: &'a AuditRequest,
        ctx: &'a Context,
    ) -> BoxFuture<'a, Result<AuditAnswer, OpError>> {
        Box::pin(async move {
            match request {
                AuditRequest::Export(request) => self.exports.make(request, ctx).await.map(AuditAnswer::Made),
                other => Err(OpError::Internal(format!("{} is not served yet", other.name()))),
            }
        })
    }
}
