//! R7: requests that were refused, and strangers, grouped.

use std::collections::BTreeMap;

use serde_json::json;

use super::super::pass::{Needs, decided_by};
use super::super::record::{Record, date};
use super::super::table::{MOST_ROWS, SOURCE, Table};
use super::super::{Query, ReportError};
use super::uses::user_of;
use super::{End, Moment, Report};

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    principal: String,
    access_key: String,
    source_ip: String,
    event: String,
    error: String,
    decided_by: String,
    resource: String,
}

struct Count {
    count: u64,
    first: i64,
    last: i64,
    message: String,
    source: String,
}

pub(super) struct FailedAccess {
    query: Query,
    groups: BTreeMap<Group, Count>,
    lost: u64,
}

impl FailedAccess {
    pub fn new(query: Query) -> Self {
        Self { query, groups: BTreeMap::new(), lost: 0 }
    }
}

/// What kind of failure a code is. Codes that say how a key stands, not who asked, are `state`.
fn class(code: &str, stranger: bool) -> &'static str {
    match code {
        _ if stranger => "not authenticated",
        "AccessDenied" | "AccessDeniedException" => "denied",
        "ThrottlingException" | "Throttling" | "LimitExceededException" => "throttled",
        "NotFoundException" => "unknown resource",
        "InvalidCiphertextException"
        | "IncorrectKeyException"
        | "KMSInvalidSignatureException"
        | "KMSInvalidMacException" => "wrong material",
        "DisabledException" | "KMSInvalidStateException" | "KeyUnavailableException" => "state",
        "KMSInternalException" | "DependencyTimeoutException" => "service",
        _ => "invalid request",
    }
}

impl Report for FailedAccess {
    fn needs(&self) -> Needs {
        self.query.report.needs()
    }

    fn record(&mut self, record: &Record<'_>, moment: &Moment<'_>) {
        let Some(code) = record.error_code.as_deref() else { return };
        if !moment.in_period || record.is_intent() || !self.query.wants(record) {
            return;
        }
        let group = Group {
            principal: user_of(record),
            access_key: record.user_identity.access_key_id.as_deref().unwrap_or_default().to_owned(),
            source_ip: record.source_ip.as_deref().unwrap_or_default().to_owned(),
            event: record.event_name.to_string(),
            error: code.to_owned(),
            decided_by: decided_by(record),
            resource: record.resources.first().map(|resource| resource.arn.to_string()).unwrap_or_default(),
        };
        let times = record.additional_event_data.count.unwrap_or(1);
        if self.groups.len() >= MOST_ROWS && !self.groups.contains_key(&group) {
            self.lost += times;
            return;
        }
        let count = self.groups.entry(group).or_insert_with(|| Count {
            count: 0,
            first: moment.at,
            last: moment.at,
            message: record.error_message.as_deref().unwrap_or_default().to_owned(),
            source: record.event_id.to_string(),
        });
        count.count += times;
        count.last = count.last.max(moment.at);
    }

    fn finish(self: Box<Self>, end: &mut End<'_>) -> Result<Table, ReportError> {
        let mut table = Table::new(&[
            "kind",
            "principal",
            "access_key",
            "source_ip",
            "event",
            "error",
            "decided_by",
            "resource",
            "count",
            "first",
            "last",
            "message",
            SOURCE,
        ]);
        if self.lost > 0 {
            end.notes.push(format!("{} failures are in no row: narrow the report", self.lost));
        }
        end.notes.push(
            "requests without a valid signature are counted by the minute: their access keys are what the request claimed"
                .to_owned(),
        );
        let mut rows: Vec<_> = self.groups.into_iter().collect();
        rows.sort_by_key(|(_, count)| std::cmp::Reverse(count.count));
        for (group, count) in rows {
            let stranger = group.principal == "Unknown" || group.principal.starts_with("access key ");
            table.row(
                vec![
                    json!(class(&group.error, stranger)),
                    json!(group.principal),
                    json!(group.access_key),
                    json!(group.source_ip),
                    json!(group.event),
                    json!(group.error),
                    json!(group.decided_by),
                    json!(group.resource),
                    json!(count.count),
                    json!(date(count.first)),
                    json!(date(count.last)),
                    json!(count.message),
                ],
                Some(&count.source),
            );
        }
        Ok(table)
    }
}
