//! Reports that list records of one kind: R6 ceremonies, R12 attestations, R14 who read the log.

use serde_json::{Value, json};

use super::super::pass::Needs;
use super::super::record::{Record, date, parsed};
use super::super::table::{SOURCE, Table};
use super::super::{Query, ReportError};
use super::{End, Moment, Report};

/// What is done to tokens and to keys that protect others, beside declared ceremonies.
const TOKEN_EVENTS: &[&str] =
    &["TokenSeen", "TokenPin", "TokenPinRetry", "TokenReplace", "KeyAdopt", "KeyAttest", "AuditKey"];
/// What reads the log, or takes copies of it.
const READERS: &[&str] = &[
    "DescribeTrails",
    "GetTrail",
    "GetTrailStatus",
    "ListTrails",
    "ListPublicKeys",
    "GetEventSelectors",
    "LookupEvents",
    "StreamAudit",
    "ListBuckets",
    "HeadBucket",
    "GetBucketLocation",
    "ListObjects",
    "ListObjectsV2",
    "GetObject",
    "HeadObject",
    "ExportAudit",
    "AuditExport",
    "AuditReport",
    "AuditPrune",
    "Pruned",
    "StopLogging",
    "DeleteTrail",
    "UpdateTrail",
    "PutObject",
    "DeleteObject",
];

fn member(value: &Value, name: &str) -> Value {
    value.get(name).cloned().unwrap_or(Value::Null)
}

fn result(record: &Record<'_>) -> Value {
    record.error_code.as_deref().map_or(json!("Success"), |code| json!(code))
}

/// R6.
pub(super) struct Ceremonies {
    query: Query,
    table: Table,
}

impl Ceremonies {
    pub fn new(query: Query) -> Self {
        let table = Table::new(&[
            "time",
            "kind",
            "ceremony",
            "event",
            "script_sha256",
            "steps",
            "participants",
            "quorum",
            "minutes_sha256",
            "recorded_by",
            "result",
            "details",
            SOURCE,
        ]);
        Self { query, table }
    }
}

impl Report for Ceremonies {
    fn needs(&self) -> Needs {
        self.query.report.needs()
    }

    fn record(&mut self, record: &Record<'_>, moment: &Moment<'_>) {
        if !moment.in_period || record.is_intent() || !self.query.wants(record) {
            return;
        }
        let declared = record.event_name == "Ceremony";
        if !declared && !TOKEN_EVENTS.contains(&record.event_name.as_ref()) {
            return;
        }
        let parameters = parsed(record.request_parameters);
        let details = if declared { Value::Null } else { record.details() };
        let of = |name: &str| if declared { member(&parameters, name) } else { Value::Null };
        self.table.row(
            vec![
                json!(date(moment.at)),
                json!(if declared { "ceremony" } else { "token event" }),
                of("id"),
                json!(record.event_name),
                of("script_sha256"),
                of("steps"),
                of("participants"),
                of("quorum"),
                of("minutes_sha256"),
                json!(record.principal()),
                result(record),
                details,
            ],
            Some(&record.event_id),
        );
    }

    fn finish(self: Box<Self>, end: &mut End<'_>) -> Result<Table, ReportError> {
        end.notes.push(
            "ceremonies are what was declared with `hsm-bridge audit ceremony`; token events are what the service saw"
                .to_owned(),
        );
        Ok(self.table)
    }
}

/// R12.
pub(super) struct Attestations {
    query: Query,
    table: Table,
}

impl Attestations {
    pub fn new(query: Query) -> Self {
        let table = Table::new(&[
            "time",
            "subject",
            "reviewer",
            "decision",
            "file",
            "file_sha256",
            "report_id",
            "comment",
            "recorded_by",
            SOURCE,
        ]);
        Self { query, table }
    }
}

impl Report for Attestations {
    fn needs(&self) -> Needs {
        self.query.report.needs()
    }

    fn record(&mut self, record: &Record<'_>, moment: &Moment<'_>) {
        if !moment.in_period || record.event_name != "AttestReview" || !record.succeeded() {
            return;
        }
        let parameters = parsed(record.request_parameters);
        self.table.row(
            vec![
                json!(date(moment.at)),
                member(&parameters, "subject"),
                member(&parameters, "reviewer"),
                member(&parameters, "decision"),
                member(&parameters, "file"),
                member(&parameters, "sha256"),
                member(&parameters, "report_id"),
                member(&parameters, "comment"),
                json!(record.principal()),
            ],
            Some(&record.event_id),
        );
    }

    fn finish(self: Box<Self>, end: &mut End<'_>) -> Result<Table, ReportError> {
        end.notes.push(
            "reviewers are named by whoever recorded the sign-off: the log proves when it was recorded and of which file"
                .to_owned(),
        );
        Ok(self.table)
    }
}

/// R14.
pub(super) struct LogAccess {
    query: Query,
    table: Table,
}

impl LogAccess {
    pub fn new(query: Query) -> Self {
        let table = Table::new(&[
            "time",
            "principal",
            "source_ip",
            "user_agent",
            "event",
            "parameters",
            "range_and_rows",
            "result",
            SOURCE,
        ]);
        Self { query, table }
    }
}

impl Report for LogAccess {
    fn needs(&self) -> Needs {
        self.query.report.needs()
    }

    fn record(&mut self, record: &Record<'_>, moment: &Moment<'_>) {
        let reads = READERS.contains(&record.event_name.as_ref());
        if !moment.in_period || !reads || record.is_intent() || !self.query.wants(record) {
            return;
        }
        self.table.row(
            vec![
                json!(date(moment.at)),
                json!(record.principal()),
                json!(record.source_ip),
                json!(record.user_agent),
                json!(record.event_name),
                parsed(record.request_parameters),
                record.details(),
                result(record),
            ],
            Some(&record.event_id),
        );
    }

    fn finish(self: Box<Self>, end: &mut End<'_>) -> Result<Table, ReportError> {
        end.notes.push(
            "reading the files on the host (`audit tail`, `audit verify`, other programs) leaves no record: restrict and \
             watch the host"
                .to_owned(),
        );
        Ok(self.table)
    }
}
