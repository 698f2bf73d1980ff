//! Answers questions about the log, from the files of the trail's directory: the trail itself, the bucket of sealed files, the
//! index. What is asked has been permitted; that it was asked is recorded after.

mod bucket;
mod export;
mod lookup;
mod report;
mod trail;

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::{audit_directory, audit_settings};
use crate::audit::Journal;
use crate::audit::index::Index;
use crate::config::Config;
use crate::http::Services;
use crate::ops::{
    AuditAnswer, AuditOffice, AuditRequest, BucketRequest, Context, OpError, TrailNames, TrailRefusal, TrailRequest,
};
use crate::store::BoxFuture;

pub(super) use bucket::Bucket;
pub use export::Exports;
pub(super) use trail::Trail;

/// The index takes in what came meanwhile at once.
const BETWEEN_FEEDS: Duration = Duration::from_millis(100);
const AFTER_FAILURE: Duration = Duration::from_secs(10);

pub struct Office {
    names: TrailNames,
    trail: Arc<Trail>,
    bucket: Arc<Bucket>,
    journal: Journal,
    index: Index,
    exports: Exports,
    /// The services hold the office.
    services: Weak<Services>,
    config: Config,
    /// One report at a time: each reads the whole log.
    reporting: tokio::sync::Mutex<()>,
}

impl Office {
    pub fn new(services: &Arc<Services>, config: &Config, index: Index, exports: Exports) -> Office {
        let here = &config.server.locality;
        let dir = audit_directory(config);
        let names = TrailNames {
            account: here.account.clone(),
            trail_arn: audit_settings(config).trail_arn,
            bucket: config.audit.bucket.clone(),
        };
        let bucket = Arc::new(Bucket::new(dir.join("bucket")));
        let trail = Arc::new(Trail {
            dir,
            names: names.clone(),
            name: config.audit.trail.clone(),
            region: here.region.clone(),
            key_prefix: config.audit.key_prefix.clone(),
            bucket: bucket.clone(),
        });
        Office {
            names,
            trail,
            bucket,
            journal: services.journal.clone(),
            index,
            exports,
            services: Arc::downgrade(services),
            config: config.clone(),
            reporting: tokio::sync::Mutex::default(),
        }
    }

    fn services(&self) -> Result<Arc<Services>, OpError> {
        self.services.upgrade().ok_or_else(|| OpError::Internal("the service is ending".to_owned()))
    }

    async fn of_trail(&self, request: &TrailRequest, ctx: &Context) -> Result<AuditAnswer, OpError> {
        if let TrailRequest::LookupEvents(asked) = request {
            return lookup::answer(&self.index, &self.journal, asked).await.map(AuditAnswer::Trail);
        }
        let (trail, request, now) = (self.trail.clone(), request.clone(), ctx.now);
        blocking(move || trail.answer(&request, now)).await.map(AuditAnswer::Trail)
    }
}

impl AuditOffice for Office {
    fn names(&self) -> &TrailNames {
        &self.names
    }

    fn answer<'a>(
        &'a self,
        request: &'a AuditRequest,
        ctx: &'a Context,
    ) -> BoxFuture<'a, Result<AuditAnswer, OpError>> {
        Box::pin(async move {
            match request {
                AuditRequest::Trail(request) => self.of_trail(request, ctx).await,
                AuditRequest::Bucket(request) => of_bucket(&self.names.bucket, &self.bucket, request).await,
                // `Ops` answers that itself: nothing is looked up.
                AuditRequest::Stream(_) => Err(OpError::Internal("a stream was asked of the office".to_owned())),
                AuditRequest::Export(request) => self.exports.make(request, ctx).await.map(AuditAnswer::Made),
                AuditRequest::Report(request) => report::answer(self, request, ctx).await,
            }
        })
    }
}

/// `name`: what the bucket is called.
pub(super) async fn of_bucket(
    name: &str,
    bucket: &Arc<Bucket>,
    request: &BucketRequest,
) -> Result<AuditAnswer, OpError> {
    let named = match request {
        BucketRequest::ListBuckets => return Ok(AuditAnswer::Buckets { bucket: name.to_owned() }),
        BucketRequest::HeadBucket { bucket }
        | BucketRequest::GetBucketLocation { bucket }
        | BucketRequest::GetObject { bucket, .. }
        | BucketRequest::Change { bucket, .. } => bucket,
        BucketRequest::ListObjects(list) => &list.bucket,
    };
    if *named != *name {
        return Err(OpError::Trail(TrailRefusal::NoSuchBucket(named.clone())));
    }
    let bucket = bucket.clone();
    match request.clone() {
        BucketRequest::ListBuckets | BucketRequest::HeadBucket { .. } => Ok(AuditAnswer::Found),
        BucketRequest::GetBucketLocation { .. } => Ok(AuditAnswer::Location),
        BucketRequest::ListObjects(list) => blocking(move || bucket.list(list)).await.map(AuditAnswer::Objects),
        BucketRequest::GetObject { key, range, head, .. } => {
            blocking(move || bucket.object(&key, range.as_deref(), head)).await.map(AuditAnswer::Object)
        }
        BucketRequest::Change { .. } => Err(OpError::Trail(TrailRefusal::BucketIsReadOnly)),
    }
}

/// Feeds the index while the service runs, behind the requests: it reads the log's files as anybody would.
pub(super) async fn keep_index(index: Index, journal: Journal, mut stopped: watch::Receiver<bool>) {
    let mut durable = journal.watch_durable();
    loop {
        let (fed, until, stop) = (index.clone(), *durable.borrow_and_update(), stopped.clone());
        let done = tokio::task::spawn_blocking(move || fed.catch_up(until, &|| *stop.borrow())).await;
        let mut wait = BETWEEN_FEEDS;
        if let Ok(Err(error)) = done {
            tracing::error!(%error, "the index of the log is behind, another try follows");
            wait = AFTER_FAILURE;
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stopped.changed() => return,
        }
        tokio::select! {
            changed = durable.changed() => if changed.is_err() { return },
            _ = stopped.changed() => return,
        }
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OpError> + Send + 'static,
) -> Result<T, OpError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(OpError::Internal(format!("reading the log ended early: {error}"))),
    }
}

/// The cause is for the log.
fn unreadable(what: &str, error: impl std::fmt::Display) -> OpError {
    OpError::Internal(format!("{what} cannot be read: {error}"))
}
