//! `scripts/bench --audit`: what the write path of the log takes alone, at 1, 16 and 64 callers, beside one plain fdatasync after
//! another on the same file system in the same run; and at 64 callers with ten slow readers of the journal. Numbers to look at, not
//! a test. The ratios are the result: machines and disks differ.
//!
//!     scripts/bench --audit [--dir DIR] [--seconds N] [--smoke]

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hsm_bridge::audit::follow::Follower;
use hsm_bridge::audit::{
    Additional, Authorization, Basis, Event, EventType, HsmFacts, Journal, Resource, Settings, TlsDetails, UserIdentity,
};
use serde_json::value::RawValue;

/// Readers that take a line now and then.
const SLOW_READERS: usize = 10;
/// So long a slow reader waits after each line.
const SLOW: Duration = Duration::from_millis(2);

struct Options {
    dir: PathBuf,
    time: Duration,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = options()?;
    std::fs::create_dir_all(&options.dir)?;
    println!("{:<34}{:>12}{:>10}{:>12}{:>10}{:>10}", "", "per second", "of plain", "CPU µs each", "p50 ms", "p99 ms");
    let plain = plain(&options)?;
    plain.print("write + fdatasync of 1400 B", None);
    for callers in [1, 16, 64] {
        run(&options, callers, false)?.print(&format!("records, {callers} callers"), Some(&plain));
    }
    // In turns, because the disk is not the same from one second to the next.
    let (mut alone, mut read) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        alone.push(run(&options, 64, false)?.per_second());
        read.push(run(&options, 64, true)?.per_second());
    }
    println!(
        "64 callers, {SLOW_READERS} slow readers: {:.2} of the records without them (median of 3: {:.0} and {:.0} per second)",
        median(&mut read) / median(&mut alone),
        median(&mut read),
        median(&mut alone)
    );
    let _ = std::fs::remove_dir_all(&options.dir);
    Ok(())
}

fn options() -> Result<Options, String> {
    let mut dir = std::env::temp_dir().join(format!("hsm-bridge-bench-audit-{}", std::process::id()));
    let mut time = Duration::from_secs(3);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--dir" => dir = PathBuf::from(arguments.next().ok_or("--dir needs a directory")?),
            "--seconds" => {
                let text = arguments.next().ok_or("--seconds needs a number")?;
                time = Duration::from_secs(text.parse().map_err(|_| format!("`{text}` is no number"))?);
            }
            "--smoke" => time = Duration::from_millis(200),
            // What cargo adds, and how the script got here.
            "--bench" | "--audit" => {}
            other => return Err(format!("unknown option `{other}`: --dir DIR, --seconds N, --smoke")),
        }
    }
    Ok(Options { dir, time })
}

struct Measured {
    count: u64,
    time: Duration,
    cpu: u64,
    /// Of each, microseconds, sorted.
    latencies: Vec<u64>,
}

impl Measured {
    fn per_second(&self) -> f64 {
        self.count as f64 / self.time.as_secs_f64()
    }

    fn print(&self, what: &str, plain: Option<&Measured>) {
        let ratio =
            plain.map_or_else(|| "1".to_owned(), |plain| format!("{:.1}", self.per_second() / plain.per_second()));
        let at = |share: f64| {
            let place = (self.latencies.len() as f64 * share) as usize;
            self.latencies.get(place).map_or(0.0, |micros| *micros as f64 / 1000.0)
        };
        println!(
            "{what:<34}{:>12.0}{ratio:>10}{:>12.1}{:>10.2}{:>10.2}",
            self.per_second(),
            self.cpu as f64 / self.count.max(1) as f64,
            at(0.5),
            at(0.99)
        );
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn plain(options: &Options) -> std::io::Result<Measured> {
    let line = [b'x'; 1400];
    let path = options.dir.join("plain");
    let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
    let (cpu, start) = (cpu_micros(), Instant::now());
    let mut latencies = Vec::new();
    while start.elapsed() < options.time {
        let began = Instant::now();
        file.write_all(&line)?;
        file.sync_data()?;
        latencies.push(began.elapsed().as_micros() as u64);
    }
    let time = start.elapsed();
    latencies.sort_unstable();
    std::fs::remove_file(&path)?;
    Ok(Measured { count: latencies.len() as u64, time, cpu: cpu_micros() - cpu, latencies })
}

/// `callers` append one record after the other; `read`: slow readers follow the journal meanwhile.
fn run(options: &Options, callers: usize, read: bool) -> Result<Measured, Box<dyn std::error::Error>> {
    let dir = options.dir.join("trail");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (journal, _) = Journal::open(settings(&dir))?;
    let (stop, lines) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let readers: Vec<_> = (0..if read { SLOW_READERS } else { 0 })
        .map(|_| {
            let (journal, dir, stop, lines) = (journal.clone(), dir.clone(), stop.clone(), lines.clone());
            std::thread::spawn(move || {
                let mut follower = Follower::new(&dir, 0);
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(Some(_)) = follower.next(journal.durable()) {
                        lines.fetch_add(1, Ordering::Relaxed);
                    }
                    std::thread::sleep(SLOW);
                }
            })
        })
        .collect();
    let (cpu, start, wanted) = (cpu_micros(), Instant::now(), options.time);
    let mut latencies = runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..callers {
            let journal = journal.clone();
            tasks.spawn(async move {
                let mut latencies = Vec::new();
                while start.elapsed() < wanted {
                    let began = Instant::now();
                    if journal.append(event()).await.is_err() {
                        break;
                    }
                    latencies.push(began.elapsed().as_micros() as u64);
                }
                latencies
            });
        }
        tasks.join_all().await.concat()
    });
    let (time, cpu) = (start.elapsed(), cpu_micros() - cpu);
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        let _ = reader.join();
    }
    if read && lines.load(Ordering::Relaxed) == 0 {
        return Err("the slow readers read nothing".into());
    }
    journal.close();
    std::fs::remove_dir_all(&dir)?;
    latencies.sort_unstable();
    Ok(Measured { count: latencies.len() as u64, time, cpu, latencies })
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
                token_serial: Some("0aa1c4f27d3e9b55".into()),
                slot: Some(3),
                mechanism: Some("CKM_AES_GCM"),
                function: None,
                rv: "CKR_OK".into(),
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
        },
    }
}
