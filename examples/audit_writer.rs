//! Appends to an audit log until it is killed, and prints the seq of each record when it is acknowledged. For
//! `tests/audit_kill.rs`.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use hsm_bridge::audit::{Additional, Event, EventType, Journal, Settings, UserIdentity};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: audit_writer DIR")?;
    let (journal, recovery) = Journal::open(Settings {
        dir: PathBuf::from(dir),
        trail_arn: "arn:aws:cloudtrail:eu-central-1:111122223333:trail/hsm-bridge".into(),
        region: "eu-central-1".into(),
        account: "111122223333".into(),
        // Small, so that kills hit rotations too.
        segment_bytes: 30_000,
        segment_age: Duration::from_secs(3600),
        refuse_below_free: 0.0,
        warn_below_free: 0.0,
        reserve_bytes: 0,
        accept_loss: None,
        deadline: Duration::from_secs(30),
    })?;
    println!("open dangling={}", recovery.dangling.len());
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let journal = journal.clone();
        tasks.spawn(async move {
            for number in 0u64.. {
                let request_id = format!("{}-{task}-{number}", std::process::id());
                for event_type in [EventType::HsmBridgeIntent, EventType::AwsApiCall] {
                    let recorded = journal.append(event(event_type, &request_id)).await;
                    let Ok(recorded) = recorded else {
                        return;
                    };
                    // One write per line: a kill cannot cut it.
                    let line = format!("{} {request_id}\n", recorded.seq());
                    let _ = std::io::stdout().lock().write_all(line.as_bytes());
                }
            }
        });
    }
    tasks.join_all().await;
    Err("the log failed".into())
}

fn event(event_type: EventType, request_id: &str) -> Event {
    Event {
        event_type,
        user_identity: UserIdentity {
            kind: Some("Root"),
            principal_id: Some("111122223333".into()),
            arn: Some("arn:aws:iam::111122223333:root".into()),
            account_id: Some("111122223333".into()),
            ..UserIdentity::default()
        },
        time: 1_772_616_000_103,
        source: "kms.amazonaws.com",
        name: "CreateKey".into(),
        region: "eu-central-1".into(),
        source_ip: "127.0.0.1".into(),
        user_agent: None,
        error_code: None,
        error_message: None,
        request_parameters: None,
        response_elements: None,
        request_id: Some(request_id.into()),
        read_only: false,
        resources: Vec::new(),
        recipient_account: "111122223333".into(),
        tls: None,
        additional: Additional::default(),
    }
}
