//! The helper in the container: `hsm-bridge-token-side PLACE WORKER [ARGUMENT...]`. Listens on the place's socket. For
//! each connection whose other end proves the key it starts a worker by exec, with the connection as its standard
//! input: a fresh process, as the bridge's own worker would be. The connection's end is the worker's end, even where a
//! library hangs in it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs, thread};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use softhsm_fixture::handshake::{self, Key};
use softhsm_fixture::place::Place;

/// For the other end's part of the handshake.
const PATIENCE: Duration = Duration::from_secs(5);
/// For a worker whose connection is gone.
const GRACE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

fn main() -> ExitCode {
    match serve() {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("hsm-bridge-token-side: {error}");
            ExitCode::FAILURE
        }
    }
}

enum Never {}

fn serve() -> io::Result<Never> {
    let mut arguments = env::args().skip(1);
    let place = arguments.next().ok_or_else(|| io::Error::other("the place is missing"))?;
    let worker: Arc<[String]> = arguments.collect();
    if worker.is_empty() {
        return Err(io::Error::other("the worker's command is missing"));
    }
    let place = Place::at(Path::new(&place));
    place.die_with_the_owner()?;
    let key = place.key()?;

    // Left by one that was killed: nobody listens there, since only one owner has the place.
    let _ = fs::remove_file(place.socket());
    let listener = UnixListener::bind(place.socket())?;
    fs::set_permissions(place.socket(), fs::Permissions::from_mode(0o600))?;
    println!("serving");
    loop {
        let (connection, _) = listener.accept()?;
        let worker = Arc::clone(&worker);
        thread::spawn(move || {
            if let Err(error) = attend(connection, &key, &worker) {
                eprintln!("hsm-bridge-token-side: a connection: {error}");
            }
        });
    }
}

fn attend(mut connection: UnixStream, key: &Key, worker: &[String]) -> io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    handshake::accept(&mut connection, key)?;
    connection.set_read_timeout(None)?;
    connection.set_write_timeout(None)?;

    let (program, arguments) = worker.split_first().ok_or_else(|| io::Error::other("no worker"))?;
    let theirs = OwnedFd::from(connection.try_clone()?);
    let mut child = Command::new(program).args(arguments).stdin(theirs).spawn()?;

    // Waits for either end, and reads nothing: the bytes are the worker's.
    let worker = pid(&child)?;
    let (far_end, exit) = (PollFlags::RDHUP, PollFlags::IN);
    let mut ends = [PollFd::new(&connection, far_end), PollFd::new(&worker, exit)];
    while let Err(error) = poll(&mut ends, None) {
        if error != Errno::INTR {
            return Err(error.into());
        }
    }
    if ends[1].revents().is_empty() && poll(&mut ends[1..], Some(&GRACE))? == 0 {
        eprintln!("hsm-bridge-token-side: worker {} outlives its connection and is killed", child.id());
        child.kill()?;
    }
    child.wait()?;
    // Only now the other end sees that the worker is gone: this was the connection's last descriptor here.
    Ok(())
}

fn pid(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}
