//! An event as the bytes of one line. All but `seq`, `time` and `prev` is written in the caller's task; the writer splices
//! those three in, so that it spends one SHA-256 and one copy per record. Members and their order: audit.md §1.1, §1.4.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::verify::line::{Leaf, end_id, is_bookkeeping};
use super::verify::lines::MAX_LINE;
use super::{Event, EventType, Settings};

/// RULE CloudTrail: userAgent and errorMessage end after 1 KiB.
const MAX_TEXT: usize = 1024;
/// Room for what the writer splices in.
const SPLICE: usize = 160;

/// What all records of one run of the service have in common.
#[derive(Debug)]
pub(super) struct Origin {
    pub trail_arn: String,
    pub boot: String,
    region: String,
    account: String,
    /// `"audit":{…,"seq":`
    place: Vec<u8>,
    /// Length of the last line built: the next one's buffer rarely grows.
    usual: AtomicU64,
}

impl Origin {
    pub fn new(settings: &Settings, boot: String) -> Origin {
        // The chain is named as its trail.
        let chain = settings.trail_arn.rsplit('/').next().unwrap_or_default();
        let mut place = b"\"audit\":{\"v\":1,\"chain\":".to_vec();
        json(&mut place, chain);
        place.extend_from_slice(b",\"boot\":");
        json(&mut place, &boot);
        place.extend_from_slice(b",\"seq\":");
        Origin {
            trail_arn: settings.trail_arn.clone(),
            boot,
            region: settings.region.clone(),
            account: settings.account.clone(),
            place,
            usual: AtomicU64::new(1536),
        }
    }

    /// A record of the log about itself.
    pub fn system(&self, name: &str, time_micros: i64, details: serde_json::Value) -> Event {
        Event::system(name, &self.region, &self.account, time_micros.div_euclid(1000), details)
    }
}

/// A record that waits for its place.
#[derive(Debug)]
pub(super) struct Draft {
    bytes: Vec<u8>,
    /// Where `seq` goes.
    split: usize,
    pub intent: bool,
    /// Needs a checkpoint: not only about the log's own files.
    pub news: bool,
    pub request_id: Option<String>,
    pub store_version: Option<u64>,
}

impl Draft {
    pub fn new(mut event: Event, origin: &Origin, event_id: Uuid) -> Draft {
        tidy(&mut event);
        let mut bytes = Vec::with_capacity(origin.usual.load(Ordering::Relaxed) as usize + 64);
        let mut split = write(&event, origin, event_id, &mut bytes);
        while bytes.len() + SPLICE > MAX_LINE && shrink(&mut event) {
            bytes.clear();
            split = write(&event, origin, event_id, &mut bytes);
        }
        origin.usual.store(bytes.len() as u64, Ordering::Relaxed);
        Draft {
            bytes,
            split,
            intent: event.event_type == EventType::HsmBridgeIntent,
            news: !(event.event_type == EventType::HsmBridgeSystem && is_bookkeeping(&event.name)),
            request_id: event.request_id,
            store_version: event.additional.store_version,
        }
    }

    /// At most, with what the writer splices in.
    pub fn len(&self) -> usize {
        self.bytes.len() + SPLICE
    }

    /// Appends the line and its newline. Returns the link to the next record.
    pub fn splice(&self, seq: u64, time: &str, prev: Leaf, buffer: &mut Vec<u8>) -> Leaf {
        let start = buffer.len();
        self.place(seq, time, prev, buffer);
        let leaf = Leaf::of(buffer.get(start..).unwrap_or_default());
        buffer.push(b'\n');
        leaf
    }

    /// The same for a `SegmentEnd`, whose `eventID` is its own digest.
    pub fn splice_end(&self, seq: u64, time: &str, prev: Leaf, buffer: &mut Vec<u8>) -> Leaf {
        let start = buffer.len();
        self.place(seq, time, prev, buffer);
        let line = buffer.get_mut(start..).unwrap_or_default();
        if let Some((at, id)) = std::str::from_utf8(line).ok().and_then(end_id)
            && let Some(slot) = line.get_mut(at..at + id.len())
        {
            slot.copy_from_slice(id.as_bytes());
        }
        let leaf = Leaf::of(line);
        buffer.push(b'\n');
        leaf
    }

    fn place(&self, seq: u64, time: &str, prev: Leaf, buffer: &mut Vec<u8>) {
        let (before, after) = self.bytes.split_at(self.split);
        buffer.extend_from_slice(before);
        decimal(buffer, seq);
        buffer.extend_from_slice(b",\"time\":\"");
        buffer.extend_from_slice(time.as_bytes());
        buffer.extend_from_slice(b"\",\"prev\":\"");
        buffer.extend_from_slice(prev.as_bytes());
        buffer.push(b'"');
        buffer.extend_from_slice(after);
    }
}

/// Writes the line without `seq`, `time` and `prev`; returns where they go.
fn write(event: &Event, origin: &Origin, event_id: Uuid, out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(b"{\"eventVersion\":\"1.11\"");
    member(out, "userIdentity", &event.user_identity);
    out.extend_from_slice(b",\"eventTime\":\"");
    out.extend_from_slice(seconds(event.time.div_euclid(1000)).as_bytes());
    out.extend_from_slice(b"Z\"");
    member(out, "eventSource", event.source);
    member(out, "eventName", &event.name);
    member(out, "awsRegion", &event.region);
    member(out, "sourceIPAddress", &event.source_ip);
    optional(out, "userAgent", event.user_agent.as_deref());
    optional(out, "errorCode", event.error_code.as_deref());
    optional(out, "errorMessage", event.error_message.as_deref());
    raw(out, "requestParameters", event.request_parameters.as_deref());
    raw(out, "responseElements", event.response_elements.as_deref());
    member(out, "additionalEventData", &event.additional);
    // The writer's members stand last in additionalEventData: its closing brace is taken back.
    out.pop();
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    out.extend_from_slice(&origin.place);
    let split = out.len();
    out.extend_from_slice(b"}}");
    optional(out, "requestID", event.request_id.as_deref());
    out.extend_from_slice(b",\"eventID\":\"");
    let mut id = Uuid::encode_buffer();
    out.extend_from_slice(event_id.hyphenated().encode_lower(&mut id).as_bytes());
    out.extend_from_slice(if event.read_only { b"\",\"readOnly\":true" } else { b"\",\"readOnly\":false" });
    member(out, "resources", &event.resources);
    member(out, "eventType", event.event_type.name());
    out.extend_from_slice(b",\"managementEvent\":true");
    member(out, "recipientAccountId", &event.recipient_account);
    out.extend_from_slice(b",\"eventCategory\":\"Management\"");
    if let Some(tls) = &event.tls {
        member(out, "tlsDetails", tls);
    }
    out.push(b'}');
    split
}

impl EventType {
    pub fn name(self) -> &'static str {
        match self {
            EventType::AwsApiCall => "AwsApiCall",
            EventType::AwsServiceEvent => "AwsServiceEvent",
            EventType::HsmBridgeIntent => "HsmBridgeIntent",
            EventType::HsmBridgeOperatorCall => "HsmBridgeOperatorCall",
            EventType::HsmBridgeSystem => "HsmBridgeSystem",
        }
    }
}

fn member(out: &mut Vec<u8>, name: &str, value: &(impl Serialize + ?Sized)) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    json(out, value);
}

fn optional(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        member(out, name, value);
    }
}

fn raw(out: &mut Vec<u8>, name: &str, value: Option<&RawValue>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    out.extend_from_slice(value.map_or("null", RawValue::get).as_bytes());
}

fn json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(out, value).expect("plain structures always serialise into memory");
}

fn decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut used = 0;
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + (value % 10) as u8;
        value /= 10;
        used += 1;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

/// `2026-03-04T09:20:00`.
pub(super) fn seconds(unix: i64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp(unix).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second) = at.to_hms();
    let mut text = String::with_capacity(28);
    let mut push = |value: u32, width: u32, after: Option<char>| {
        for digit in (0..width).rev() {
            text.push(char::from(b'0' + (value / 10u32.pow(digit) % 10) as u8));
        }
        text.extend(after);
    };
    push(year.unsigned_abs(), 4, Some('-'));
    push(u8::from(month).into(), 2, Some('-'));
    push(day.into(), 2, Some('T'));
    push(hour.into(), 2, Some(':'));
    push(minute.into(), 2, Some(':'));
    push(second.into(), 2, None);
    text
}

/// `2026-03-04T09:20:00.103417Z`.
pub(super) fn micros(unix_micros: i64) -> String {
    let mut text = seconds(unix_micros.div_euclid(1_000_000));
    let fraction = unix_micros.rem_euclid(1_000_000);
    text.push('.');
    for digit in (0..6).rev() {
        text.push(char::from(b'0' + (fraction / 10i64.pow(digit) % 10) as u8));
    }
    text.push('Z');
    text
}

fn tidy(event: &mut Event) {
    let texts = [&mut event.user_agent, &mut event.error_message, &mut event.error_code, &mut event.request_id];
    texts.into_iter().flatten().for_each(cut);
    cut(&mut event.name);
    cut(&mut event.source_ip);
    if let Some(host) = event.tls.as_mut().and_then(|tls| tls.client_provided_host_header.as_mut()) {
        cut(host);
    }
    for value in [&mut event.request_parameters, &mut event.response_elements] {
        // Line breaks between the tokens of a raw value would break the line.
        if value.as_ref().is_some_and(|value| value.get().bytes().any(|byte| byte < 0x20)) {
            *value = value.take().map(|value| compact(&value));
        }
    }
}

fn cut(text: &mut String) {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
    }
}

/// A JSON text without the white space between its tokens.
fn compact(value: &RawValue) -> Box<RawValue> {
    let mut text = String::with_capacity(value.get().len());
    let (mut inside, mut escaped) = (false, false);
    for char in value.get().chars() {
        if inside {
            inside = escaped || char != '"';
            escaped = char == '\\' && !escaped;
        } else if char.is_ascii_whitespace() {
            continue;
        } else {
            inside = char == '"';
        }
        text.push(char);
    }
    RawValue::from_string(text).expect("valid JSON stays so without white space between tokens")
}

/// Replaces the largest replaceable member by its hash; false when there is none left.
fn shrink(event: &mut Event) -> bool {
    let parameters = event.request_parameters.as_ref().map_or(0, |value| value.get().len());
    let response = event.response_elements.as_ref().map_or(0, |value| value.get().len());
    let details = event.additional.details.as_ref().map_or(0, |value| value.to_string().len());
    let change = event.additional.state_change.as_ref().map_or(0, |value| value.to_string().len());
    let largest = parameters.max(response).max(details).max(change);
    if largest > MAX_TEXT {
        if largest == change {
            event.additional.state_change =
                event.additional.state_change.take().map(|value| truncated(&value.to_string()));
        } else if largest == details {
            event.additional.details = event.additional.details.take().map(|value| truncated(&value.to_string()));
        } else {
            let value =
                if largest == parameters { &mut event.request_parameters } else { &mut event.response_elements };
            *value = value.take().map(|value| {
                RawValue::from_string(truncated(value.get()).to_string()).expect("a JSON value prints as JSON")
            });
        }
        return true;
    }
    let many = event.resources.len() > 16;
    event.resources.truncate(16);
    many
}

fn truncated(text: &str) -> serde_json::Value {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    serde_json::json!({"truncated": true, "sha256": hex::encode(hash)})
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::audit::verify::line::Line;
    use crate::audit::{Additional, Authorization, Basis, HsmFacts, Resource, TlsDetails, UserIdentity};

    pub fn settings(dir: &std::path::Path) -> Settings {
        Settings {
            dir: dir.to_path_buf(),
            trail_arn: "arn:aws:cloudtrail:eu-central-1:111122223333:trail/hsm-bridge".into(),
            region: "eu-central-1".into(),
            account: "111122223333".into(),
            segment_bytes: 64 << 20,
            segment_age: std::time::Duration::from_secs(3600),
            refuse_below_free: 0.0,
            warn_below_free: 0.0,
            reserve_bytes: 0,
            accept_loss: None,
            deadline: std::time::Duration::from_secs(20),
        }
    }

    pub fn event(event_type: EventType, name: &str, request_id: &str) -> Event {
        Event {
            event_type,
            user_identity: UserIdentity {
                kind: Some("IAMUser"),
                principal_id: Some("AIDA7HSMBRIDGE000001".into()),
                arn: Some("arn:aws:iam::111122223333:user/payments".into()),
                account_id: Some("111122223333".into()),
                access_key_id: Some("AKIA7HSMBRIDGE000001".into()),
                user_name: Some("payments".into()),
                invoked_by: None,
                os_user_id: None,
                ..UserIdentity::default()
            },
            time: 1_772_616_000_103,
            source: "kms.amazonaws.com",
            name: name.into(),
            region: "eu-central-1".into(),
            source_ip: "10.20.0.7".into(),
            user_agent: Some("aws-cli/2.36.7 md/awscrt#0.36.0".into()),
            error_code: None,
            error_message: None,
            request_parameters: Some(
                RawValue::from_string(r#"{"keyId":"alias/payments","keySpec":"AES_256"}"#.into()).unwrap(),
            ),
            response_elements: None,
            request_id: Some(request_id.into()),
            read_only: true,
            resources: vec![Resource {
                account_id: "111122223333".into(),
                kind: "AWS::KMS::Key",
                arn: "arn:aws:kms:eu-central-1:111122223333:key/5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11".into(),
            }],
            recipient_account: "111122223333".into(),
            tls: None,
            additional: Additional::default(),
        }
    }

    fn origin() -> Origin {
        Origin::new(&settings(std::path::Path::new("/nowhere")), "b3f1".into())
    }

    fn line(event: Event) -> Vec<u8> {
        let mut buffer = Vec::new();
        Draft::new(event, &origin(), Uuid::nil()).splice(
            0,
            "2026-03-04T09:20:00.103417Z",
            Leaf::genesis("t"),
            &mut buffer,
        );
        assert_eq!(buffer.pop(), Some(b'\n'));
        buffer
    }

    /// The shape of audit.md §1.4 (a), written by hand.
    #[test]
    fn golden_line() {
        let mut event = event(EventType::AwsApiCall, "GenerateDataKey", "7c31a487-6904-5b82-af00-74ca2b88f2cf");
        event.error_code = Some("DisabledException".into());
        event.error_message = Some("a \"quoted\" text\nof two lines".into());
        event.tls = Some(TlsDetails {
            tls_version: "TLSv1.3".into(),
            cipher_suite: "TLS_AES_256_GCM_SHA384".into(),
            client_provided_host_header: Some("kms.example.net".into()),
            key_exchange: Some("X25519MLKEM768".into()),
        });
        event.additional = Additional {
            key_material_id: Some("9d2f".into()),
            hsm: Some(HsmFacts {
                token_serial: Some("0aa1c4f27d3e9b55".into()),
                slot: Some(3),
                mechanism: Some("CKM_AES_GCM"),
                rv: "CKR_OK".into(),
                function: None,
                micros: Some(412),
            }),
            authorization: Some(Authorization {
                decision: "Allow",
                basis: Basis {
                    source: "KeyPolicy",
                    statement_id: Some("AllowPaymentsUse".into()),
                    policy_version: Some(7),
                    ..Basis::default()
                },
                checks: Vec::new(),
            }),
            ..Additional::default()
        };
        let id = Uuid::parse_str("fbf40e91-b114-4d7d-8049-5556e8529791").unwrap();
        let prev = Leaf::genesis("arn:aws:cloudtrail:eu-central-1:111122223333:trail/hsm-bridge");
        let mut buffer = Vec::new();
        Draft::new(event, &origin(), id).splice(1234567, &micros(1_772_616_000_103_417), prev, &mut buffer);
        // prev: printf '\0hsm-bridge/audit/v1 trail=arn:aws:cloudtrail:eu-central-1:111122223333:trail/hsm-bridge' | sha256sum
        let expected = concat!(
            r#"{"eventVersion":"1.11","userIdentity":{"type":"IAMUser","principalId":"AIDA7HSMBRIDGE000001","#,
            r#""arn":"arn:aws:iam::111122223333:user/payments","accountId":"111122223333","#,
            r#""accessKeyId":"AKIA7HSMBRIDGE000001","userName":"payments"},"eventTime":"2026-03-04T09:20:00Z","#,
            r#""eventSource":"kms.amazonaws.com","eventName":"GenerateDataKey","awsRegion":"eu-central-1","#,
            r#""sourceIPAddress":"10.20.0.7","userAgent":"aws-cli/2.36.7 md/awscrt#0.36.0","#,
            r#""errorCode":"DisabledException","errorMessage":"a \"quoted\" text\nof two lines","#,
            r#""requestParameters":{"keyId":"alias/payments","keySpec":"AES_256"},"responseElements":null,"#,
            r#""additionalEventData":{"keyMaterialId":"9d2f","hsm":{"tokenSerial":"0aa1c4f27d3e9b55","slot":3,"#,
            r#""mechanism":"CKM_AES_GCM","rv":"CKR_OK","micros":412},"authorization":{"decision":"Allow","source":"KeyPolicy","#,
            r#""statementId":"AllowPaymentsUse","policyVersion":7},"audit":{"v":1,"chain":"hsm-bridge","#,
            r#""boot":"b3f1","seq":1234567,"time":"2026-03-04T09:20:00.103417Z","#,
            r#""prev":"97c76e63b630b0c22475dd378322e3153f182f86c6c9d64a97fe4e9acee5f3e5"}},"#,
            r#""requestID":"7c31a487-6904-5b82-af00-74ca2b88f2cf","eventID":"fbf40e91-b114-4d7d-8049-5556e8529791","#,
            r#""readOnly":true,"resources":[{"accountId":"111122223333","type":"AWS::KMS::Key","#,
            r#""ARN":"arn:aws:kms:eu-central-1:111122223333:key/5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11"}],"#,
            r#""eventType":"AwsApiCall","managementEvent":true,"recipientAccountId":"111122223333","#,
            r#""eventCategory":"Management","tlsDetails":{"tlsVersion":"TLSv1.3","#,
            r#""cipherSuite":"TLS_AES_256_GCM_SHA384","clientProvidedHostHeader":"kms.example.net","#,
            r#""keyExchange":"X25519MLKEM768"}}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(buffer).unwrap(), expected);
    }

    #[test]
    fn members_without_values() {
        let mut event = event(EventType::HsmBridgeSystem, "Start", "x");
        (event.user_agent, event.request_id, event.request_parameters) = (None, None, None);
        event.resources.clear();
        let text = String::from_utf8(line(event)).unwrap();
        assert!(text.contains(
            r#""sourceIPAddress":"10.20.0.7","requestParameters":null,"responseElements":null,"additionalEventData":{"audit":{"v""#
        ));
        assert!(text.contains(r#"}},"eventID":"#));
        assert!(text.contains(r#","resources":[],"#));
        assert!(text.ends_with(r#""eventCategory":"Management"}"#));
    }

    #[test]
    fn long_texts_end_after_1024_bytes_at_a_character() {
        let mut event = event(EventType::AwsApiCall, "Encrypt", "x");
        event.user_agent = Some("é".repeat(600) + "\u{1}");
        event.error_message = Some("a".to_string() + &"é".repeat(600));
        let bytes = line(event);
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["userAgent"].as_str().unwrap().len(), 1024);
        assert_eq!(value["errorMessage"].as_str().unwrap().len(), 1023);
    }

    #[test]
    fn oversize_members_become_their_hash() {
        let mut event = event(EventType::AwsApiCall, "PutKeyPolicy", "x");
        let large = format!("\"{}\"", "p".repeat(300_000));
        let hash = hex::encode(digest::digest(&digest::SHA256, large.as_bytes()));
        event.request_parameters = Some(RawValue::from_string(large).unwrap());
        event.response_elements = Some(RawValue::from_string("{\"kept\":1}".into()).unwrap());
        let bytes = line(event.clone());
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["requestParameters"], serde_json::json!({"truncated": true, "sha256": hash}));
        assert_eq!(value["responseElements"]["kept"], 1);

        // All of them at once, and many resources.
        event.response_elements = Some(RawValue::from_string(format!("\"{}\"", "r".repeat(200_000))).unwrap());
        event.request_parameters = event.response_elements.clone();
        event.additional.details = Some(serde_json::json!("d".repeat(200_000)));
        event.resources = vec![event.resources[0].clone(); 4000];
        assert!(line(event).len() <= MAX_LINE);
    }

    #[test]
    fn raw_values_cannot_break_the_line() {
        let mut event = event(EventType::AwsApiCall, "Encrypt", "x");
        event.request_parameters =
            Some(RawValue::from_string("{\n  \"a b\" : \"c \\\" \\\\\",\r\n\t\"d\": [1, 2]\n}".into()).unwrap());
        let bytes = line(event);
        assert!(Line::parse(&bytes).is_ok());
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains(r#""requestParameters":{"a b":"c \" \\","d":[1,2]},"#), "{text}");
    }

    #[test]
    fn times() {
        assert_eq!(micros(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(micros(-1), "1969-12-31T23:59:59.999999Z");
        assert_eq!(micros(1_709_164_800_000_007), "2024-02-29T00:00:00.000007Z");
        assert_eq!(micros(i64::MAX).len(), 27);
    }

    #[test]
    fn decimals() {
        for value in [0, 7, 10, 1234567, u64::MAX] {
            let mut out = Vec::new();
            decimal(&mut out, value);
            assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }
    }
}
