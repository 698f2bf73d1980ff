//! Questions to a module for which nobody logs in: each in a short-lived worker, so that this process loads no module.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::WorkerCommand;
use super::link::Fault;
use super::spawn::Launch;
use crate::token::frame::{FROM_WORKER, FrameError, FromWorker, Inbox, Question, TO_WORKER, ToWorker, Told, encode};
use crate::token::{Looked, Selector, SlotFacts, TokenError};

/// A module that looks for an appliance may take its time.
const LIMIT: Duration = Duration::from_secs(60);
const ID: u64 = 1;

pub(in crate::token) fn ask_look(
    command: &WorkerCommand,
    module: &Path,
    selector: &Selector,
) -> Result<Looked, TokenError> {
    match ask(command, Question::Look { module: module.to_owned(), selector: selector.clone() })? {
        Told::Looked(looked) => Ok(looked),
        _ => Err(another()),
    }
}

pub(in crate::token) fn ask_certificate(
    command: &WorkerCommand,
    module: &Path,
    selector: &Selector,
    label: &str,
) -> Result<Option<Vec<u8>>, TokenError> {
    let question =
        Question::Certificate { module: module.to_owned(), selector: selector.clone(), label: label.to_owned() };
    match ask(command, question)? {
        Told::Certificate(certificate) => Ok(certificate),
        _ => Err(another()),
    }
}

pub(in crate::token) fn ask_slots(command: &WorkerCommand, module: &Path) -> Result<Vec<SlotFacts>, TokenError> {
    match ask(command, Question::Slots { module: module.to_owned() })? {
        Told::Slots(slots) => Ok(slots),
        _ => Err(another()),
    }
}

fn another() -> TokenError {
    Fault::Mismatch("another question").error()
}

/// Blocking. The worker ends with its process handle, whatever it does then.
fn ask(command: &dyn Launch, question: Question) -> Result<Told, TokenError> {
    let mut launched = command.launch()?;
    let answer = converse(&mut launched.socket, question);
    launched.process.kill();
    answer.map_err(|fault| fault.error())?
}

fn converse(
    socket: &mut std::os::unix::net::UnixStream,
    question: Question,
) -> Result<Result<Told, TokenError>, Fault> {
    let broken = |error: io::Error| Fault::Broken(error.into());
    let frame = encode(&ToWorker::Ask { id: ID, question }, TO_WORKER).map_err(Fault::Broken)?;
    io::Write::write_all(socket, &frame).map_err(broken)?;
    socket.set_read_timeout(Some(LIMIT)).map_err(broken)?;
    let asked = Instant::now();
    match Inbox::new(FROM_WORKER).next(socket) {
        Ok(FromWorker::Told { id: ID, result }) => Ok(result),
        Ok(_) => Err(Fault::Mismatch("another question")),
        Err(FrameError::Ended) => Err(Fault::Ended),
        Err(FrameError::Io(_)) if asked.elapsed() >= LIMIT => Err(Fault::Hung("a question to the module")),
        Err(error) => Err(Fault::Broken(error)),
    }
}
