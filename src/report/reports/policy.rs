//! R11: key policies and grants as they were at a moment, who set them, and what became of them since the period began.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::super::pass::Needs;
use super::super::record::{Record, date, parsed};
use super::super::table::{SOURCE, Table};
use super::super::{Query, ReportError};
use super::changes::{line_difference, policy_lines};
use super::{End, Moment, Report};
use crate::ops::state::State;

/// Of what set a policy or made a grant.
#[derive(Clone)]
struct Origin {
    event_id: String,
    event: String,
    by: String,
    at: i64,
}

pub(super) struct PolicyAsOf {
    query: Query,
    /// `keys/ID` for a policy, `grants/KEY/ID` for a grant.
    origins: HashMap<String, Origin>,
}

impl PolicyAsOf {
    pub fn new(query: Query) -> Self {
        Self { query, origins: HashMap::new() }
    }
}

impl Report for PolicyAsOf {
    fn needs(&self) -> Needs {
        self.query.report.needs()
    }

    fn record(&mut self, record: &Record<'_>, moment: &Moment<'_>) {
        if !moment.until_then || record.is_intent() || record.additional_event_data.state_change.is_none() {
            return;
        }
        let change = parsed(record.additional_event_data.state_change);
        let origin = || Origin {
            event_id: record.event_id.to_string(),
            event: record.event_name.to_string(),
            by: record.principal(),
            at: moment.at,
        };
        for (id, patch) in change.get("keys").and_then(Value::as_object).into_iter().flatten() {
            if patch.get("policy").is_some() || patch.get("policyVersion").is_some() {
                self.origins.insert(format!("keys/{id}"), origin());
            }
        }
        for (id, patch) in change.get("grants").and_then(Value::as_object).into_iter().flatten() {
            if patch.is_object() {
                self.origins.insert(format!("grants/{id}"), origin());
            }
        }
    }

    fn finish(self: Box<Self>, end: &mut End<'_>) -> Result<Table, ReportError> {
        let state = end.state()?;
        let mut table = Table::new(&[
            "kind",
            "key_arn",
            "grant_id",
            "policy_version",
            "policy",
            "grantee",
            "operations",
            "constraints",
            "set_by",
            "set_at",
            "set_with",
            "since_from",
            "difference",
            SOURCE,
        ]);
        if end.before.is_none() {
            end.notes.push(
                "the state at the period's beginning is not known, so nothing is said of differences since then"
                    .to_owned(),
            );
        }
        for key in state.keys.values().filter(|key| end.query.wants_key(&key.id.to_string(), &key.arn)) {
            let id = key.id.to_string();
            let origin = self.origins.get(&format!("keys/{id}"));
            let past = end.before.as_ref().map(|before| before.keys.get(&id));
            let (since, difference) = match past {
                None => (Value::Null, Vec::new()),
                Some(None) => (json!("created since"), Vec::new()),
                Some(Some(past)) if past.policy.text() == key.policy.text() => (json!("same"), Vec::new()),
                Some(Some(past)) => {
                    let lines = |text: &str| policy_lines(Some(&json!(text)));
                    (json!("changed"), line_difference(&lines(past.policy.text()), &lines(key.policy.text())))
                }
            };
            table.row(
                vec![
                    json!("policy"),
                    json!(key.arn),
                    Value::Null,
                    json!(key.policy_version),
                    json!(key.policy.text().as_ref()),
                    Value::Null,
                    Value::Null,
                    Value::Null,
                    json!(origin.map(|o| &o.by)),
                    json!(origin.map(|o| date(o.at))),
                    json!(origin.map(|o| &o.event)),
                    since,
                    json!(difference.join("\n")),
                ],
                origin.map(|o| o.event_id.as_str()),
            );
        }
        self.grants(end, &state, &mut table);
        Ok(table)
    }
}

impl PolicyAsOf {
    fn grants(&self, end: &End<'_>, state: &State, table: &mut Table) {
        let of_key = |state: &State, key: &str| state.keys.get(key).map(|key| key.arn.clone());
        let mut row = |state: &State, id: &str, grant: &crate::ops::state::Grant, since: Value| {
            let key = grant.key.to_string();
            let arn = of_key(state, &key).unwrap_or_else(|| key.clone());
            if !end.query.wants_key(&key, &arn) {
                return;
            }
            let origin = self.origins.get(&format!("grants/{id}"));
            table.row(
                vec![
                    json!("grant"),
                    json!(arn),
                    json!(grant.id.as_str()),
                    Value::Null,
                    Value::Null,
                    json!(grant.grantee.name()),
                    json!(grant.operations),
                    json!(grant.constraints),
                    json!(origin.map(|o| &o.by)),
                    json!(date(grant.created)),
                    json!(origin.map(|o| &o.event)),
                    since,
                    Value::Null,
                ],
                origin.map(|o| o.event_id.as_str()),
            );
        };
        for (id, grant) in &state.grants {
            let since = match &end.before {
                None => Value::Null,
                Some(before) if before.grants.contains_key(id) => json!("same"),
                Some(_) => json!("created since"),
            };
            row(state, id, grant, since);
        }
        // What was there and is gone.
        for (id, grant) in end.before.iter().flat_map(|before| &before.grants) {
            if let Some(before) = end.before.as_ref().filter(|_| !state.grants.contains_key(id)) {
                row(before, id, grant, json!("gone since"));
            }
        }
    }
}
