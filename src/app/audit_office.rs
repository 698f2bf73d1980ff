//! Answers questions about the log: puts together what the parts of the log do.

mod report;

use std::sync::{Arc, Weak};

use crate::config::Config;
use crate::http::Services;
use crate::ops::{AuditAnswer, AuditOffice, AuditRequest, Context, OpError};
use crate::store::BoxFuture;

pub(super) struct Office {
    /// The services hold the office.
    services: Weak<Services>,
    config: Config,
    /// One report at a time: each reads the whole log.
    reporting: tokio::sync::Mutex<()>,
}

impl Office {
    pub fn new(services: &Arc<Services>, config: &Config) -> Self {
        let reporting = tokio::sync::Mutex::default();
        Self { services: Arc::downgrade(services), config: config.clone(), reporting }
    }

    fn services(&self) -> Result<Arc<Services>, OpError> {
        self.services.upgrade().ok_or_else(|| OpError::Internal("the service is ending".to_owned()))
    }
}

impl AuditOffice for Office {
    fn answer<'a>(
        &'a self,
        request: &'a AuditRequest,
        ctx: &'a Context,
    ) -> BoxFuture<'a, Result<AuditAnswer, OpError>> {
        Box::pin(async move {
            match request {
                AuditRequest::Report(request) => report::answer(self, request, ctx).await,
                other => Err(OpError::Unsupported(format!("{} is not served", other.name()))),
            }
        })
    }
}
