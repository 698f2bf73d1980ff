//! The audit trail as its readers ask for it: CloudTrail's and S3's read-only calls, the stream, exports and reports. What they
//! are answered comes from an `AuditOffice`, which `app` puts together from the log: this part knows what may be asked, and of
//! what permission each needs. Source: audit.md §2.7, §5, §7.7, §7.8.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::authz::language::Values;
use crate::authz::{Check, Resource};
use crate::ids::AccountId;
use crate::ops::{Context, Effects, OpError, OperatorResponse, Ops, Subject};
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

/// `hsm-bridge audit attest-review`: a sign-off, as its record has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestReview {
    /// What was reviewed or acknowledged.
    pub subject: String,
    /// Who did, in the words of whoever records it.
    pub reviewer: String,
    /// `approved`, `rejected`, `acknowledged`
    pub decision: String,
    pub comment: Option<String>,
    /// The file that was reviewed, and its SHA-256 in hex.
    pub file: Option<String>,
    pub sha256: Option<String>,
    /// Of a report of ours.
    pub report_id: Option<String>,
}

impl AttestReview {
    pub const DECISIONS: &[&str] = &["approved", "rejected", "acknowledged"];
}

/// `hsm-bridge audit ceremony`: a key ceremony, as its record has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ceremony {
    pub id: String,
    /// Of the script that was followed, hex.
    pub script_sha256: String,
    /// What was done, in its order.
    pub steps: Vec<String>,
    /// `NAME: DUTY`
    pub participants: Vec<String>,
    /// `2 of 3`
    pub quorum: Option<String>,
    /// Of the signed minutes, hex.
    pub minutes_sha256: Option<String>,
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

/// Refusals that only the readers of the log meet. CloudTrail's and S3's fronts have the words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrailRefusal {
    #[error("no trail `{0}`")]
    TrailNotFound(String),
    #[error("`{0}` is no name of a trail")]
    InvalidTrailName(String),
    #[error("`{0}` is no ARN of a trail")]
    InvalidTrailArn(String),
    #[error("the token does not open for this question")]
    InvalidNextToken,
    #[error("the index is being built")]
    IndexNotReady,
    /// StopLogging and the like.
    #[error("audit logging cannot be stopped")]
    CannotBeStopped,
    #[error("no bucket `{0}`")]
    NoSuchBucket(String),
    #[error("no object `{0}`")]
    NoSuchKey(String),
    #[error("no such range in an object of {0} bytes")]
    InvalidRange(u64),
    /// PUT, POST and DELETE.
    #[error("nothing but the service writes into the bucket")]
    BucketIsReadOnly,
}

/// What the log of this instance is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrailNames {
    pub account: AccountId,
    pub trail_arn: String,
    pub bucket: String,
}

/// What a question about the log is about: the trail, or the bucket or an object of it, as named by the caller.
#[derive(Debug, Clone)]
pub struct TrailSubject {
    /// Whose the log is.
    pub account: AccountId,
    /// Trail, bucket or object.
    pub arn: String,
    /// `AWS::CloudTrail::Trail`, `AWS::S3::Bucket`, `AWS::S3::Object`.
    pub kind: &'static str,
    /// Of an object.
    pub bucket_arn: Option<String>,
}

/// Answers questions about the log. Long work runs on threads of its own.
pub trait AuditOffice: Send + Sync {
    fn names(&self) -> &TrailNames;

    fn answer<'a>(&'a self, request: &'a AuditRequest, ctx: &'a Context)
    -> BoxFuture<'a, Result<AuditAnswer, OpError>>;
}

impl StreamRequest {
    pub(super) fn opened(&self) -> AuditAnswer {
        AuditAnswer::Stream { from_seq: self.from_seq.unwrap_or(0), ndjson: self.ndjson }
    }
}

/// Keeps the log's sealed files.
pub trait AuditKeeper: Send + Sync {
    /// Deletes what is beyond its retention; with `dry_run` it only tells what would go.
    fn prune(&self, dry_run: bool) -> BoxFuture<'_, Result<serde_json::Value, OpError>>;
}

impl AuditRequest {
    /// The permission that it needs. RULE audit.md §2.7: one of its own, apart from key use and key administration.
    pub fn action(&self) -> &'static str {
        match self {
            AuditRequest::Trail(request) => match request {
                TrailRequest::DescribeTrails { .. } => "cloudtrail:DescribeTrails",
                TrailRequest::GetTrail { .. } => "cloudtrail:GetTrail",
                TrailRequest::GetTrailStatus { .. } => "cloudtrail:GetTrailStatus",
                TrailRequest::ListTrails => "cloudtrail:ListTrails",
                TrailRequest::ListPublicKeys => "cloudtrail:ListPublicKeys",
                TrailRequest::GetEventSelectors { .. } => "cloudtrail:GetEventSelectors",
                TrailRequest::LookupEvents(_) => "cloudtrail:LookupEvents",
                TrailRequest::Change { .. } => "cloudtrail:StopLogging",
            },
            AuditRequest::Stream(_) => "cloudtrail:LookupEvents",
            AuditRequest::Bucket(request) => match request {
                BucketRequest::GetObject { .. } => "s3:GetObject",
                BucketRequest::Change { .. } => "s3:PutObject",
                BucketRequest::ListBuckets => "s3:ListAllMyBuckets",
                // Who may list may know where.
                BucketRequest::HeadBucket { .. }
                | BucketRequest::GetBucketLocation { .. }
                | BucketRequest::ListObjects(_) => "s3:ListBucket",
            },
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

/// Actions of those who read the log: for `policy simulate`. Changes have none, because nobody may.
pub const READER_ACTIONS: &[&str] = &[
    "cloudtrail:DescribeTrails",
    "cloudtrail:GetEventSelectors",
    "cloudtrail:GetTrail",
    "cloudtrail:GetTrailStatus",
    "cloudtrail:ListPublicKeys",
    "cloudtrail:ListTrails",
    "cloudtrail:LookupEvents",
    "hsmbridge:ExportAudit",
    "s3:GetObject",
    "s3:ListAllMyBuckets",
    "s3:ListBucket",
];

impl AuditRequest {
    /// An attempt to stop the log or to write into its bucket.
    pub fn is_change(&self) -> bool {
        matches!(
            self,
            AuditRequest::Trail(TrailRequest::Change { .. }) | AuditRequest::Bucket(BucketRequest::Change { .. })
        )
    }

    /// RULE audit.md §2.7: refused whoever asks, so that no policy is asked; the record says who it was.
    pub(super) fn refused_to_all(&self) -> Result<(), OpError> {
        match self {
            AuditRequest::Trail(TrailRequest::Change { .. }) => Err(OpError::Trail(TrailRefusal::CannotBeStopped)),
            AuditRequest::Bucket(BucketRequest::Change { .. }) => Err(OpError::Trail(TrailRefusal::BucketIsReadOnly)),
            _ => Ok(()),
        }
    }

    /// `requestParameters` of what has no front of its own: stream, export, report.
    pub fn recorded(&self) -> Option<Box<serde_json::value::RawValue>> {
        let said = match self {
            AuditRequest::Stream(stream) => {
                let format = if stream.ndjson { "ndjson" } else { "sse" };
                serde_json::json!({ "fromSeq": stream.from_seq, "format": format })
            }
            AuditRequest::Export(export) => serde_json::to_value(export).ok()?,
            AuditRequest::Report(report) => serde_json::to_value(report).ok()?,
            AuditRequest::Trail(_) | AuditRequest::Bucket(_) => return None,
        };
        serde_json::value::to_raw_value(&said).ok()
    }

    fn subject(&self, names: &TrailNames) -> TrailSubject {
        let subject = |kind, arn, bucket_arn| TrailSubject { account: names.account.clone(), arn, kind, bucket_arn };
        let of_bucket = |bucket: &str| subject("AWS::S3::Bucket", bucket_arn(bucket), None);
        match self {
            AuditRequest::Trail(_) | AuditRequest::Stream(_) | AuditRequest::Export(_) | AuditRequest::Report(_) => {
                subject("AWS::CloudTrail::Trail", names.trail_arn.clone(), None)
            }
            AuditRequest::Bucket(request) => match request {
                BucketRequest::ListBuckets => of_bucket(&names.bucket),
                BucketRequest::HeadBucket { bucket }
                | BucketRequest::GetBucketLocation { bucket }
                | BucketRequest::ListObjects(ListObjects { bucket, .. })
                | BucketRequest::Change { bucket, key: None, .. } => of_bucket(bucket),
                BucketRequest::GetObject { bucket, key, .. } | BucketRequest::Change { bucket, key: Some(key), .. } => {
                    let bucket = bucket_arn(bucket);
                    subject("AWS::S3::Object", format!("{bucket}/{key}"), Some(bucket))
                }
            },
        }
    }

    /// RULE: identity policies alone allow it, to principals of the log's own account.
    pub(super) fn checks<'a>(&'a self, subject: &'a Subject) -> Vec<Check<'a>> {
        let Subject::Trail(subject) = subject else { return Vec::new() };
        let resource = Resource::OfTheLog { arn: &subject.arn, account: &subject.account };
        let mut check = Check::new(self.action(), resource);
        if let AuditRequest::Bucket(BucketRequest::ListObjects(list)) = self {
            let said = &mut check.conditions.request;
            said.push(("s3:prefix".into(), Values::One(list.prefix.as_str().into())));
            said.push(("s3:max-keys".into(), Values::One(list.max_keys.to_string().into())));
            let delimiter = list.delimiter.as_deref();
            said.extend(delimiter.map(|text| ("s3:delimiter".into(), Values::One(text.into()))));
        }
        vec![check]
    }
}

fn bucket_arn(bucket: &str) -> String {
    format!("arn:aws:s3:::{bucket}")
}

impl TrailSubject {
    /// For the record.
    pub(super) fn resources(&self) -> Vec<(&'static str, &str)> {
        let bucket = self.bucket_arn.iter().map(|arn| ("AWS::S3::Bucket", arn.as_str()));
        std::iter::once((self.kind, self.arn.as_str())).chain(bucket).collect()
    }
}

impl LookupEvents {
    /// What a token of this question is bound to.
    fn list(&self) -> String {
        let (key, value) = self.attribute.as_ref().map_or(("", ""), |(key, value)| (key, value));
        format!("LookupEvents {:?} {:?} {key} {value}", self.start, self.end)
    }
}

impl Ops {
    /// What the log is called; `None` where nobody answers questions about it.
    pub fn trail_names(&self) -> Option<&TrailNames> {
        self.audit_office.get().map(|office| office.names())
    }

    pub(super) fn trail_subject(&self, request: &AuditRequest) -> Result<Subject, OpError> {
        let names = self.trail_names().ok_or_else(nobody)?;
        Ok(Subject::Trail(Box::new(request.subject(names))))
    }

    /// Who answers questions about the log. Once, by `app`.
    pub fn read_audit_with(&self, office: Box<dyn AuditOffice>) {
        let _ = self.audit_office.set(office);
    }

    /// Who deletes old files of the log. Once, by `app`.
    pub fn keep_audit_with(&self, keeper: Box<dyn AuditKeeper>) {
        let _ = self.audit_keeper.set(keeper);
    }

    pub(super) async fn prune_audit(&self, dry_run: bool) -> Result<serde_json::Value, OpError> {
        match self.audit_keeper.get() {
            Some(keeper) => keeper.prune(dry_run).await,
            None => Err(OpError::Internal("nobody keeps the log's files".to_owned())),
        }
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
            request => {
                let answer = self.audit(request, ctx).await?;
                Ok(noted(answer, effects))
            }
        }
    }

    /// `hsm-bridge audit export`: the same as over the network.
    pub(super) async fn audit_command(
        &self,
        request: AuditRequest,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        match noted(self.audit(&request, ctx).await?, effects) {
            AuditAnswer::Made(made) => Ok(OperatorResponse::AuditMade { made }),
            other => Err(OpError::Internal(format!("unexpected answer {other:?}"))),
        }
    }

    pub(super) async fn audit(&self, request: &AuditRequest, ctx: &Context) -> Result<AuditAnswer, OpError> {
        let office = self.audit_office.get().ok_or_else(nobody)?;
        request.refused_to_all()?;
        let AuditRequest::Trail(TrailRequest::LookupEvents(lookup)) = request else {
            return office.answer(request, ctx).await;
        };
        // The office knows places in the log; callers get them sealed, and bound to what they asked.
        let list = lookup.list();
        let opened = lookup.next_token.as_deref().map(|token| self.markers.open(&list, token)).transpose();
        let next_token = opened.map_err(|_| OpError::Trail(TrailRefusal::InvalidNextToken))?;
        let asked = AuditRequest::Trail(TrailRequest::LookupEvents(LookupEvents { next_token, ..lookup.clone() }));
        let mut answer = office.answer(&asked, ctx).await?;
        if let AuditAnswer::Trail(members) = &mut answer
            && let Some(place) = members.get_mut("NextToken")
        {
            let sealed = self.markers.seal(&list, place.as_str().unwrap_or_default())?;
            *place = sealed.into();
        }
        Ok(answer)
    }
}

/// Who took what out of the log: its id, range and rows.
fn noted(answer: AuditAnswer, effects: &mut Effects) -> AuditAnswer {
    if let AuditAnswer::Made(made) = &answer {
        effects.details = Some(made.clone());
    }
    answer
}

fn nobody() -> OpError {
    OpError::Internal("nobody answers questions about the log".to_owned())
}
