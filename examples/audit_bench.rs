//! Records per second of the audit log at 1, 16 and 64 callers, beside plain fdatasync on the same file system in the same
//! run. Numbers to look at, not a test: `cargo run --release --example audit_bench -- DIR`.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hsm_bridge::audit::{
    Additional, Authorization, Basis, Event, EventType, HsmFacts, Journal, Resource, Settings, TlsDetails, UserIdentity,
};
use serde_json::value::RawValue;

const TIME: Duration = Duration::from_secs(3);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).ok_or("usage: audit_bench DIR (an empty one)")?);
    std::fs::create_dir_all(&dir)?;
    println!("{:<28}{:>12}{:>16}", "", "per second", "CPU µs each");
    plain(&dir)?;
    for callers in [1, 16, 64] {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (journal, _) = Journal::open(settings(&dir.join(format!("callers-{callers}"))))?;
        let (cpu, start) = (cpu_micros(), Instant::now());
        let records = runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..callers {
                let journal = journal.clone();
                tasks.spawn(async move {
                    let mut records = 0u64;
                    while start.elapsed() < TIME && journal.append(event()).await.is_ok() {
                        records += 1;
                    }
                    records
                });
            }
            tasks.join_all().await.iter().sum::<u64>()
        });
        print(&format!("records, {callers} callers"), records, start.elapsed(), cpu_micros() - cpu);
        journal.close();
    }
    // What a record costs before it reaches the writer is in the numbers above; this is the event alone.
    let (cpu, start) = (cpu_micros(), Instant::now());
    for _ in 0..200_000 {
        std::hint::black_box(event());
    }
    print("making the event only", 200_000, start.elapsed(), cpu_micros() - cpu);
    Ok(())
}

fn plain(dir: &Path) -> std::io::Result<()> {
    let line = [b'x'; 1400];
    let mut file = OpenOptions::new().append(true).create(true).open(dir.join("plain"))?;
    let (cpu, start) = (cpu_micros(), Instant::now());
    let mut writes = 0;
    while start.elapsed() < TIME {
        file.write_all(&line)?;
        file.sync_data()?;
        writes += 1;
    }
    print("write + fdatasync of 1400 B", writes, start.elapsed(), cpu_micros() - cpu);
    Ok(())
}

fn print(what: &str, count: u64, time: Duration, cpu: u64) {
    println!("{what:<28}{:>12.0}{:>16.1}", count as f64 / time.as_secs_f64(), cpu as f64 / count as f64);
}

/// CPU time of the process, user and system, from `/proc/self/stat` in ticks of 10 ms.
fn cpu_micros() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10_000
}

fn settings(dir: &Path) -> Settings {
    Settings {
        dir: dir.to_path_buf(),
        trail_arn: "arn:aws:cloudtrail:eu-central-1:111122223333:trail/hsm-bridge".into(),
        region: "eu-central-1".into(),
        account: "111122223333".into(),
        segment_bytes: 64 << 20,
        segment_age: Duration::from_secs(3600),
        refuse_below_free: 0.0,
        warn_below_free: 0.0,
        reserve_bytes: 0,
        accept_loss: None,
        deadline: Duration::from_secs(30),
    }
}

/// A GenerateDataKey with everything that a real one carries.
fn event() -> Event {
    Event {
        event_type: EventType::AwsApiCall,
        user_identity: UserIdentity {
            kind: Some("IAMUser"),
            principal_id: Some("AIDA7HSMBRIDGE000001".into()),
            arn: Some("arn:aws:iam::111122223333:user/payments".into()),
            account_id: Some("111122223333".into()),
            access_key_id: Some("AKIA7HSMBRIDGE000001".into()),
            user_name: Some("payments".into()),
            ..UserIdentity::default()
        },
        time: 1_772_616_000_103,
        source: "kms.amazonaws.com",
        name: "GenerateDataKey".into(),
        region: "eu-central-1".into(),
        source_ip: "10.20.0.7".into(),
        user_agent: Some("aws-cli/2.36.7 md/awscrt#0.36.0".into()),
        error_code: None,
        error_message: None,
        request_parameters: RawValue::from_string(
            r#"{"keyId":"alias/payments","keySpec":"AES_256","encryptionContext":{"tenant":"acme","purpose":"card"}}"#
                .into(),
        )
        .ok(),
        response_elements: None,
        request_id: Some("7c31a487-6904-4b82-af00-74ca2b88f2cf".into()),
        read_only: true,
        resources: vec![Resource {
            account_id: "111122223333".into(),
            kind: "AWS::KMS::Key",
            arn: "arn:aws:kms:eu-central-1:111122223333:key/5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11".into(),
        }],
        recipient_account: "111122223333".into(),
        tls: Some(TlsDetails {
            tls_version: "TLSv1.3".into(),
            cipher_suite: "TLS_AES_256_GCM_SHA384".into(),
            client_provided_host_header: Some("kms.example.net".into()),
            key_exchange: Some("X25519MLKEM768".into()),
        }),
        additional: Additional {
            hsm: Some(HsmFacts {
                token_serial: "0aa1c4f27d3e9b55".into(),
                slot: 3,
                mechanism: "CKM_AES_GCM",
                micros: 412,
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
        },
    }
}
