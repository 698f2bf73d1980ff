//! R13: keys, grants, principals and access keys that nobody used.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::super::pass::Needs;
use super::super::record::{Record, date, parsed};
use super::super::table::{SOURCE, Table};
use super::super::{Query, ReportError};
use super::uses::{is_use, user_of};
use super::{End, Moment, Report};

const DAY_MS: i64 = 86_400_000;

/// When something was last seen in a record, and in which.
type Seen = HashMap<String, (i64, String)>;

pub(super) struct Unused {
    query: Query,
    keys: Seen,
    grants: Seen,
    principals: Seen,
    access_keys: Seen,
    since: Option<i64>,
}

impl Unused {
    pub fn new(query: Query) -> Self {
        Self {
            query,
            keys: Seen::new(),
            grants: Seen::new(),
            principals: Seen::new(),
            access_keys: Seen::new(),
            since: None,
        }
    }
}

impl Report for Unused {
    fn needs(&self) -> Needs {
        self.query.report.needs()
    }

    fn record(&mut self, record: &Record<'_>, moment: &Moment<'_>) {
        self.since.get_or_insert(moment.at);
        // A request that was refused, or had no valid signature, is no use.
        if !moment.until_then || !record.succeeded() || record.user_identity.kind.as_deref() == Some("Unknown") {
            return;
        }
        let source = || (moment.at, record.event_id.to_string());
        self.principals.insert(user_of(record), source());
        if let Some(id) = record.user_identity.access_key_id.as_deref().filter(|id| id.starts_with("AKIA")) {
            self.access_keys.insert(id.to_owned(), source());
        }
        if is_use(record) {
            for key in record.keys() {
                self.keys.insert(key.to_owned(), source());
            }
            if record.additional_event_data.authorization.is_some_and(|raw| raw.get().contains("grantId")) {
                let grounds = parsed(record.additional_event_data.authorization);
                let checks = grounds.get("checks").and_then(Value::as_array).into_iter().flatten();
                for check in checks.chain([&grounds]) {
                    if let Some(id) = check.get("grantId").and_then(Value::as_str) {
                        self.grants.insert(id.to_owned(), source());
                    }
                }
            }
        }
    }

    fn finish(self: Box<Self>, end: &mut End<'_>) -> Result<Table, ReportError> {
        let state = end.state()?;
        let columns = &["kind", "name", "detail", "created", "last_used", "unused_days", "never_used", SOURCE];
        let mut table = Table::new(columns);
        end.notes.push(format!("unused: for {} days or more, as far as this log goes back", end.query.unused_days));
        if let Some(since) = self.since {
            end.notes.push(format!("uses are known since {}", date(since)));
        }
        let (now, limit) = (end.query.as_of, end.query.unused_days);
        let mut row = |kind: &str, name: &str, detail: String, created: i64, last: Option<&(i64, String)>| {
            let since = last.map_or(created, |(at, _)| *at);
            let days = (now - since).div_euclid(DAY_MS);
            if days < limit {
                return;
            }
            let cells = vec![
                json!(kind),
                json!(name),
                json!(detail),
                json!(date(created)),
                json!(last.map(|(at, _)| date(*at))),
                json!(days),
                json!(last.is_none()),
            ];
            table.row(cells, last.map(|(_, event)| event.as_str()));
        };
        for key in state.keys.values().filter(|key| key.state != "PendingDeletion") {
            row("key", &key.arn, format!("{} {}", key.spec, key.state), key.created, self.keys.get(&key.arn));
        }
        for grant in state.grants.values() {
            let detail = format!("{} on {}", grant.grantee.name(), grant.key);
            row("grant", grant.id.as_str(), detail, grant.created, self.grants.get(grant.id.as_str()));
        }
        for user in state.users.values() {
            let arn = format!("arn:aws:iam::{}:user{}{}", user.account, user.path, user.name);
            row("user", &arn, String::new(), user.created, self.principals.get(&arn));
        }
        for role in state.roles.values() {
            let arn = format!("arn:aws:iam::{}:role{}{}", role.account, role.path, role.name);
            row("role", &arn, String::new(), role.created, self.principals.get(&arn));
        }
        for key in state.access_keys.values().filter(|key| key.active) {
            row("access key", key.id.as_str(), key.owner.clone(), key.created, self.access_keys.get(key.id.as_str()));
        }
        Ok(table)
    }
}
