//! What the bridge starts in the place of its own token worker: `hsm-bridge-token-relay PLACE [FD]`. Connects to the
//! token side of the place, proves the key, and hands bytes through between that connection and the socket which it
//! has as file descriptor FD (0 where nothing is said). Ends as soon as either side ends.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs, thread};

use softhsm_fixture::handshake;
use softhsm_fixture::place::Place;

/// For a token side that does not answer: a paused one accepts connections and says nothing.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match relay() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hsm-bridge-token-relay: {error}");
            ExitCode::FAILURE
        }
    }
}

fn relay() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    let place = arguments.next().ok_or_else(|| io::Error::other("the place is missing"))?;
    let fd = arguments.next().unwrap_or_else(|| String::from("0"));
    let place = Place::at(Path::new(&place));

    let bridge = inherited(&fd)?;
    let mut token = UnixStream::connect(place.socket())?;
    token.set_read_timeout(Some(PATIENCE))?;
    token.set_write_timeout(Some(PATIENCE))?;
    handshake::connect(&mut token, &place.key()?)?;
    token.set_read_timeout(None)?;
    token.set_write_timeout(None)?;

    let back = (token.try_clone()?, bridge.try_clone()?);
    thread::spawn(move || through(back.0, back.1));
    through(bridge, token);
    Ok(())
}

/// Until either is at its end; then both are, which also ends the other direction.
fn through(mut from: UnixStream, mut to: UnixStream) {
    let _ = io::copy(&mut from, &mut to);
    for end in [from, to] {
        let _ = end.shutdown(Shutdown::Both);
    }
}

/// The inherited socket, opened anew. `/proc/self/fd` cannot open sockets, so it is taken over by its number.
fn inherited(fd: &str) -> io::Result<UnixStream> {
    let number: i32 = fd.parse().map_err(|_| io::Error::other(format!("`{fd}` is no file descriptor")))?;
    let name = fs::read_link(format!("/proc/self/fd/{number}"))?;
    if !name.to_string_lossy().starts_with("socket:") {
        return Err(io::Error::other(format!("file descriptor {number} is `{}`, not a socket", name.display())));
    }
    Ok(taken_over(number))
}

#[allow(unsafe_code, reason = "the number of an inherited descriptor becomes an owner of it")]
fn taken_over(number: i32) -> UnixStream {
    use std::os::fd::FromRawFd;
    // SAFETY: the descriptor is open, as `inherited` has seen, and nothing else in this process uses it: whoever
    // started this program handed it over for this.
    unsafe { UnixStream::from_raw_fd(number) }
}
