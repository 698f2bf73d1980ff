//! The fixture itself: what a relay's user sees of a token side that is paused, killed and restarted. Each case runs
//! against a local process and against a container; the latter want TOKEN_IMAGE, which `tests/softhsm/build-image`
//! prints, and an engine. `scripts/test docker` gives them both.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;
use std::{fs, thread};

use softhsm_fixture::handshake;
use softhsm_fixture::place::Place;
use tempfile::TempDir;

/// For what comes; a bound, no measurement.
const PATIENCE: Duration = Duration::from_secs(30);
/// For what must not come.
const A_WHILE: Duration = Duration::from_millis(500);
/// A worker that answers what it is told (its standard input is the connection), and one that hangs.
const ECHO: &[&str] = &["/bin/sh", "-c", "exec cat >&0"];
const HANG: &[&str] = &["/bin/sleep", "1000"];

struct TokenBox {
    program: Child,
    words: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    place: TempDir,
}

impl TokenBox {
    fn new(kind: &str, worker: &[&str]) -> TokenBox {
        TokenBox::at(tempfile::Builder::new().prefix("hb-side-").tempdir().unwrap(), kind, worker)
    }

    fn at(place: TempDir, kind: &str, worker: &[&str]) -> TokenBox {
        let mut command = Command::new(env!("CARGO_BIN_EXE_token-box"));
        command.arg(kind).arg(place.path()).args(worker).stdin(Stdio::piped()).stdout(Stdio::piped());
        let stderr = fs::File::options().create(true).append(true).open(place.path().join("stderr")).unwrap();
        let mut program = command.stderr(stderr).spawn().unwrap();
        let (words, answers) = (program.stdin.take(), BufReader::new(program.stdout.take().unwrap()));
        TokenBox { program, words, answers, place }
    }

    /// Gives what was printed before the `ok`.
    fn tell(&mut self, word: &str) -> String {
        writeln!(self.words.as_mut().unwrap(), "{word}").unwrap();
        let mut printed = String::new();
        loop {
            let mut line = String::new();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "token-box ended: {}", self.stderr());
            match line.as_str() {
                "ok\n" => return printed,
                error if error.starts_with("error") => panic!("{word}: {error}"),
                other => printed.push_str(other),
            }
        }
    }

    /// Started, and somebody listens.
    fn start(&mut self) {
        self.tell("start");
        until("the token side listens", || UnixStream::connect(self.side().socket()).is_ok());
    }

    fn side(&self) -> Place {
        Place::at(self.place.path())
    }

    /// A relay, and the bridge's end of it.
    fn relay(&self) -> Relay {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hsm-bridge-token-relay"));
        let program = command.arg(self.place.path()).stdin(OwnedFd::from(far)).spawn().unwrap();
        Relay { program, near: Some(near) }
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.place.path().join("stderr")).unwrap()
    }

    /// As a test runner that is killed does.
    fn abandon(mut self) -> TempDir {
        self.program.kill().unwrap();
        self.program.wait().unwrap();
        let left = tempfile::tempdir().unwrap();
        std::mem::replace(&mut self.place, left)
    }
}

impl Drop for TokenBox {
    fn drop(&mut self) {
        drop(self.words.take());
        let _ = self.program.wait();
        if thread::panicking() {
            eprintln!("token-box said: {}", self.stderr());
        }
    }
}

struct Relay {
    program: Child,
    near: Option<UnixStream>,
}

impl Relay {
    fn near(&mut self) -> &mut UnixStream {
        self.near.as_mut().unwrap()
    }

    fn echoes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut writer = self.near().try_clone()?;
        let sent = bytes.to_vec();
        let writing = thread::spawn(move || writer.write_all(&sent));
        let mut answer = vec![0; bytes.len()];
        self.near().read_exact(&mut answer)?;
        writing.join().unwrap()?;
        assert!(answer == bytes, "other bytes came back");
        Ok(())
    }

    /// The bridge sees the end of its worker, and the relay is gone.
    fn ends(mut self) {
        assert_eq!(self.near().read(&mut [0]).unwrap_or(0), 0);
        self.program.wait().unwrap();
    }

    /// The bridge goes.
    fn hang_up(mut self) {
        drop(self.near.take());
        assert!(self.program.wait().unwrap().success());
    }
}

fn until(what: &str, mut check: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !check() {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn bytes_pass_in_both_directions(kind: &str) {
    let mut token = TokenBox::new(kind, ECHO);
    token.start();
    let mut relays = [token.relay(), token.relay()];
    for (relay, byte) in relays.iter_mut().zip([1, 2]) {
        relay.echoes(&vec![byte; 1 << 20]).unwrap();
    }
    relays.into_iter().for_each(Relay::hang_up);
}

fn who_lacks_the_key_reaches_no_worker(kind: &str) {
    let mut token = TokenBox::new(kind, ECHO);
    token.start();
    let mut key = token.side().key().unwrap();
    key[0] ^= 1;
    let mut stranger = UnixStream::connect(token.side().socket()).unwrap();
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    let refusal = handshake::connect(&mut stranger, &key).unwrap_err();
    assert_eq!(refusal.kind(), io::ErrorKind::PermissionDenied);
    drop(stranger);
    until("the side says so", || token.tell("log").contains("a connection: "));
    token.relay().echoes(b"and others are served").unwrap();
}

fn a_paused_side_is_silent_and_goes_on(kind: &str) {
    let mut token = TokenBox::new(kind, ECHO);
    token.start();
    let mut relay = token.relay();
    relay.echoes(b"before").unwrap();
    token.tell("pause");
    relay.near().write_all(b"meanwhile").unwrap();
    relay.near().set_read_timeout(Some(A_WHILE)).unwrap();
    let silence = relay.near().read(&mut [0]).unwrap_err();
    assert!(matches!(silence.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{silence}");
    token.tell("unpause");
    relay.near().set_read_timeout(Some(PATIENCE)).unwrap();
    let mut late = [0; 9];
    relay.near().read_exact(&mut late).unwrap();
    assert_eq!(&late, b"meanwhile");
}

fn a_killed_side_comes_back_with_its_token(kind: &str) {
    let mut token = TokenBox::new(kind, ECHO);
    token.start();
    let mut relay = token.relay();
    relay.echoes(b"before").unwrap();
    for _ in 0..2 {
        token.tell("kill");
        relay.ends();
        token.start();
        relay = token.relay();
        relay.echoes(b"after").unwrap();
    }
    let log = token.tell("log");
    let serials: Vec<&str> = log.lines().filter_map(|line| line.trim().strip_prefix("Serial number:")).collect();
    let initialised: Vec<&str> = serials.into_iter().map(str::trim).filter(|serial| !serial.is_empty()).collect();
    assert_eq!(initialised.len(), 3, "three starts: {log}");
    assert!(initialised.windows(2).all(|pair| pair[0] == pair[1]), "one token: {log}");
    assert_eq!(log.matches("has been initialized").count(), 1, "made once: {log}");
}

fn a_worker_that_hangs_ends_with_its_connection(kind: &str) {
    let mut token = TokenBox::new(kind, HANG);
    token.start();
    let mut stream = UnixStream::connect(token.side().socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    handshake::connect(&mut stream, &token.side().key().unwrap()).unwrap();
    drop(stream);
    until("the worker is killed", || token.tell("log").contains("outlives its connection and is killed"));
}

/// What a killed test runner leaves: at first the token side ends, then the next run removes what is left of it.
fn nothing_outlives_its_owner(kind: &str) {
    let mut token = TokenBox::new(kind, ECHO);
    token.start();
    let mut relay = token.relay();
    relay.echoes(b"before").unwrap();
    let place = token.abandon();
    relay.ends();
    let mut next = TokenBox::at(place, kind, ECHO);
    next.start();
    next.relay().echoes(b"after").unwrap();
    if kind == "container" {
        until("the sweep", || next.stderr().contains("removing container"));
    }
}

macro_rules! cases {
    ($($case:ident)*) => {
        mod process {
            $(#[test] fn $case() { super::$case("process") })*
        }
        mod container {
            $(#[test] fn $case() { super::$case("container") })*
        }
    };
}

cases! {
    bytes_pass_in_both_directions
    who_lacks_the_key_reaches_no_worker
    a_paused_side_is_silent_and_goes_on
    a_killed_side_comes_back_with_its_token
    a_worker_that_hangs_ends_with_its_connection
    nothing_outlives_its_owner
}
