//! Forms and limits, on lines as the journal has them; receivers that fail are in tests/server.

use super::cursor::Cursor;
use super::delivery::Batch;
use super::facts::{Facts, Outcome};
use super::{Batches, OtlpTarget, Settings, Target, otlp, run, syslog};
use crate::audit::follow::Follower;
use crate::client::https::Trust;

fn line(kind: &str, name: &str, error: Option<&str>, parameters: &str) -> Vec<u8> {
    let error = error.map_or(String::new(), |code| format!(r#""errorCode":"{code}","#));
    format!(
        r#"{{"eventVersion":"1.11","userIdentity":{{"type":"IAMUser","arn":"arn:aws:iam::111122223333:user/alice"}},"eventTime":"2026-03-04T09:20:00Z","eventSource":"kms.amazonaws.com","eventName":"{name}","awsRegion":"eu-central-1","sourceIPAddress":"192.0.2.7",{error}"requestParameters":"{parameters}","additionalEventData":{{"audit":{{"v":1,"chain":"hsm-\"]\\bridge","boot":"b27e","seq":42,"time":"2026-03-04T09:20:00.103417Z","prev":"ae"}}}},"requestID":"r-1","eventID":"e-1","resources":[{{"accountId":"1","type":"AWS::KMS::Alias","ARN":"arn:alias"}},{{"accountId":"1","type":"AWS::KMS::Key","ARN":"arn:key"}}],"eventType":"{kind}"}}"#
    )
    .into_bytes()
}

fn origin(max_bytes: usize) -> syslog::Origin {
    syslog::Origin { host: "host".to_owned(), pid: 812, enterprise: 32473, max_bytes }
}

fn message(line: &[u8], max_bytes: usize) -> Vec<u8> {
    syslog::message(&origin(max_bytes), &Facts::of(line).unwrap(), line)
}

#[test]
fn a_syslog_message_is_rfc_5424() {
    let line = line("AwsApiCall", "GenerateDataKey", None, "");
    let expected = "<110>1 2026-03-04T09:20:00.103417Z host hsm-bridge 812 GenerateDataKey \
                    [hsm@32473 seq=\"42\" chain=\"hsm-\\\"\\]\\\\bridge\" eventId=\"e-1\" key=\"arn:key\" outcome=\"success\"]\
                    [timeQuality tzKnown=\"1\"] \u{feff}";
    let message = message(&line, 8192);
    assert_eq!(String::from_utf8_lossy(&message[..message.len() - line.len()]), expected);
    assert!(message.ends_with(&line));
    let mut framed = Vec::new();
    syslog::frame(&mut framed, b"<110>1 - - - - - -");
    syslog::frame(&mut framed, "\u{e4}".as_bytes());
    assert_eq!(framed, "18 <110>1 - - - - - -2 \u{e4}".as_bytes());
}

#[test]
fn severities_and_outcomes() {
    for (kind, name, error, priority, outcome, number) in [
        ("AwsApiCall", "Encrypt", None, "<110>", "success", 9),
        ("AwsApiCall", "Encrypt", Some("AccessDenied"), "<108>", "failure", 13),
        ("HsmBridgeIntent", "CreateKey", None, "<110>", "intent", 9),
        ("HsmBridgeSystem", "Start", None, "<110>", "success", 9),
        ("HsmBridgeSystem", "AuditTampering", None, "<106>", "failure", 21),
        ("HsmBridgeSystem", "AuditFailure", None, "<106>", "failure", 21),
        ("AwsApiCall", "AuditFailure", None, "<110>", "success", 9),
    ] {
        let line = line(kind, name, error, "");
        let text = String::from_utf8(message(&line, 8192)).unwrap();
        assert!(text.starts_with(priority), "{name}: {text}");
        assert!(text.contains(&format!("outcome=\"{outcome}\"")), "{name}: {text}");
        let record = otlp::log_record(&line, 1).unwrap();
        assert_eq!(record["severityNumber"], number, "{name}");
    }
}

#[test]
fn a_place_is_the_cursors_and_else_where_the_sink_begins() {
    let dir = tempfile::tempdir().unwrap();
    let sink = |name: &str, from_oldest| Settings {
        name: name.to_owned(),
        target: Target::Otlp(OtlpTarget {
            url: "http://127.0.0.1:1/".to_owned(),
            trust: Trust::default(),
            authorization_file: None,
            batch: Batches { records: 1, bytes: 1 },
        }),
        intents: true,
        from_oldest,
    };
    Cursor::open(dir.path(), "old", "arn").unwrap().save(7).unwrap();
    for (sink, trail, place) in [
        (sink("new", true), "arn", Some(0)),
        (sink("new", false), "arn", None),
        (sink("old", false), "arn", Some(7)),
        // Nobody knows what it has.
        (sink("old", false), "arn:another", Some(0)),
    ] {
        assert_eq!(sink.place(dir.path(), trail), place, "{} {trail}", sink.name);
    }
}

#[test]
fn what_is_too_long_is_cut_and_says_so() {
    let line = line("AwsApiCall", "PutKeyPolicy", Some("AccessDenied"), &"x".repeat(9000));
    let message = message(&line, 8192);
    assert!(message.len() < 1200);
    let body = String::from_utf8(message).unwrap().split_once('\u{feff}').unwrap().1.to_owned();
    let cut: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&cut["truncated"], &cut["eventID"], &cut["bytes"]), (&true.into(), &"e-1".into(), &line.len().into()));
    let leaf = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &[b"\0", &*line].concat());
    assert_eq!(cut["leafSha256"], hex::encode(leaf));
    assert_eq!(cut["additionalEventData"]["audit"]["seq"], 42);
    // One byte decides.
    let whole = self::message(&line, 1 << 20);
    assert_eq!(self::message(&line, whole.len()), whole);
    assert!(self::message(&line, whole.len() - 1).len() < 1200);
}

#[test]
fn names_are_printable() {
    let line = String::from_utf8(line("AwsApiCall", "X", None, "")).unwrap();
    let line = line.replace("\"eventName\":\"X\"", &format!("\"eventName\":\"a b\u{e4}\u{7f}{}\"", "c".repeat(40)));
    let text = String::from_utf8(message(line.as_bytes(), 8192)).unwrap();
    assert!(text.contains(&format!(" 812 ab{} [hsm@", "c".repeat(30))), "{text}");
}

#[test]
fn an_otlp_record() {
    let line = line("AwsApiCall", "Decrypt", Some("AccessDenied"), "");
    let record = otlp::log_record(&line, 1_772_616_001_000).unwrap();
    assert_eq!(record["timeUnixNano"], "1772616000103417000");
    assert_eq!(record["observedTimeUnixNano"], "1772616001000000000");
    assert_eq!(record["severityText"], "WARN");
    assert_eq!(record["body"]["stringValue"].as_str().unwrap().as_bytes(), line);
    let value = |key: &str| {
        let attributes = record["attributes"].as_array().unwrap();
        attributes.iter().find(|attribute| attribute["key"] == key).unwrap()["value"].clone()
    };
    assert_eq!(value("hsm_bridge.audit.seq"), serde_json::json!({"intValue": "42"}));
    for (key, expected) in [
        ("event.name", "Decrypt"),
        ("log.record.uid", "e-1"),
        ("hsm_bridge.audit.outcome", "failure"),
        ("aws.request_id", "r-1"),
        ("client.address", "192.0.2.7"),
        ("user.id", "arn:aws:iam::111122223333:user/alice"),
        ("error.type", "AccessDenied"),
        ("aws.kms.key.arn", "arn:key"),
    ] {
        assert_eq!(value(key), serde_json::json!({"stringValue": expected}), "{key}");
    }
}

#[test]
fn batches_keep_their_limits_and_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    std::fs::create_dir(&journal).unwrap();
    let record = |seq: u64, kind: &str| {
        String::from_utf8(line(kind, "Encrypt", None, "")).unwrap().replace("\"seq\":42", &format!("\"seq\":{seq}"))
    };
    let kinds = ["AwsApiCall", "HsmBridgeIntent", "AwsApiCall", "AwsApiCall", "HsmBridgeIntent", "HsmBridgeIntent"];
    let lines: Vec<String> = (0..).zip(kinds).map(|(seq, kind)| record(seq, kind) + "\n").collect();
    std::fs::write(journal.join("00000000000000000000-abcd.jsonl"), lines.concat()).unwrap();
    let batches = |most: Batches, intents: bool| {
        let mut follower = Follower::new(dir.path(), 0);
        let read = || -> Batch { run::read(&mut follower, 6, most, intents).unwrap() };
        let seqs = |batch: Batch| (batch.records.iter().map(|record| record.seq).collect::<Vec<_>>(), batch.next);
        std::iter::repeat_with(read)
            .map(seqs)
            .take_while(|(seqs, next)| !seqs.is_empty() || *next < 6)
            .collect::<Vec<_>>()
    };
    let many = Batches { records: 100, bytes: 1 << 20 };
    assert_eq!(batches(many, true), [(vec![0, 1, 2, 3, 4, 5], 6)]);
    assert_eq!(batches(many, false), [(vec![0, 2, 3], 6)]);
    assert_eq!(batches(Batches { records: 2, ..many }, false), [(vec![0, 2], 3), (vec![3], 6)]);
    // A record that is larger than a batch is one alone.
    assert_eq!(batches(Batches { bytes: 10, ..many }, true).len(), 6);
    assert_eq!(Facts::of(lines[1].as_bytes()).unwrap().outcome(), Outcome::Intent);
}
