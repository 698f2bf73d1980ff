//! What a request costs: CPU of the server per request, beside the token called alone in the same run, with few keys and
//! with many. Numbers to look at, not a test: `scripts/bench --help`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a bench that goes wrong may stop")]

mod client;
mod fill;
mod instance;
mod isolation;
mod memory;
mod parts;
mod process;
mod raw;
mod reconcile;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::{Connection, Credentials, Signed, load};
use hsm_bridge::config::Config;
use instance::{Instance, Keys, Places, Server};

const OPERATIONS: [&str; 4] = ["Encrypt", "Decrypt", "GenerateDataKey", "Sign"];

const HELP: &str = "\
Measures what a request costs, on loopback, with a SoftHSM token of its own on tmpfs and the journal on disk.

Usage: scripts/bench [--smoke] [--memory | --reconcile | --isolation] [OPTIONS]

  --smoke              a few seconds, few keys, debug build: that the bench works, not how fast the bridge is
  --memory             resident memory instead of time
  --reconcile          `token reconcile` instead of requests, beside a bare enumeration and bare attribute reads
  --isolation          calls of the token with the library in the process and in a worker process
  --keys A,B           sizes of the two instances (10,10000)
  --connections N,…    (1,4,16,64)
  --operations NAME,…  (Encrypt,Decrypt,GenerateDataKey,Sign)
  --rounds N           rounds over everything; medians are printed (5)
  --seconds S          of load for each number in a round (1)
  --workers N          session workers of the server (the configuration's default)
  --requests N         with --memory: requests sent after the first look (1000000)
";

pub struct Options {
    memory: bool,
    reconcile: bool,
    isolation: bool,
    keys: Vec<usize>,
    connections: Vec<usize>,
    operations: Vec<&'static str>,
    rounds: usize,
    time: Duration,
    requests: u64,
    workers: Option<usize>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match words.as_slice() {
        // The roles in which this program starts itself: the module is state of a process.
        ["fill", dir, count] => {
            let (config, dir) = role(dir);
            runtime().block_on(fill::fill(&config, &dir, count.parse().unwrap()));
            hsm_bridge::app::exit_now(0);
        }
        ["raw", dir] => {
            let (config, dir) = role(dir);
            raw::serve(&config, &Keys::read(&dir));
            hsm_bridge::app::exit_now(0);
        }
        // A worker process of `isolation`.
        ["token-worker"] => hsm_bridge::token::worker_on_stdin(),
        ["isolation", dir, mode, seconds, callers] => {
            let (config, dir) = role(dir);
            let time = Duration::from_secs_f64(seconds.parse().unwrap());
            let callers: Vec<usize> = callers.split(',').map(|n| n.parse().unwrap()).collect();
            runtime().block_on(isolation::role(&config, &dir, mode, time, &callers));
            std::io::stdout().flush().unwrap();
            hsm_bridge::app::exit_now(0);
        }
        ["parts", dir, id, secret, seconds] => {
            let (config, dir) = role(dir);
            let credentials =
                Credentials { id: (*id).to_owned(), secret: (*secret).to_owned(), region: "us-east-1".to_owned() };
            let time = Duration::from_secs_f64(seconds.parse().unwrap());
            runtime().block_on(parts::measure(&config, &dir, &Keys::read(&dir), &credentials, time));
            std::io::stdout().flush().unwrap();
            hsm_bridge::app::exit_now(0);
        }
        _ => {}
    }
    let Some(options) = options(&words) else {
        print!("{HELP}");
        return;
    };
    let places = Places::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    println!("{}", process::machine());
    let done = runtime.block_on(async {
        match (options.memory, options.reconcile) {
            _ if options.isolation => isolation::measure(&places, &options),
            (true, _) => memory::measure(&places, &options).await,
            (_, true) => reconcile::measure(&places, &options),
            _ => measure(&places, &options).await,
        }
    });
    drop(places);
    if let Err(error) = done {
        eprintln!("bench: {error}");
        std::process::exit(1);
    }
}

fn role(dir: &str) -> (Config, PathBuf) {
    let dir = PathBuf::from(dir);
    (Config::load(&dir.join("bench.toml")).unwrap(), dir)
}

fn options(words: &[&str]) -> Option<Options> {
    let smoke = words.contains(&"--smoke");
    let mut options = Options {
        memory: false,
        reconcile: false,
        isolation: false,
        keys: if smoke { vec![3, 30] } else { vec![10, 10_000] },
        connections: if smoke { vec![1, 4] } else { vec![1, 4, 16, 64] },
        operations: OPERATIONS.to_vec(),
        rounds: if smoke { 1 } else { 5 },
        time: Duration::from_secs_f64(if smoke { 0.1 } else { 1.0 }),
        requests: if smoke { 2_000 } else { 1_000_000 },
        workers: None,
    };
    let numbers = |text: &str| text.split(',').map(|n| n.parse().ok()).collect::<Option<Vec<usize>>>();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--smoke" => {}
            "--memory" => options.memory = true,
            "--reconcile" => options.reconcile = true,
            "--isolation" => options.isolation = true,
            "--keys" => options.keys = numbers(words.next()?)?,
            "--connections" => options.connections = numbers(words.next()?)?,
            "--operations" => {
                let wanted: Vec<&str> = words.next()?.split(',').collect();
                options.operations.retain(|name| wanted.contains(name));
            }
            "--rounds" => options.rounds = words.next()?.parse().ok()?,
            "--seconds" => options.time = Duration::from_secs_f64(words.next()?.parse().ok()?),
            "--workers" => options.workers = Some(words.next()?.parse().ok()?),
            "--requests" => options.requests = words.next()?.parse().ok()?,
            _ => return None,
        }
    }
    (!options.keys.is_empty() && !options.connections.is_empty() && options.rounds > 0).then_some(options)
}

/// An instance with its server, its yardstick and its requests.
struct Side {
    instance: Instance,
    server: Server,
    raw: Yardstick,
}

/// One number of one round.
#[derive(Clone, Copy)]
struct Sample {
    rate: f64,
    p50: f64,
    p99: f64,
    micros: f64,
    /// CPU per call of the token alone, measured beside it.
    raw: f64,
}

async fn measure(places: &Places, options: &Options) -> std::io::Result<()> {
    let mut sides = Vec::new();
    for keys in &options.keys {
        let instance = Instance::prepare(places, *keys, options.workers);
        let server = instance.serve();
        let raw = Yardstick::new(&instance);
        sides.push(Side { instance, server, raw });
    }
    println!("{} rounds, {:?} of load for each number, medians\n", options.rounds, options.time);
    let mut samples = std::collections::BTreeMap::<(usize, usize, usize), Vec<Sample>>::new();
    let mut raw_rates = vec![Vec::new(); options.operations.len()];
    for _ in 0..options.rounds {
        for (o, operation) in options.operations.iter().enumerate() {
            for (c, connections) in options.connections.iter().enumerate() {
                for (s, side) in sides.iter_mut().enumerate() {
                    let (raw, raw_rate) = side.raw.ask(operation, options.time / 4);
                    raw_rates[o].push(raw_rate);
                    let sample = side.sample(operation, *connections, options.time, raw).await?;
                    samples.entry((o, c, s)).or_default().push(sample);
                }
            }
        }
    }
    for (o, operation) in options.operations.iter().enumerate() {
        println!("{operation} (the token alone, one thread: {:.0}/s)", median(raw_rates[o].iter().copied()));
        println!(
            "{:>12}{:>8}{:>10}{:>10}{:>10}{:>12}{:>12}{:>9}{:>12}",
            "connections", "keys", "req/s", "p50 µs", "p99 µs", "CPU µs/req", "raw µs/call", "ratio", "many:few"
        );
        for (c, connections) in options.connections.iter().enumerate() {
            let few = &samples[&(o, c, 0)];
            for (s, keys) in options.keys.iter().enumerate() {
                let these = &samples[&(o, c, s)];
                let of = |field: fn(&Sample) -> f64| median(these.iter().map(field));
                // Each round's two samples stand beside each other in time, so their ratio is taken before the median.
                let growth = median(these.iter().zip(few).map(|(many, few)| many.micros / few.micros));
                println!(
                    "{connections:>12}{keys:>8}{:>10.0}{:>10.0}{:>10.0}{:>12.1}{:>12.1}{:>9.2}{:>12}",
                    of(|s| s.rate),
                    of(|s| s.p50),
                    of(|s| s.p99),
                    of(|s| s.micros),
                    of(|s| s.raw),
                    of(|s| s.micros / s.raw),
                    if s == 0 { String::new() } else { format!("{growth:.3}") },
                );
            }
        }
        println!();
    }
    sides.iter_mut().for_each(|side| side.raw.end());
    println!("Parts of Encrypt, CPU µs, each called by itself (token and audit by 16 callers at once)");
    let side = &sides[0];
    let credentials = &side.instance.credentials;
    let seconds = options.time.as_secs_f64().to_string();
    let parts = side.instance.role("parts").args([&credentials.id, &credentials.secret, &seconds]).output()?;
    print!("{}", String::from_utf8_lossy(&parts.stdout));
    if !parts.status.success() {
        return Err(std::io::Error::other(String::from_utf8_lossy(&parts.stderr).into_owned()));
    }
    Ok(())
}

impl Side {
    async fn sample(
        &self,
        operation: &'static str,
        connections: usize,
        time: Duration,
        raw: f64,
    ) -> std::io::Result<Sample> {
        let mut open = Vec::new();
        for _ in 0..connections {
            open.push(Connection::open(self.server.address).await?);
        }
        let requests =
            requests(&self.instance, &self.server, &mut open[0], operation, &self.instance.keys.used()).await?;
        load(&mut open, &requests, time / 10, u64::MAX).await?;
        let before = process::cpu_micros(self.server.pid());
        let seen = load(&mut open, &requests, time, u64::MAX).await?;
        let micros = (process::cpu_micros(self.server.pid()) - before) / seen.requests as f64;
        Ok(Sample {
            rate: seen.requests as f64 / seen.seconds,
            p50: seen.quantile(0.5),
            p99: seen.quantile(0.99),
            micros,
            raw,
        })
    }
}

/// One request per key, signed now.
pub async fn requests(
    instance: &Instance,
    server: &Server,
    connection: &mut Connection,
    operation: &'static str,
    keys: &[hsm_bridge::ids::KeyId],
) -> std::io::Result<Vec<Vec<u8>>> {
    let host = server.address.to_string();
    let sign = |operation: &str, body: String| Signed::new(&instance.credentials, &host, operation, body).bytes();
    let mut requests = Vec::new();
    for key in keys {
        let body = match operation {
            "Encrypt" => encrypt_body(&key.to_string()),
            "GenerateDataKey" => format!(r#"{{"KeyId":"{key}","KeySpec":"AES_256","EncryptionContext":{CONTEXT}}}"#),
            "Decrypt" => {
                let answer = connection.ask(&sign("Encrypt", encrypt_body(&key.to_string()))).await?;
                let answer: serde_json::Value = serde_json::from_slice(answer)?;
                format!(r#"{{"CiphertextBlob":{},"EncryptionContext":{CONTEXT}}}"#, answer["CiphertextBlob"])
            }
            _ => {
                let digest = STANDARD.encode([7u8; 32]);
                let key = instance.keys.signing;
                format!(
                    r#"{{"KeyId":"{key}","Message":"{digest}","MessageType":"DIGEST","SigningAlgorithm":"ECDSA_SHA_256"}}"#
                )
            }
        };
        requests.push(sign(operation, body));
    }
    Ok(requests)
}

const CONTEXT: &str = r#"{"tenant":"payments","purpose":"invoice-4711"}"#;

/// 32 bytes under a context of two pairs.
pub fn encrypt_body(key: &str) -> String {
    let plaintext = STANDARD.encode([7u8; 32]);
    format!(r#"{{"KeyId":"{key}","Plaintext":"{plaintext}","EncryptionContext":{CONTEXT}}}"#)
}

/// The raw calls, in a process of their own.
pub struct Yardstick {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Yardstick {
    pub fn new(instance: &Instance) -> Yardstick {
        let mut child = instance.role("raw").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Yardstick { child, to, from }
    }

    /// CPU per call in microseconds, and calls per second.
    fn ask(&mut self, operation: &str, time: Duration) -> (f64, f64) {
        self.line(&format!("{operation} {}", time.as_secs_f64()))
    }

    pub fn line(&mut self, line: &str) -> (f64, f64) {
        writeln!(self.to.as_mut().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        self.from.read_line(&mut answer).unwrap();
        let (first, second) = answer.trim().split_once(' ').expect("two numbers");
        (first.parse().unwrap(), second.parse().unwrap())
    }

    pub fn end(&mut self) {
        self.to = None;
        let _ = self.child.wait();
    }
}

impl Drop for Yardstick {
    fn drop(&mut self) {
        self.end();
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}
