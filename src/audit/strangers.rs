//! Requests that nobody signed validly: counted, not recorded one by one, so that they cannot fill the disk.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Additional, Event, EventType, UserIdentity};

/// Requests whose signature did not verify, counted by error and source in a bounded table; one aggregated record per row
/// and minute.
pub struct Strangers {
    rows: usize,
    table: Mutex<HashMap<(&'static str, Source), Row>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Source {
    Address(IpAddr),
    /// All that found the table full, and what is not an address.
    Other,
}

struct Row {
    count: u64,
    /// Kept while all requests of the row agree.
    operation: Option<&'static str>,
    access_key: Option<String>,
}

impl Strangers {
    pub fn new(rows: usize) -> Self {
        Strangers { rows, table: Mutex::default() }
    }

    /// `operation`: only if it is a known name; `access_key`: only if it matches the syntax.
    pub fn note(
        &self,
        error_code: &'static str,
        source_ip: &str,
        operation: Option<&'static str>,
        access_key: Option<&str>,
    ) {
        let mut source =
            source_ip.parse::<IpAddr>().map_or(Source::Other, |address| Source::Address(address.to_canonical()));
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        // Beyond the rows there is one row more per error code, and the codes are few.
        if table.len() >= self.rows && !table.contains_key(&(error_code, source)) {
            source = Source::Other;
        }
        let row = table.entry((error_code, source)).or_insert_with(|| Row {
            count: 0,
            operation,
            access_key: access_key.map(str::to_string),
        });
        row.count = row.count.saturating_add(1);
        if row.operation != operation {
            row.operation = None;
        }
        if row.access_key.as_deref() != access_key {
            row.access_key = None;
        }
    }

    /// Takes all rows as events to append (called each minute, and at shutdown).
    pub fn drain(&self, region: &str, account: &str, now: i64, window: Duration) -> Vec<Event> {
        let table = std::mem::take(&mut *self.table.lock().unwrap_or_else(PoisonError::into_inner));
        let mut rows: Vec<_> = table.into_iter().collect();
        rows.sort_by_key(|(key, _)| *key);
        rows.into_iter()
            .map(|((error_code, source), row)| Event {
                event_type: EventType::AwsApiCall,
                user_identity: UserIdentity {
                    kind: Some("Unknown"),
                    principal_id: None,
                    arn: None,
                    account_id: None,
                    access_key_id: row.access_key,
                    user_name: None,
                    invoked_by: None,
                    os_user_id: None,
                    ..UserIdentity::default()
                },
                time: now,
                source: "kms.amazonaws.com",
                name: row.operation.unwrap_or("Unknown").to_string(),
                region: region.to_string(),
                source_ip: match source {
                    Source::Address(address) => address.to_string(),
                    Source::Other => "other".to_string(),
                },
                user_agent: None,
                error_code: Some(error_code.to_string()),
                error_message: None,
                request_parameters: None,
                response_elements: None,
                request_id: None,
                read_only: true,
                resources: Vec::new(),
                recipient_account: account.to_string(),
                tls: None,
                additional: Additional {
                    count: Some(row.count),
                    window_seconds: Some(window.as_secs()),
                    ..Additional::default()
                },
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(strangers: &Strangers) -> Vec<(String, String, u64, String, Option<String>)> {
        strangers
            .drain("eu-central-1", "111122223333", 0, Duration::from_secs(60))
            .into_iter()
            .map(|event| {
                assert_eq!(event.additional.window_seconds, Some(60));
                let count = event.additional.count.unwrap();
                (event.error_code.unwrap(), event.source_ip, count, event.name, event.user_identity.access_key_id)
            })
            .collect()
    }

    #[test]
    fn one_row_per_error_and_source() {
        let strangers = Strangers::new(10);
        for _ in 0..3 {
            strangers.note("InvalidSignatureException", "203.0.113.9", Some("Sign"), Some("AKIA7NOSUCHKEY000001"));
        }
        strangers.note("InvalidSignatureException", "::ffff:203.0.113.9", Some("Sign"), Some("AKIA7NOSUCHKEY000001"));
        strangers.note("MissingAuthenticationTokenException", "2001:db8::1", Some("Sign"), None);
        strangers.note("MissingAuthenticationTokenException", "2001:DB8::1", Some("Encrypt"), Some("AKIA"));
        strangers.note("MissingAuthenticationTokenException", "<script>", None, None);
        let text = |text: &str| text.to_string();
        assert_eq!(
            rows(&strangers),
            [
                (
                    text("InvalidSignatureException"),
                    text("203.0.113.9"),
                    4,
                    text("Sign"),
                    Some(text("AKIA7NOSUCHKEY000001"))
                ),
                (text("MissingAuthenticationTokenException"), text("2001:db8::1"), 2, text("Unknown"), None),
                (text("MissingAuthenticationTokenException"), text("other"), 1, text("Unknown"), None),
            ]
        );
        assert!(rows(&strangers).is_empty());
    }

    #[test]
    fn the_table_is_bounded_and_counts_everything() {
        let strangers = Strangers::new(4);
        for number in 0..1000 {
            let code = if number % 2 == 0 { "A" } else { "B" };
            strangers.note(code, &format!("10.0.{}.{}", number / 250, number % 250), None, None);
        }
        let rows = rows(&strangers);
        assert!(rows.len() <= 6, "{rows:?}");
        assert_eq!(rows.iter().map(|row| row.2).sum::<u64>(), 1000);
        assert_eq!(rows.iter().filter(|row| row.1 == "other").map(|row| row.2).sum::<u64>(), 996);
    }
}
