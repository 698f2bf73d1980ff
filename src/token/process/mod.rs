//! A token in a process of its own: the vendor's library, its sessions and its crashes stay there. `spawn` starts the process,
//! `supervisor` keeps one running, `remote` is the token to its users, `child` is the process itself.

mod ask;
mod child;
mod lane;
mod link;
mod login;
mod outlet;
mod remote;
mod spawn;
mod state;
mod supervisor;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;

pub(super) use ask::{ask_certificate, ask_look, ask_slots};
pub use child::{worker_main, worker_on_stdin};
pub use remote::Remote;
pub use supervisor::OPEN_FACTOR;

/// Where the vendor's library runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Isolation {
    /// In this process. A hung call cannot be ended, and a crash ends the service.
    #[default]
    InProcess,
    /// In a worker process.
    Process(WorkerCommand),
}

/// How a worker process is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerCommand {
    /// The program and its arguments. It gets one end of a Unix stream socket as file descriptor 0 and leads a process group of its
    /// own. Whatever it is (a sandbox's wrapper, a relay), `hsm-bridge token-worker` or a program that calls `worker_main` is to
    /// answer at the other side of that socket. It ends when the socket does.
    pub program: OsString,
    pub arguments: Vec<OsString>,
    /// Variables beside `PATH`, `HOME` and `LANG`: the worker has no others.
    pub environment: BTreeMap<String, String>,
}
