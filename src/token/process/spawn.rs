//! Starting and ending a worker process.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

use super::WorkerCommand;
use super::child::NAME;
use super::link::Fault;
use crate::token::frame::{TO_WORKER, ToWorker, VERSION, encode};
use crate::token::{ErrorClass, TokenError};

/// What `ps` shows is a name instead.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Variables of this process that a worker has, too.
const INHERITED: [&str; 3] = ["PATH", "HOME", "LANG"];

/// Something that makes workers.
pub(super) trait Launch: Send + Sync {
    fn launch(&self) -> Result<Launched, TokenError>;
}

/// A worker, and this end of its socket.
pub(super) struct Launched {
    pub(super) socket: UnixStream,
    pub(super) process: Process,
}

/// `None`: no process of ours.
pub(super) struct Process(pub(super) Option<Child>);

impl Launch for WorkerCommand {
    /// RULE: by exec, and with nothing of this process but one end of the socket and standard error.
    fn launch(&self) -> Result<Launched, TokenError> {
        let failed = |error: std::io::Error| {
            let program = self.program.to_string_lossy();
            TokenError::own(ErrorClass::Context, "token-worker", format!("`{program}` does not start: {error}"))
        };
        // Both ends are closed at an exec; the one that becomes standard input is not.
        let (mut socket, theirs) = UnixStream::pair().map_err(failed)?;
        let mut command = Command::new(&self.program);
        if self.program == OWN_PROGRAM {
            command.arg0(NAME);
        }
        command.args(&self.arguments).env_clear();
        command.envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.envs(&self.environment);
        // Of its own group: Ctrl-C in a terminal is for the service, which ends the worker when its requests are answered.
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).process_group(0);
        let process = Process(Some(command.spawn().map_err(failed)?));
        tracing::debug!(pid = process.id(), "a token's worker process was started");
        let hello = encode(&ToWorker::Hello(VERSION.to_owned()), TO_WORKER);
        socket.write_all(&hello.map_err(|error| Fault::Broken(error).error())?).map_err(failed)?;
        Ok(Launched { socket, process })
    }
}

impl Process {
    pub(super) fn id(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    /// With whatever it has started. Does not wait: a process in a driver's call may take its time.
    pub(super) fn kill(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = child.kill();
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        let reaper = std::thread::Builder::new().name("token-reaper".to_owned());
        // Without a thread it stays a zombie until the service ends.
        let _ = reaper.spawn(move || child.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
