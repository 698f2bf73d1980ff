//! The audit trail as its readers ask for it: CloudTrail's and S3's read-only calls, the stream, exports and reports. What they
//! are answered comes from an `AuditOffice`, which `app` puts together from the log: this part knows what may be asked, and of
//! what permission each needs. Source: audit.md §2.7, §5, §7.7, §7.8.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ops::{Context, Effects, OpError, OperatorResponse, Ops};
use crate::store::BoxFuture;

/// One question about the log.
#[derive(Debug, Clone)]
pub enum AuditRequest {
    Trail(TrailRequest),
    Bucket(BucketRequest),
    /// Opens a stream of records from `from_seq` on (`None`: what comes from now on).
    Stream(StreamRequest),
    Export(ExportRequest),
    Report(ReportRequest),
}

/// CloudTrail's operations.
#[derive(Debug, Clone)]
pub enum TrailRequest {
    DescribeTrails {
        names: Vec<String>,
    },
    GetTrail {
        name: String,
    },
    GetTrailStatus {
        name: String,
    },
    ListTrails,
    ListPublicKeys,
    GetEventSelectors {
        trail: String,
    },
    LookupEvents(LookupEvents),
    /// StopLogging, DeleteTrail and the like: refused whoever asks, and recorded.
    Change {
        operation: &'static str,
        trail: Option<String>,
    },
}

#[derive(Debug, Clone, Default)]
pub struct LookupEvents {
    /// At most one: `(AttributeKey, AttributeValue)`.
    pub attribute: Option<(String, String)>,
    /// Seconds since the epoch.
    pub start: Option<i64>,
    pub end: Option<i64>,
    /// 1 to 50.
    pub max_results: u32,
    pub next_token: Option<String>,
}

/// S3's operations on the bucket of sealed files. `bucket` as named by the caller.
#[derive(Debug, Clone)]
pub enum BucketRequest {
    ListBuckets,
    HeadBucket {
        bucket: String,
    },
    GetBucketLocation {
        bucket: String,
    },
    ListObjects(ListObjects),
    GetObject {
        bucket: String,
        key: String,
        range: Option<String>,
        head: bool,
    },
    /// PUT, POST, DELETE: refused whoever asks, and recorded.
    Change {
        operation: &'static str,
        bucket: String,
        key: Option<String>,
    },
}

/// ListObjects (V1 and V2).
#[derive(Debug, Clone, Default)]
pub struct ListObjects {
    pub bucket: String,
    pub v2: bool,
    pub prefix: String,
    /// V1's `marker`, V2's `start-after` or what its continuation token holds: keys behind it.
    pub after: String,
    pub delimiter: Option<String>,
    /// At most 1,000.
    pub max_keys: u32,
    pub url_encoded: bool,
}

#[derive(Debug, Clone)]
pub struct StreamRequest {
    pub from_seq: Option<u64>,
    /// Newline-delimited JSON instead of server-sent events.
    pub ndjson: bool,
}

/// `hsm-bridge audit export` and HsmBridge.ExportAudit.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportRequest {
    /// Milliseconds since the epoch; from inclusive, to exclusive.
    pub from: Option<i64>,
    pub to: Option<i64>,
    /// `csv`, `jsonl`, `ocsf`, `cef`, `cloudtrail`.
    pub formats: Vec<String>,
    /// ARN or id of a key.
    pub key: Option<String>,
    /// ARN, user name or access key.
    pub principal: Option<String>,
    pub event: Option<String>,
    pub errors_only: bool,
    /// `1.8` (the default) or `1.9`.
    pub ocsf_version: Option<String>,
    /// Where the operator wants the bundle; `None`: below `exports/` of the trail's bucket only.
    pub out: Option<PathBuf>,
}

/// `hsm-bridge audit report` and HsmBridge.AuditReport.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportRequest {
    /// `R1` … `R14` or its name (`key-inventory`).
    pub name: String,
    pub from: Option<i64>,
    pub to: Option<i64>,
    pub as_of: Option<i64>,
    pub key: Option<String>,
    pub principal: Option<String>,
    /// `html`, `csv`, `json`, `jsonl`.
    pub formats: Vec<String>,
    pub out: Option<PathBuf>,
}

/// What the log's readers are answered.
#[derive(Debug, Clone)]
pub enum AuditAnswer {
    /// CloudTrail's answer, as its JSON.
    Trail(serde_json::Value),
    Buckets {
        bucket: String,
    },
    Location,
    Found,
    Objects(ObjectList),
    Object(Object),
    /// Permitted and recorded: the front opens it.
    Stream {
        from_seq: u64,
        ndjson: bool,
    },
    /// Of an export or a report: what was made, as JSON (files, counts, where).
    Made(serde_json::Value),
}

#[derive(Debug, Clone, Default)]
pub struct ObjectList {
    pub request: ListObjects,
    pub objects: Vec<ObjectFacts>,
    pub common_prefixes: Vec<String>,
    /// Where the next page begins.
    pub next: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectFacts {
    pub key: String,
    pub size: u64,
    /// Milliseconds since the epoch.
    pub modified: i64,
    pub etag: String,
}

#[derive(Debug, Clone, Default)]
pub struct Object {
    pub facts: ObjectFacts,
    /// `None` for HEAD.
    pub body: Option<Vec<u8>>,
    /// First and last byte of `body` where a range was asked for.
    pub range: Option<(u64, u64)>,
    /// `x-amz-meta-…`: names without that prefix.
    pub metadata: Vec<(String, String)>,
    pub content_type: &'static str,
}

/// Answers questions about the log. Long work runs on threads of its own.
pub trait AuditOffice: Send + Sync {
    fn answer<'a>(&'a self, request: &'a AuditRequest, ctx: &'a Context)
    -> BoxFuture<'a, Result<AuditAnswer, OpError>>;
}

impl AuditRequest {
    /// The permission that it needs. RULE audit.md §2.7: one of its own, apart from key use and key administration.
    pub fn action(&self) -> &'static str {
        match self {
            AuditRequest::Trail(TrailRequest::Change { .. }) => "cloudtrail:StopLogging",
            AuditRequest::Trail(_) | AuditRequest::Stream(_) => "cloudtrail:LookupEvents",
            AuditRequest::Bucket(BucketRequest::GetObject { .. }) => "s3:GetObject",
            AuditRequest::Bucket(BucketRequest::Change { .. }) => "s3:PutObject",
            AuditRequest::Bucket(_) => "s3:ListBucket",
            AuditRequest::Export(_) | AuditRequest::Report(_) => "hsmbridge:ExportAudit",
        }
    }

    /// `eventName` of the record.
    pub fn name(&self) -> &'static str {
        match self {
            AuditRequest::Trail(TrailRequest::DescribeTrails { .. }) => "DescribeTrails",
            AuditRequest::Trail(TrailRequest::GetTrail { .. }) => "GetTrail",
            AuditRequest::Trail(TrailRequest::GetTrailStatus { .. }) => "GetTrailStatus",
            AuditRequest::Trail(TrailRequest::ListTrails) => "ListTrails",
            AuditRequest::Trail(TrailRequest::ListPublicKeys) => "ListPublicKeys",
            AuditRequest::Trail(TrailRequest::GetEventSelectors { .. }) => "GetEventSelectors",
            AuditRequest::Trail(TrailRequest::LookupEvents(_)) => "LookupEvents",
            AuditRequest::Trail(TrailRequest::Change { operation, .. })
            | AuditRequest::Bucket(BucketRequest::Change { operation, .. }) => operation,
            AuditRequest::Bucket(BucketRequest::ListBuckets) => "ListBuckets",
            AuditRequest::Bucket(BucketRequest::HeadBucket { .. }) => "HeadBucket",
            AuditRequest::Bucket(BucketRequest::GetBucketLocation { .. }) => "GetBucketLocation",
            AuditRequest::Bucket(BucketRequest::ListObjects(list)) if list.v2 => "ListObjectsV2",
            AuditRequest::Bucket(BucketRequest::ListObjects(_)) => "ListObjects",
            AuditRequest::Bucket(BucketRequest::GetObject { head: true, .. }) => "HeadObject",
            AuditRequest::Bucket(BucketRequest::GetObject { .. }) => "GetObject",
            AuditRequest::Stream(_) => "StreamAudit",
            AuditRequest::Export(_) => "ExportAudit",
            AuditRequest::Report(_) => "AuditReport",
        }
    }
}

impl Ops {
    /// Who answers questions about the log. Once, by `app`.
    pub fn read_audit_with(&self, office: Box<dyn AuditOffice>) {
        let _ = self.audit_office.set(office);
    }

    async fn audit(
        &self,
        request: &AuditRequest,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<AuditAnswer, OpError> {
        let Some(office) = self.audit_office.get() else {
            return Err(OpError::Internal("nobody answers questions about the log".to_owned()));
        };
        let answer = office.answer(request, ctx).await?;
        if let AuditAnswer::Made(made) = &answer {
            // Who took what out of the log: its id, range and rows.
            effects.details = Some(made.clone());
        }
        Ok(answer)
    }

    /// Over the network: nobody there names files of this host.
    pub(super) async fn audit_call(
        &self,
        request: &AuditRequest,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<AuditAnswer, OpError> {
        match request {
            AuditRequest::Export(ExportRequest { out: Some(_), .. })
            | AuditRequest::Report(ReportRequest { out: Some(_), .. }) => {
                Err(OpError::Validation("only the operator names a folder".to_owned()))
            }
            request => self.audit(request, ctx, effects).await,
        }
    }

    /// `hsm-bridge audit export`: the same as over the network.
    pub(super) async fn audit_command(
        &self,
        request: AuditRequest,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        match self.audit(&request, ctx, effects).await? {
            AuditAnswer::Made(made) => Ok(OperatorResponse::AuditMade { made }),
            other => Err(OpError::Internal(format!("unexpected answer {other:?}"))),
        }
    }
}
