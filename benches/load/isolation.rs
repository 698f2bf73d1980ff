//! `Token::encrypt` with the library in this process and in a worker process, in turns: what isolation costs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hsm_bridge::config::Config;
use hsm_bridge::secret::SecretBytes;
use hsm_bridge::token::{Isolation, Token, WorkerCommand};

use crate::fill::{context, open_token_in};
use crate::instance::{Instance, Places};
use crate::{Options, median, parts, process};

const MODES: [&str; 2] = ["in-process", "process"];

pub fn measure(places: &Places, options: &Options) -> std::io::Result<()> {
    println!("{} rounds, {:?} of load for each number, medians; memory with the spare\n", options.rounds, options.time);
    println!(
        "{:>8}{:>10}{:>12}{:>12}{:>14}{:>14}{:>10}{:>10}",
        "keys", "callers", "calls/s", "calls/s", "CPU µs/call", "CPU µs/call", "calls", "CPU"
    );
    println!("{:>30}{:>12}{:>14}{:>14}{:>10}{:>10}", MODES[0], MODES[1], MODES[0], MODES[1], "ratio", "ratio");
    for keys in &options.keys {
        let instance = Instance::prepare(places, *keys, options.workers);
        let mut rounds: [Vec<Vec<f64>>; 2] = [Vec::new(), Vec::new()];
        for _ in 0..options.rounds {
            for (mode, found) in MODES.iter().zip(&mut rounds) {
                let callers: Vec<String> = options.connections.iter().map(usize::to_string).collect();
                let seconds = options.time.as_secs_f64().to_string();
                let done = instance.role("isolation").args([*mode, &seconds, &callers.join(",")]).output()?;
                if !done.status.success() {
                    return Err(std::io::Error::other(String::from_utf8_lossy(&done.stderr).into_owned()));
                }
                let text = String::from_utf8_lossy(&done.stdout);
                found.push(text.split_whitespace().map(|number| number.parse().unwrap()).collect());
            }
        }
        let [here, there] = &rounds;
        for (place, callers) in options.connections.iter().enumerate() {
            let of = |rounds: &[Vec<f64>], offset| median(rounds.iter().map(|round| round[place * 2 + offset]));
            let ratio =
                |offset| median(here.iter().zip(there).map(|(a, b)| b[place * 2 + offset] / a[place * 2 + offset]));
            println!(
                "{keys:>8}{callers:>10}{:>12.0}{:>12.0}{:>14.1}{:>14.1}{:>10.2}{:>10.2}",
                of(here, 0),
                of(there, 0),
                of(here, 1),
                of(there, 1),
                ratio(0),
                ratio(1)
            );
        }
        let memory =
            |rounds: &[Vec<f64>]| median(rounds.iter().map(|round| round[options.connections.len() * 2])) / 1024.0;
        println!("{keys:>8} keys: {:.1} MiB {}, {:.1} MiB {}\n", memory(here), MODES[0], memory(there), MODES[1]);
    }
    Ok(())
}

/// Calls per second and CPU per call for each number of callers, then the memory of all processes in KiB.
pub async fn role(config: &Config, dir: &Path, mode: &str, time: Duration, callers: &[usize]) {
    let isolation = match mode {
        "process" => Isolation::Process(WorkerCommand {
            program: "/proc/self/exe".into(),
            arguments: vec!["token-worker".into()],
            environment: [("SOFTHSM2_CONF".to_owned(), dir.join("softhsm2.conf").display().to_string())].into(),
        }),
        _ => Isolation::InProcess,
    };
    let token = open_token_in(config, isolation);
    let key = parts::new_key(&token).await;
    // The spare is started after a moment.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let own = std::process::id();
    for callers in callers {
        load(&token, &key, *callers, time / 5).await;
        let before = process::cpu_micros(own);
        let began = Instant::now();
        let calls = load(&token, &key, *callers, time).await as f64;
        println!("{} {}", calls / began.elapsed().as_secs_f64(), (process::cpu_micros(own) - before) / calls);
    }
    println!("{}", process::resident(own));
    token.close();
}

async fn load(token: &Token, key: &hsm_bridge::token::KeyRef, callers: usize, time: Duration) -> u64 {
    let (end, calls) = (Instant::now() + time, Arc::new(AtomicU64::new(0)));
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (token, key, calls) = (token.clone(), key.clone(), calls.clone());
            tokio::spawn(async move {
                while Instant::now() < end {
                    let plaintext = SecretBytes::new(vec![7; 32]);
                    token.encrypt(&context(), &key, vec![5; 80], plaintext).await.expect("the token encrypts");
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no caller panics");
    }
    calls.load(Ordering::Relaxed)
}
