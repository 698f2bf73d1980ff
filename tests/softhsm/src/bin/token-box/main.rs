//! Starts the token side and does to it what it is told, a word a line on standard input:
//!
//! ```text
//! token-box container|process PLACE WORKER [ARGUMENT...]
//!
//! start     (again, after a kill too; the token is where it was)      kill      with SIGKILL
//! pause     everything in it stands still                              unpause
//! log       what it said since it was made, then a line `.`
//! ```
//!
//! Each word is answered by `ok`, or by `error: …`. The end of standard input removes the token side; it also ends when
//! this program is killed, and what is left of a container then is removed by the next run.
//!
//! A program, not a library: the tests that use it are written in Rust and in Python.

mod container;
mod engine;
mod process;

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use softhsm_fixture::place::Place;

const LABEL: &str = "bridge";
const PIN: &str = "0123456789";

/// What the token side is started with, wherever it runs.
struct Side {
    place: Place,
    entrypoint: PathBuf,
    server: PathBuf,
    worker: Vec<String>,
}

impl Side {
    /// For `entrypoint`.
    fn arguments(&self) -> Vec<String> {
        let own = [&self.place.token(), &self.server, self.place.root()].map(|path| path.display().to_string());
        own.into_iter().chain(self.worker.iter().cloned()).collect()
    }

    fn environment(&self) -> [(&'static str, String); 2] {
        let told = |name: &str, otherwise: &str| env::var(name).unwrap_or_else(|_| String::from(otherwise));
        [("TOKEN_LABEL", told("TOKEN_LABEL", LABEL)), ("TOKEN_PIN", told("TOKEN_PIN", PIN))]
    }
}

fn main() -> ExitCode {
    let result = prepare().and_then(|(kind, side)| match kind.as_str() {
        "container" => container::run(&side),
        "process" => process::run(&side),
        _ => Err(io::Error::other(format!("`{kind}` is neither `container` nor `process`"))),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("token-box: {error}");
            ExitCode::FAILURE
        }
    }
}

fn prepare() -> io::Result<(String, Side)> {
    let mut arguments = env::args().skip(1);
    let (Some(kind), Some(place)) = (arguments.next(), arguments.next()) else {
        return Err(io::Error::other("token-box container|process PLACE WORKER [ARGUMENT...]"));
    };
    fs::create_dir_all(&place)?;
    let place = Place::at(&fs::canonicalize(place)?);
    place.make()?;
    let server = env::current_exe()?.with_file_name("hsm-bridge-token-side");
    let entrypoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("entrypoint");
    Ok((kind, Side { place, entrypoint, server, worker: arguments.collect() }))
}

/// Reads words until standard input ends.
fn obey(mut act: impl FnMut(&str) -> io::Result<()>) -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        let answer = match act(line?.trim()) {
            Ok(()) => String::from("ok"),
            Err(error) => format!("error: {}", error.to_string().replace('\n', " ")),
        };
        writeln!(io::stdout(), "{answer}")?;
    }
    Ok(())
}

fn unknown(word: &str) -> io::Error {
    io::Error::other(format!("unknown word `{word}`"))
}

fn print_log(log: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in String::from_utf8_lossy(log).lines() {
        writeln!(out, "  {line}")?;
    }
    writeln!(out, ".")
}
