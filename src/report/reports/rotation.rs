//! R3: which material was current from when to when, and by whose doing.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::super::pass::Needs;
use super::super::record::{Record, date};
use super::super::table::{SOURCE, Table};
use super::super::{Query, ReportError};
use super::inventory::nist_state;
use super::{End, Moment, Report};

const DAY_MS: i64 = 86_400_000;
/// What begins or ends the life of material.
const EVENTS: &[&str] = &[
    "CreateKey",
    "KeyAdopt",
    "RotateAlias",
    "RotateKey",
    "RotateKeyOnDemand",
    "ImportKeyMaterial",
    "DeleteImportedKeyMaterial",
    "DeleteExpiredKeyMaterial",
    "ScheduleKeyDeletion",
    "CancelKeyDeletion",
    "RotateRetire",
    "DeleteKey",
];

struct Begun {
    by: String,
    how: &'static str,
    event_id: String,
}

pub(super) struct Rotation {
    query: Query,
    /// Key ARN → how its material came to be.
    begun: HashMap<String, Begun>,
    /// Events of the period, in their order.
    events: Vec<(i64, String, String, String, String)>,
}

impl Rotation {
    pub fn new(query: Query) -> Self {
        Self { query, begun: HashMap::new(), events: Vec::new() }
    }
}

impl Report for Rotation {
    fn needs(&self) -> Needs {
        self.query.report.needs()
    }

    fn record(&mut self, record: &Record<'_>, moment: &Moment<'_>) {
        if !record.succeeded() || !EVENTS.contains(&record.event_name.as_ref()) || !self.query.wants(record) {
            return;
        }
        let how = match record.event_name.as_ref() {
            "KeyAdopt" => "adopted",
            "RotateAlias" if record.event_type == "AwsServiceEvent" => "rotated automatically",
            "RotateAlias" => "rotated on demand",
            _ => "created",
        };
        if moment.until_then
            && matches!(record.event_name.as_ref(), "CreateKey" | "KeyAdopt" | "RotateAlias")
            && let Some(key) = record.keys().last()
        {
            let begun = Begun { by: record.principal(), how, event_id: record.event_id.to_string() };
            self.begun.entry(key.to_owned()).or_insert(begun);
        }
        if moment.in_period {
            let resources: Vec<String> = record.resources.iter().map(|r| r.arn.to_string()).collect();
            self.events.push((
                moment.at,
                record.event_name.to_string(),
                record.principal(),
                resources.join("; "),
                record.event_id.to_string(),
            ));
        }
    }

    fn finish(self: Box<Self>, end: &mut End<'_>) -> Result<Table, ReportError> {
        let state = end.state()?;
        let mut table = Table::new(&[
            "kind",
            "key_arn",
            "alias",
            "generation",
            "material_id",
            "from",
            "to",
            "age_days",
            "overdue",
            "nist_state",
            "by",
            "how",
            "event",
            SOURCE,
        ]);
        end.notes.push(format!(
            "rotation here gives an alias a new key; material is overdue when it is current, enabled and older than {} days",
            end.query.rotation_days
        ));
        for key in state.keys.values().filter(|key| end.query.wants_key(&key.id.to_string(), &key.arn)) {
            let begun = self.begun.get(&key.arn);
            // At an alias now, or until when.
            let current = state.aliases.values().find(|alias| alias.target == key.id);
            let stays = state.aliases.values().flat_map(|alias| alias.history.iter().map(move |stay| (alias, stay)));
            let retired = stays.filter(|(_, stay)| stay.key == key.id).max_by_key(|(_, stay)| stay.until);
            let alias = current.or(retired.map(|(alias, _)| alias)).map(|alias| alias.name.to_string());
            let left = retired.filter(|_| current.is_none()).map(|(_, stay)| stay.until);
            for (place, material) in key.materials.iter().enumerate() {
                let next = key.materials.get(place + 1).map(|next| next.created);
                let until = next.or(left);
                let age = (until.unwrap_or(end.query.as_of) - material.created).div_euclid(DAY_MS);
                let overdue = until.is_none() && key.state == "Enabled" && age > end.query.rotation_days;
                table.row(
                    vec![
                        json!("material"),
                        json!(key.arn),
                        json!(alias),
                        json!(material.generation),
                        json!(material.material_id),
                        json!(date(material.created)),
                        json!(until.map(date)),
                        json!(age),
                        json!(overdue),
                        json!(nist_state(key, &state)),
                        json!(begun.map(|b| &b.by)),
                        json!(begun.map(|b| b.how)),
                        Value::Null,
                    ],
                    begun.map(|b| b.event_id.as_str()),
                );
            }
        }
        for (at, event, by, resources, event_id) in &self.events {
            table.row(
                vec![
                    json!("event"),
                    json!(resources),
                    Value::Null,
                    Value::Null,
                    Value::Null,
                    json!(date(*at)),
                    Value::Null,
                    Value::Null,
                    Value::Null,
                    Value::Null,
                    json!(by),
                    Value::Null,
                    json!(event),
                ],
                Some(event_id),
            );
        }
        Ok(table)
    }
}
