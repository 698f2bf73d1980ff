//! RFC 5424 messages over TCP with octet counting (RFC 6587 §3.4.1) or TLS (RFC 5425). No UDP: it loses records and tells nobody.
//!
//! Syslog has no acknowledgement. What counts is that the receiver's machine took the bytes: the connection breaks where it does
//! not within some seconds, and only what was written longer ago than that on a connection that still stands is acknowledged.
//! The rest is sent again on the next connection.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until, timeout};

use super::SyslogTarget;
use super::delivery::Batch;
use super::facts::{Facts, Outcome};
use crate::audit::Leaf;
use crate::client::https::{self, ARRIVED, Stream};

/// In which the receiver has to take what is written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Who sends: the same in all messages.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub host: String,
    pub pid: u32,
    pub enterprise: u32,
    pub max_bytes: usize,
}

pub(super) struct Syslog {
    origin: Origin,
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    /// Written and not yet taken as arrived: when, and what comes after.
    written: VecDeque<(Instant, u64)>,
}

impl Syslog {
    pub async fn open(target: &SyslogTarget) -> Result<Self, String> {
        let stream = https::connect(&target.host, target.port, target.trust.as_ref()).await?;
        let (reader, writer) = tokio::io::split(stream);
        let origin = Origin {
            host: header_field(rustix::system::uname().nodename().to_str().unwrap_or("-"), 255),
            pid: std::process::id(),
            enterprise: target.enterprise_number,
            max_bytes: target.max_message_bytes,
        };
        Ok(Self { origin, reader, writer, written: VecDeque::new() })
    }

    pub async fn send(&mut self, batch: &Batch) -> Result<(), String> {
        let mut bytes = Vec::new();
        for followed in &batch.records {
            let message = message(&self.origin, &Facts::of(&followed.line)?, &followed.line);
            frame(&mut bytes, &message);
        }
        self.write(&bytes).await?;
        self.written.push_back((Instant::now(), batch.next));
        Ok(())
    }

    pub async fn heartbeat(&mut self, line: &str) -> Result<(), String> {
        let mut bytes = Vec::new();
        frame(&mut bytes, &heartbeat(&self.origin, line));
        self.write(&bytes).await
    }

    /// What has arrived by now.
    pub fn arrived(&mut self) -> Option<u64> {
        let mut arrived = None;
        while let Some((_, next)) = self.written.pop_front_if(|(at, _)| at.elapsed() >= ARRIVED) {
            arrived = Some(next);
        }
        arrived
    }

    /// Nothing is to be sent before this seq: that arrives with what was written last.
    pub fn skip(&mut self, next: u64) -> Option<u64> {
        match self.written.back_mut() {
            Some((_, last)) => {
                *last = next;
                self.arrived()
            }
            None => Some(next),
        }
    }

    /// Waits until more has arrived; an error when the receiver goes away.
    pub async fn watch(&mut self) -> Result<(), String> {
        let mut answer = [0; 512];
        let due = self.written.front().map(|(at, _)| *at + ARRIVED);
        let due = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => Ok(()),
            read = self.reader.read(&mut answer) => match read {
                Ok(0) => Err("the receiver closed the connection".to_owned()),
                // Nothing is expected; what comes is no reason to stop.
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            },
        }
    }

    pub async fn close(&mut self) {
        let _ = timeout(WRITE_TIMEOUT, self.writer.shutdown()).await;
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        let written = timeout(WRITE_TIMEOUT, async {
            self.writer.write_all(bytes).await?;
            self.writer.flush().await
        });
        match written.await {
            Ok(done) => done.map_err(|e| e.to_string()),
            Err(_) => Err("the receiver takes nothing".to_owned()),
        }
    }
}

/// RULE RFC 5425 §4.3.1: `MSG-LEN SP SYSLOG-MSG`. Never an end of line: a record could be cut there.
pub(super) fn frame(into: &mut Vec<u8>, message: &[u8]) {
    into.extend_from_slice(format!("{} ", message.len()).as_bytes());
    into.extend_from_slice(message);
}

/// RULE RFC 5424 §6. Facility 13 (log audit). Of the clock it is said that the zone is known; whether it is synchronised, nobody
/// here knows.
pub(super) fn message(origin: &Origin, facts: &Facts<'_>, line: &[u8]) -> Vec<u8> {
    let place = facts.place();
    let outcome = facts.outcome();
    let severity = match outcome {
        Outcome::Success | Outcome::Intent => 6,
        Outcome::Failure => 4,
        Outcome::Alarm => 2,
    };
    let mut data = format!(
        "[hsm@{} seq=\"{}\" chain=\"{}\" eventId=\"{}\"",
        origin.enterprise,
        place.seq,
        value(&place.chain),
        value(&facts.event_id)
    );
    if let Some(key) = facts.key() {
        data.push_str(&format!(" key=\"{}\"", value(key)));
    }
    data.push_str(&format!(" outcome=\"{}\"][timeQuality tzKnown=\"1\"]", outcome.as_str()));
    let head = head(origin, severity, &place.time, &facts.event_name, &data);
    if head.len() + line.len() <= origin.max_bytes {
        return [head.as_slice(), line].concat();
    }
    [head, cut(facts, line).into_bytes()].concat()
}

fn heartbeat(origin: &Origin, line: &str) -> Vec<u8> {
    let time = serde_json::from_str::<serde_json::Value>(line)
        .ok()
        .and_then(|beat| beat.get("hsmBridgeHeartbeat")?.get("time")?.as_str().map(str::to_owned));
    let data = format!("[hsm@{} heartbeat=\"1\"][timeQuality tzKnown=\"1\"]", origin.enterprise);
    let head = head(origin, 6, time.as_deref().unwrap_or("-"), "Heartbeat", &data);
    [head.as_slice(), line.as_bytes()].concat()
}

/// Up to the message, with the mark of UTF-8 (§6.4).
fn head(origin: &Origin, severity: u8, time: &str, name: &str, data: &str) -> Vec<u8> {
    const FACILITY: u8 = 13;
    let (host, pid, name) = (&origin.host, origin.pid, header_field(name, 32));
    let priority = FACILITY * 8 + severity;
    format!("<{priority}>1 {time} {host} hsm-bridge {pid} {name} {data} \u{feff}").into_bytes()
}

/// What is sent of a record that is too long: enough to find it in the log by its `eventID`.
fn cut(facts: &Facts<'_>, line: &[u8]) -> String {
    serde_json::json!({
        "truncated": true,
        "bytes": line.len(),
        "leafSha256": Leaf::of(line).as_str(),
        "eventTime": facts.event_time,
        "eventSource": facts.event_source,
        "eventName": facts.event_name,
        "eventID": facts.event_id,
        "requestID": facts.request_id,
        "errorCode": facts.error_code,
        "additionalEventData": {"audit": {"chain": facts.place().chain, "seq": facts.place().seq, "time": facts.place().time}},
    })
    .to_string()
}

/// RULE RFC 5424 §6.2: printable ASCII without spaces, of limited length; `-` where nothing is left.
fn header_field(text: &str, most: usize) -> String {
    let field: String = text.chars().filter(char::is_ascii_graphic).take(most).collect();
    if field.is_empty() { "-".to_owned() } else { field }
}

/// RULE RFC 5424 §6.3.3: `"`, `\` and `]` are escaped.
fn value(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        if matches!(char, '"' | '\\' | ']') {
            escaped.push('\\');
        }
        escaped.push(char);
    }
    escaped
}
