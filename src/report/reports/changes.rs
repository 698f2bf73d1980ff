//! R5: what administrators changed, with what it was before and after.

use serde_json::{Map, Value, json};

use super::super::list;
use super::super::pass::{Needs, decided_by};
use super::super::record::{Record, date, parsed};
use super::super::table::{SOURCE, Table};
use super::super::{Query, ReportError};
use super::{End, Moment, Report};

/// What the service says of itself that an auditor of administration wants to see.
const OF_THE_SERVICE: &[&str] = &[
    "Start",
    "Stop",
    "AuditFailure",
    "AuditTampering",
    "AcceptedLoss",
    "AuditKey",
    "Pruned",
    "OutcomeUnknown",
    "TokenSeen",
    "TokenPinRetry",
    "KeyAvailability",
];
/// Changes of the key, and lines of a policy, in one cell.
const SHOWN: usize = 400;

pub(super) struct AdminChanges {
    query: Query,
    table: Table,
    unknown_before: u64,
}

impl AdminChanges {
    pub fn new(query: Query) -> Self {
        let table = Table::new(&[
            "time",
            "seq",
            "principal",
            "source_ip",
            "user_agent",
            "event",
            "resources",
            "parameters",
            "result",
            "authorized_by",
            "before",
            "after",
            "difference",
            SOURCE,
        ]);
        Self { query, table, unknown_before: 0 }
    }
}

/// Whether a record is of something that was administered, or tried to be.
pub(super) fn is_admin(record: &Record<'_>) -> bool {
    if record.is_intent() {
        return false;
    }
    match record.event_type.as_ref() {
        "HsmBridgeSystem" => OF_THE_SERVICE.contains(&record.event_name.as_ref()),
        _ => record.read_only == Some(false),
    }
}

impl Report for AdminChanges {
    fn needs(&self) -> Needs {
        self.query.report.needs()
    }

    fn record(&mut self, record: &Record<'_>, moment: &Moment<'_>) {
        if !moment.in_period || !is_admin(record) || !self.query.wants(record) {
            return;
        }
        let change = parsed(record.additional_event_data.state_change);
        let (mut before, mut after, mut lines) = (Map::new(), Map::new(), Vec::new());
        for (kind, name, patch) in things(&change) {
            let label = format!("{kind}/{name}");
            let was = moment.before.and_then(|replay| replay.part(kind, name));
            if moment.before.is_none() {
                self.unknown_before += 1;
            }
            differences(&label, was, patch, &mut before, &mut after, &mut lines);
        }
        let result = match &record.error_code {
            Some(code) => json!(code),
            None => json!("Success"),
        };
        let or_nothing = |members: Map<String, Value>| match members.is_empty() {
            true => Value::Null,
            false => Value::Object(members),
        };
        let parameters = match record.request_parameters {
            Some(raw) => parsed(Some(raw)),
            None => record.details(),
        };
        let user_agent = record.user_agent.as_deref();
        self.table.row(
            vec![
                json!(date(moment.at)),
                json!(record.seq()),
                json!(record.principal()),
                json!(record.source_ip),
                json!(user_agent),
                json!(record.event_name),
                list(record.resources.iter().map(|resource| resource.arn.to_string())),
                parameters,
                result,
                json!(decided_by(record)),
                or_nothing(before),
                or_nothing(after),
                json!(lines.join("\n")),
            ],
            Some(&record.event_id),
        );
    }

    fn finish(self: Box<Self>, end: &mut End<'_>) -> Result<Table, ReportError> {
        if self.unknown_before > 0 {
            end.notes.push(format!(
                "{} changes were made before the first state snapshot: what was before them is not known",
                self.unknown_before
            ));
        }
        Ok(self.table)
    }
}

/// Kind, name and patch of each thing in a change.
fn things(change: &Value) -> impl Iterator<Item = (&String, &String, &Value)> {
    let kinds = change.as_object().into_iter().flatten();
    kinds.flat_map(|(kind, things)| {
        things.as_object().into_iter().flatten().map(move |(name, patch)| (kind, name, patch))
    })
}

/// Members that a patch touches, before and after; of policies also the lines that differ.
fn differences(
    label: &str,
    was: Option<&Value>,
    patch: &Value,
    before: &mut Map<String, Value>,
    after: &mut Map<String, Value>,
    lines: &mut Vec<String>,
) {
    let Some(members) = patch.as_object() else {
        // Removed.
        if let Some(was) = was {
            before.insert(label.to_owned(), was.clone());
        }
        after.insert(label.to_owned(), Value::Null);
        lines.push(format!("- {label}"));
        return;
    };
    if was.is_none() {
        after.insert(label.to_owned(), patch.clone());
        lines.push(format!("+ {label}"));
        return;
    }
    let (mut old, mut new) = (Map::new(), Map::new());
    for (name, value) in members {
        let past = was.and_then(|was| was.get(name));
        let mut present = past.cloned().unwrap_or(Value::Null);
        crate::ops::state::apply(&mut present, value);
        if matches!(name.as_str(), "policy" | "document" | "trust") {
            let text = |value: Option<&Value>| policy_lines(value);
            lines.push(format!("{label} {name}:"));
            lines.extend(line_difference(&text(past), &text(Some(&present))));
        } else if name == "inline" {
            lines.push(format!("{label} {name}:"));
            lines.extend(line_difference(&pretty(past), &pretty(Some(&present))));
        } else {
            let shown = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
            lines.push(format!("{label} {name}: {} -> {}", shown(past), shown(Some(&present))));
        }
        old.insert(name.clone(), past.cloned().unwrap_or(Value::Null));
        new.insert(name.clone(), present);
    }
    before.insert(label.to_owned(), Value::Object(old));
    after.insert(label.to_owned(), Value::Object(new));
}

/// A policy's text, one member on a line.
pub(super) fn policy_lines(value: Option<&Value>) -> Vec<String> {
    let text = match value {
        Some(Value::String(text)) => text.clone(),
        Some(bound) => bound.get("text").and_then(Value::as_str).unwrap_or_default().to_owned(),
        None => String::new(),
    };
    match serde_json::from_str::<Value>(&text) {
        Ok(policy) => pretty(Some(&policy)),
        Err(_) => text.lines().map(str::to_owned).collect(),
    }
}

fn pretty(value: Option<&Value>) -> Vec<String> {
    let text = value.and_then(|value| serde_json::to_string_pretty(value).ok()).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Lines that only one of the two has, in their order: `- ` and `+ `. The longest common subsequence, for texts of some
/// thousand lines at most; longer ones are told whole.
pub(super) fn line_difference(old: &[String], new: &[String]) -> Vec<String> {
    let start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old, new) = (old.get(start..).unwrap_or_default(), new.get(start..).unwrap_or_default());
    let end = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let old = old.get(..old.len() - end).unwrap_or_default();
    let new = new.get(..new.len() - end).unwrap_or_default();
    let mut told = Vec::new();
    if old.len() * new.len() > 4_000_000 {
        told.extend(old.iter().map(|line| format!("- {line}")));
        told.extend(new.iter().map(|line| format!("+ {line}")));
    } else {
        let width = new.len() + 1;
        let mut common = vec![0u32; (old.len() + 1) * width];
        let at = |common: &[u32], i: usize, j: usize| common.get(i * width + j).copied().unwrap_or(0);
        for (i, a) in old.iter().enumerate().rev() {
            for (j, b) in new.iter().enumerate().rev() {
                let longest = match a == b {
                    true => at(&common, i + 1, j + 1) + 1,
                    false => at(&common, i + 1, j).max(at(&common, i, j + 1)),
                };
                if let Some(slot) = common.get_mut(i * width + j) {
                    *slot = longest;
                }
            }
        }
        let (mut i, mut j) = (0, 0);
        loop {
            match (old.get(i), new.get(j)) {
                (Some(a), Some(b)) if a == b => (i, j) = (i + 1, j + 1),
                (Some(a), other) if other.is_none() || at(&common, i + 1, j) >= at(&common, i, j + 1) => {
                    told.push(format!("- {a}"));
                    i += 1;
                }
                (_, Some(b)) => {
                    told.push(format!("+ {b}"));
                    j += 1;
                }
                (Some(_), None) | (None, None) => break,
            }
        }
    }
    if told.len() > SHOWN {
        let more = told.len() - SHOWN;
        told.truncate(SHOWN);
        told.push(format!("… and {more} lines more"));
    }
    told
}
