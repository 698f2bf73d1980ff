//! OTLP/HTTP with JSON: `POST …/v1/logs`. Source: opentelemetry-proto, `logs.proto` and its JSON mapping (64-bit numbers are
//! strings, fields in lowerCamelCase), and the log data model for severities.

use bytes::Bytes;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::OtlpTarget;
use super::delivery::Batch;
use super::facts::{Facts, Outcome};
use crate::client::https::Poster;
use crate::secret::SecretString;

pub(super) struct Otlp {
    poster: Poster,
    authorization: Option<SecretString>,
    trail: String,
    host: String,
}

impl Otlp {
    pub fn open(target: &OtlpTarget, trail: &str) -> Result<Self, String> {
        let authorization = match &target.authorization_file {
            None => None,
            Some(path) => {
                let read = std::fs::read_to_string(path).map_err(|e| format!("`{}`: {e}", path.display()))?;
                Some(SecretString::new(read.trim().to_owned()))
            }
        };
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let poster = Poster::new(&target.url, target.trust.clone())?;
        Ok(Self { poster, authorization, trail: trail.to_owned(), host })
    }

    pub async fn send(&mut self, batch: &Batch, now_ms: i64) -> Result<(), String> {
        let records: Result<Vec<Value>, String> =
            batch.records.iter().map(|followed| log_record(&followed.line, now_ms)).collect();
        self.post(records?).await
    }

    pub async fn heartbeat(&mut self, line: &str, now_ms: i64) -> Result<(), String> {
        let nanos = (i128::from(now_ms) * 1_000_000).to_string();
        self.post(vec![json!({
            "timeUnixNano": nanos,
            "observedTimeUnixNano": nanos,
            "severityNumber": 9,
            "severityText": "INFO",
            "eventName": "Heartbeat",
            "body": {"stringValue": line},
            "attributes": [text("event.name", "Heartbeat")],
        })])
        .await
    }

    async fn post(&mut self, records: Vec<Value>) -> Result<(), String> {
        let count = records.len();
        let body = json!({"resourceLogs": [{
            "resource": {"attributes": [
                text("service.name", "hsm-bridge"),
                text("service.version", env!("CARGO_PKG_VERSION")),
                text("host.name", &self.host),
                text("hsm_bridge.audit.trail", &self.trail),
            ]},
            "scopeLogs": [{
                "scope": {"name": "hsm-bridge.audit", "version": env!("CARGO_PKG_VERSION")},
                "logRecords": records,
            }],
        }]});
        let mut headers = vec![
            ("content-type".to_owned(), "application/json".to_owned()),
            ("user-agent".to_owned(), concat!("hsm-bridge/", env!("CARGO_PKG_VERSION")).to_owned()),
        ];
        if let Some(authorization) = &self.authorization {
            headers.push(("authorization".to_owned(), authorization.expose().to_owned()));
        }
        let (status, answer) = self.poster.post(&headers, Bytes::from(body.to_string())).await?;
        if !(200..=299).contains(&status) {
            return Err(format!("HTTP status {status}"));
        }
        // RULE OTLP §Partial Success: what was rejected must not be sent again. It is still in the journal.
        if let Some(rejected) = rejected(&answer) {
            tracing::error!(rejected, of = count, "the OTLP receiver rejects records; they are not sent again");
        }
        Ok(())
    }
}

/// Number of records that the receiver did not take, of an answer with `partialSuccess`.
fn rejected(answer: &[u8]) -> Option<u64> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let count = answer.get("partialSuccess")?.get("rejectedLogRecords")?;
    let count = count.as_u64().or_else(|| count.as_str()?.parse().ok())?;
    (count > 0).then_some(count)
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

pub(super) fn log_record(line: &[u8], now_ms: i64) -> Result<Value, String> {
    let facts = Facts::of(line)?;
    let place = facts.place();
    let outcome = facts.outcome();
    let (number, severity) = match outcome {
        Outcome::Success | Outcome::Intent => (9, "INFO"),
        Outcome::Failure => (13, "WARN"),
        Outcome::Alarm => (21, "FATAL"),
    };
    let mut attributes = vec![
        text("event.name", &facts.event_name),
        text("log.record.uid", &facts.event_id),
        json!({"key": "hsm_bridge.audit.seq", "value": {"intValue": place.seq.to_string()}}),
        text("hsm_bridge.audit.chain", &place.chain),
        text("hsm_bridge.audit.outcome", outcome.as_str()),
        text("hsm_bridge.audit.event_type", &facts.event_type),
        text("hsm_bridge.audit.event_source", &facts.event_source),
    ];
    let more = [
        ("aws.request_id", facts.request_id.as_deref()),
        ("cloud.region", facts.aws_region.as_deref()),
        ("client.address", facts.source.as_deref()),
        ("user.id", facts.principal()),
        ("error.type", facts.error_code.as_deref()),
        ("aws.kms.key.arn", facts.key()),
    ];
    attributes.extend(more.iter().filter_map(|(key, value)| value.map(|value| text(key, value))));
    let time = OffsetDateTime::parse(&place.time, &Rfc3339).map_err(|e| format!("record {}: {e}", place.seq))?;
    Ok(json!({
        "timeUnixNano": time.unix_timestamp_nanos().to_string(),
        "observedTimeUnixNano": (i128::from(now_ms) * 1_000_000).to_string(),
        "severityNumber": number,
        "severityText": severity,
        "eventName": facts.event_name,
        "body": {"stringValue": std::str::from_utf8(line).map_err(|e| e.to_string())?},
        "attributes": attributes,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_success() {
        for (answer, expected) in [
            ("", None),
            ("{}", None),
            ("{\"partialSuccess\":{}}", None),
            ("{\"partialSuccess\":{\"rejectedLogRecords\":\"0\"}}", None),
            ("{\"partialSuccess\":{\"rejectedLogRecords\":\"3\"}}", Some(3)),
            ("{\"partialSuccess\":{\"rejectedLogRecords\":2}}", Some(2)),
        ] {
            assert_eq!(rejected(answer.as_bytes()), expected, "{answer}");
        }
    }
}
