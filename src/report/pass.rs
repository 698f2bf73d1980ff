//! One pass: the verifier first, then the records once, with the state of each moment beside them.

use std::ops::ControlFlow;
use std::path::Path;

use serde_json::{Value, json};

use super::record::{Record, date, parsed};
use super::replay::Replay;
use super::reports::{self, End, Moment};
use super::table::{Header, SourceRange};
use super::{Made, Name, Query, ReportError};
use crate::audit::scan;
use crate::audit::verify::{self, Verdict};
use crate::ops::state::State;

/// Findings in a report; `audit verify` has them all.
const FINDINGS: usize = 20;

/// Makes one report. `dir`: the trail's directory; records from `durable` on are not read.
pub fn run(dir: &Path, query: &Query, durable: u64) -> Result<Made, ReportError> {
    let options = verify::Options { trail_arn: query.trail.clone(), ..verify::Options::default() };
    let checked = verify::directory(dir, &options, &mut |_| {});
    let mut report = reports::of(query);
    let needs = report.needs();
    let mut notes = Vec::new();

    let state_at = if needs.before { query.from } else { query.as_of };
    let mut replay = match needs.state || needs.before {
        true => Replay::begin(dir, state_at)?,
        false => None,
    };
    if needs.state {
        match &replay {
            None => {
                return Err(ReportError::Refused(
                    "there is no state snapshot yet: the service makes one when it starts and then each day".to_owned(),
                ));
            }
            Some(replay) if replay.snapshot.time > query.as_of => {
                return Err(ReportError::Refused(format!(
                    "no state is known at {}: the first snapshot is of {}",
                    date(query.as_of),
                    date(replay.snapshot.time)
                )));
            }
            Some(_) => {}
        }
    }

    let mut first = 0;
    if !needs.all_records {
        first = scan::seq_at(dir, query.from)?;
        if let Some(replay) = &replay {
            first = first.min(replay.snapshot.seq);
        }
    }
    let last = query.to.max(if needs.state { query.as_of } else { i64::MIN });
    let mut source = SourceRange::default();
    let mut checkpoint = Value::Null;
    let (mut before, mut state): (Option<State>, Option<State>) = (None, None);
    let mut unreadable = 0u64;
    let mut wrong = None;
    scan::lines(dir, first, |line| {
        let Ok(record) = serde_json::from_slice::<Record<'_>>(line) else {
            unreadable += 1;
            return ControlFlow::Continue(());
        };
        if record.seq() >= durable {
            return ControlFlow::Break(());
        }
        if record.seq() < first {
            return ControlFlow::Continue(());
        }
        let at = record.at();
        if let Some(replay) = &replay {
            let mut freeze = |slot: &mut Option<State>, moment: i64| {
                if slot.is_none() && at > moment && replay.snapshot.time <= moment {
                    match replay.state() {
                        Ok(state) => *slot = Some(state),
                        Err(error) => wrong = Some(error),
                    }
                }
            };
            if needs.before {
                freeze(&mut before, query.from);
            }
            if needs.state {
                freeze(&mut state, query.as_of);
            }
        }
        // A record may be written a moment after one that is later by this clock: an hour is more than any.
        if at > last.saturating_add(3_600_000) {
            return ControlFlow::Break(());
        }
        source.first_seq.get_or_insert(record.seq());
        source.last_seq = Some(record.seq());
        source.records_read += 1;
        if record.is_system("Checkpoint") && at < query.to {
            checkpoint = record.details();
        }
        let known = replay.as_ref().filter(|replay| record.seq() >= replay.snapshot.seq);
        let moment = Moment {
            in_period: at >= query.from && at < query.to,
            // What is of a moment ends with it.
            until_then: at <= query.as_of,
            at,
            before: known,
        };
        report.record(&record, &moment);
        if let Some(replay) = &mut replay {
            replay.follow(&record);
        }
        ControlFlow::Continue(())
    })?;
    if let Some(replay) = &replay {
        let parse = || replay.state().map_err(ReportError::Refused);
        if needs.before && before.is_none() && replay.snapshot.time <= query.from {
            before = Some(parse()?);
        }
        if needs.state && state.is_none() {
            state = Some(parse()?);
        }
    }
    if let Some(wrong) = wrong {
        return Err(ReportError::Refused(wrong));
    }

    let mut verdict = checked.verdict;
    if let Some(replay) = &replay {
        notes.extend(replay.doubts.iter().cloned());
        source.state_snapshot = Some(replay.snapshot.object.clone());
        match replay.snapshot.proven {
            Some(true) => {}
            Some(false) => {
                verdict = verdict.max(Verdict::Tampered);
                notes.push(format!("`{}` is not what the log's record of it says", replay.snapshot.object));
            }
            None => {
                verdict = verdict.max(Verdict::Incomplete);
                notes.push(format!("no record of the log names `{}`", replay.snapshot.object));
            }
        }
    }
    if unreadable > 0 {
        notes.push(format!("{unreadable} lines of the log could not be read and are not in this report"));
    }
    let verification = verification(&checked);
    let mut end = End { query, before, state, checked: &checked, notes: &mut notes };
    let table = report.finish(&mut end)?;
    if table.left_out > 0 {
        notes.push(format!("{} rows more were left out: narrow the report", table.left_out));
    }
    let header = Header {
        report_id: uuid::Uuid::new_v4().to_string(),
        number: query.report.number(),
        name: query.report.name(),
        title: query.report.title(),
        parameters: json!({
            "from": date(query.from),
            "to": date(query.to),
            "key": query.key,
            "principal": query.principal,
        }),
        as_of: needs.state.then(|| date(query.as_of)),
        generated_at: date(query.now),
        generated_by: query.generated_by.clone(),
        generator: format!("hsm-bridge {}", env!("CARGO_PKG_VERSION")),
        source,
        rows: table.rows.len() as u64,
        checkpoint,
        verification,
        verdict: verdict.to_string(),
        exit_code: verdict.exit_code(),
        notes,
    };
    Ok(Made { header, table })
}

fn verification(checked: &verify::Report) -> Value {
    let findings: Vec<Value> = checked
        .findings
        .iter()
        .take(FINDINGS)
        .map(|finding| {
            json!({
                "verdict": finding.verdict,
                "file": finding.file,
                "line": finding.line,
                "seq": finding.seq,
                "what": finding.what,
            })
        })
        .collect();
    json!({
        "verdict": checked.verdict,
        "exitCode": checked.exit_code,
        "trail": checked.trail,
        "segments": checked.segments,
        "records": checked.records,
        "firstSeq": checked.first_seq,
        "lastSeq": checked.last_seq,
        "firstTime": checked.first_time,
        "lastTime": checked.last_time,
        "head": checked.head,
        "findings": findings,
        "findingCount": checked.finding_count,
        "notProven": checked.not_proven,
    })
}

/// What a report has to see.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Needs {
    /// The state at the moment `as_of`.
    pub state: bool,
    /// The state at the period's beginning, and beside each record.
    pub before: bool,
    /// From the log's first record on, not only the period.
    pub all_records: bool,
}

impl Name {
    pub(super) fn needs(self) -> Needs {
        let (state, before, all_records) = match self {
            Name::KeyInventory | Name::Custodians | Name::Rotation | Name::Unused => (true, false, true),
            Name::PolicyAsOf => (true, true, true),
            Name::SeparationOfDuties | Name::HsmInventory => (true, false, false),
            Name::AdminChanges => (false, true, false),
            Name::KeyUsage | Name::Ceremonies | Name::FailedAccess | Name::Attestations | Name::LogAccess => {
                (false, false, false)
            }
            Name::Integrity => (false, false, true),
        };
        Needs { state, before, all_records }
    }
}

/// The members of a record's authorization that say who decided: policy and statement, or grant.
pub(super) fn decided_by(record: &Record<'_>) -> String {
    let grounds = parsed(record.additional_event_data.authorization);
    let member = |name: &str| grounds.get(name).and_then(Value::as_str);
    let mut text = member("source").unwrap_or_default().to_owned();
    if let Some(policy) = member("policy") {
        text.push_str(&format!(" {policy}"));
    }
    match (member("statementId"), grounds.get("statementIndex").and_then(Value::as_u64)) {
        (Some(sid), _) => text.push_str(&format!(" {sid}")),
        (None, Some(index)) => text.push_str(&format!(" #{index}")),
        (None, None) => {}
    }
    if let Some(grant) = member("grantId") {
        text.push_str(&format!(" grant {grant}"));
    }
    text
}
