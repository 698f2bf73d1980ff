//! R4, and what other reports know of uses.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::super::list;
use super::super::pass::Needs;
use super::super::record::{Record, date, parsed, role_of};
use super::super::table::{SOURCE, Table};
use super::super::{Query, ReportError};
use super::{End, Moment, Report};

/// Operations that use a key.
pub(super) const USES: &[&str] = &[
    "Encrypt",
    "Decrypt",
    "ReEncrypt",
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "Sign",
    "Verify",
    "GenerateMac",
    "VerifyMac",
    "DeriveSharedSecret",
];
/// Different source addresses, or names of an encryption context, in one row.
const SEVERAL: usize = 32;
const DAY_MS: i64 = 86_400_000;

/// Whether a record is of an attempt to use a key.
pub(super) fn is_use(record: &Record<'_>) -> bool {
    record.event_type == "AwsApiCall" && USES.contains(&record.event_name.as_ref())
}

/// Who used a key: of a session its role, so that rows do not grow with sessions.
pub(super) fn user_of(record: &Record<'_>) -> String {
    let arn = record.principal();
    issuer_of(record).or_else(|| role_of(&arn)).unwrap_or(arn)
}

/// `sessionContext.sessionIssuer.arn`: the role with its path.
fn issuer_of(record: &Record<'_>) -> Option<String> {
    let context = parsed(Some(record.user_identity.session_context?));
    Some(context.get("sessionIssuer")?.get("arn")?.as_str()?.to_owned())
}

/// The last use of something.
#[derive(Debug, Clone)]
pub(super) struct LastUse {
    pub at: i64,
    pub operation: String,
    pub principal: String,
    pub event_id: String,
}

impl LastUse {
    pub fn of(record: &Record<'_>, at: i64) -> LastUse {
        LastUse {
            at,
            operation: record.event_name.to_string(),
            principal: user_of(record),
            event_id: record.event_id.to_string(),
        }
    }
}

/// R4: who, which key, which operation, on which day.
pub(super) struct KeyUsage {
    query: Query,
    rows: BTreeMap<(String, String, String, String), Day>,
    /// Groups beyond the bound.
    lost: u64,
}

struct Day {
    count: u64,
    errors: u64,
    first: i64,
    last: i64,
    addresses: BTreeSet<String>,
    context: BTreeSet<String>,
    source: String,
}

impl KeyUsage {
    pub fn new(query: Query) -> Self {
        Self { query, rows: BTreeMap::new(), lost: 0 }
    }
}

impl Report for KeyUsage {
    fn needs(&self) -> Needs {
        self.query.report.needs()
    }

    fn record(&mut self, record: &Record<'_>, moment: &Moment<'_>) {
        if !moment.in_period || !is_use(record) || !self.query.wants(record) {
            return;
        }
        let day = date(moment.at - moment.at.rem_euclid(DAY_MS)).chars().take(10).collect::<String>();
        let parameters = parsed(record.request_parameters);
        for key in record.keys().collect::<BTreeSet<_>>() {
            let at = (day.clone(), user_of(record), key.to_owned(), record.event_name.to_string());
            if self.rows.len() >= super::super::table::MOST_ROWS && !self.rows.contains_key(&at) {
                self.lost += 1;
                continue;
            }
            let row = self.rows.entry(at).or_insert_with(|| Day {
                count: 0,
                errors: 0,
                first: moment.at,
                last: moment.at,
                addresses: BTreeSet::new(),
                context: BTreeSet::new(),
                source: record.event_id.to_string(),
            });
            row.count += 1;
            row.errors += u64::from(record.error_code.is_some());
            row.last = row.last.max(moment.at);
            if let Some(address) = record.source_ip.as_deref().filter(|_| row.addresses.len() < SEVERAL) {
                row.addresses.insert(address.to_owned());
            }
            for name in ["encryptionContext", "sourceEncryptionContext", "destinationEncryptionContext"] {
                let names = parameters.get(name).and_then(Value::as_object).into_iter().flat_map(|pairs| pairs.keys());
                for name in names {
                    if row.context.len() < SEVERAL {
                        row.context.insert(name.clone());
                    }
                }
            }
        }
    }

    fn finish(self: Box<Self>, end: &mut End<'_>) -> Result<Table, ReportError> {
        let mut table = Table::new(&[
            "day",
            "principal",
            "key_arn",
            "operation",
            "count",
            "failed",
            "first",
            "last",
            "source_ips",
            "encryption_context_keys",
            SOURCE,
        ]);
        if self.lost > 0 {
            end.notes.push(format!("{} uses are in no row: narrow the report", self.lost));
        }
        end.notes
            .push("sessions of a role are counted under their role; the eventID is the day's first record".to_owned());
        for ((day, principal, key, operation), row) in self.rows {
            table.row(
                vec![
                    json!(day),
                    json!(principal),
                    json!(key),
                    json!(operation),
                    json!(row.count),
                    json!(row.errors),
                    json!(date(row.first)),
                    json!(date(row.last)),
                    list(row.addresses),
                    list(row.context),
                ],
                Some(&row.source),
            );
        }
        Ok(table)
    }
}
