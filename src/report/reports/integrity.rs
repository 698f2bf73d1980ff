//! R10: what the log says of itself, and what the verifier says of the log.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::pass::Needs;
use super::super::record::{Record, date};
use super::super::table::{SOURCE, Table};
use super::super::{Query, ReportError};
use super::{End, Moment, Report};

/// Records that are rows of their own.
const TOLD: &[&str] = &[
    "Start",
    "Stop",
    "AuditKey",
    "AcceptedLoss",
    "AuditTampering",
    "AuditFailure",
    "Pruned",
    "OutcomeUnknown",
    "ClockStep",
    "PeerCheckpoint",
    "TimeStamp",
    "StateSnapshot",
];
/// Records of which only how many, first and last are told.
const COUNTED: &[&str] = &["SegmentStart", "SegmentEnd", "Checkpoint", "Digest", "LogFile", "Heartbeat"];

#[derive(Default)]
struct Count {
    count: u64,
    first: String,
    last: String,
    newest: Value,
    source: String,
}

pub(super) struct Integrity {
    query: Query,
    table: Table,
    counts: BTreeMap<String, Count>,
    unclean: u64,
    torn: u64,
    steps_back: u64,
    newest: i64,
}

impl Integrity {
    pub fn new(query: Query) -> Self {
        let table = Table::new(&["time", "seq", "kind", "what", "count", "verdict", SOURCE]);
        Self { query, table, counts: BTreeMap::new(), unclean: 0, torn: 0, steps_back: 0, newest: i64::MIN }
    }
}

impl Report for Integrity {
    fn needs(&self) -> Needs {
        self.query.report.needs()
    }

    fn record(&mut self, record: &Record<'_>, moment: &Moment<'_>) {
        if !moment.in_period {
            return;
        }
        if moment.at + 1_000 < self.newest {
            self.steps_back += 1;
        }
        self.newest = self.newest.max(moment.at);
        if record.event_type != "HsmBridgeSystem" {
            return;
        }
        let name = record.event_name.as_ref();
        if COUNTED.contains(&name) {
            let details = record.details();
            if name == "SegmentStart" {
                self.unclean += u64::from(details.get("unclean") == Some(&json!(true)));
                self.torn += details.get("tornBytes").and_then(Value::as_u64).unwrap_or(0);
            }
            let count = self.counts.entry(name.to_owned()).or_default();
            if count.count == 0 {
                count.first = date(moment.at);
            }
            count.count += 1;
            count.last = date(moment.at);
            count.newest = details;
            count.source = record.event_id.to_string();
        } else if TOLD.contains(&name) {
            self.table.row(
                vec![json!(date(moment.at)), json!(record.seq()), json!(name), record.details(), json!(1), Value::Null],
                Some(&record.event_id),
            );
        }
    }

    fn finish(self: Box<Self>, end: &mut End<'_>) -> Result<Table, ReportError> {
        let Integrity { mut table, counts, unclean, torn, steps_back, .. } = *self;
        let mut fact = |kind: &str, what: Value, count: u64, verdict: Value, source: Option<&str>| {
            table.row(vec![Value::Null, Value::Null, json!(kind), what, json!(count), verdict], source);
        };
        for (name, count) in &counts {
            let what = json!({ "first": count.first, "last": count.last, "newest": count.newest });
            fact(name, what, count.count, Value::Null, Some(&count.source));
        }
        fact("unclean stops", Value::Null, unclean, Value::Null, None);
        fact("bytes of unfinished writes, kept beside the segments", Value::Null, torn, Value::Null, None);
        fact("steps back of the clock by more than a second", Value::Null, steps_back, Value::Null, None);
        let checked = end.checked;
        let whole = json!({
            "verifier": format!("hsm-bridge {}", env!("CARGO_PKG_VERSION")),
            "trail": checked.trail,
            "segments": checked.segments,
            "firstSeq": checked.first_seq,
            "lastSeq": checked.last_seq,
            "head": checked.head,
            "intents": checked.intents,
            "intentsWithOutcome": checked.intents_closed,
        });
        fact("verification", whole, checked.records, json!(checked.verdict.to_string()), None);
        for finding in &checked.findings {
            let what = json!({
                "file": finding.file, "line": finding.line, "seq": finding.seq, "what": finding.what,
            });
            fact("finding", what, 1, json!(finding.verdict.to_string()), None);
        }
        for note in &checked.notes {
            fact("note", json!(note), 1, Value::Null, None);
        }
        for unproven in &checked.not_proven {
            fact("not proven", json!(unproven), 1, Value::Null, None);
        }
        Ok(table)
    }
}
