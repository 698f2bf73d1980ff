//! The auditor's own memory: the newest head of a log that was found whole. A log that is shorter later, or another one, is
//! refused, whoever signed it.

use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::anchors;
use super::report::{Report, Verdict};
use super::signature::{hex, unhex};
use super::tree::Hash;
use super::walk::Walk;

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Saved {
    version: u32,
    trail: String,
    size: u64,
    root: String,
}

pub(super) struct State {
    name: String,
    trail: String,
    size: u64,
    root: Hash,
}

/// What there is to remember of this log.
pub(super) struct Memory(Option<Saved>);

impl State {
    /// `None`: there is none yet, or it cannot be read, which is a finding.
    pub fn read(path: &Path, report: &mut Report) -> Option<State> {
        let name = path.to_string_lossy().into_owned();
        let mut unreadable = |what: String| {
            report.find(Verdict::Incomplete, &name, 0, None, what);
            None
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => return unreadable(format!("cannot be read: {error}")),
        };
        let saved: Saved = match serde_json::from_str(&text) {
            Ok(saved) => saved,
            Err(error) => return unreadable(format!("it is no state of this verifier: {error}")),
        };
        let root = unhex(&saved.root).and_then(|root| Hash::try_from(root).ok());
        match (saved.version, root) {
            (1, Some(root)) => Some(State { name, trail: saved.trail, size: saved.size, root }),
            _ => unreadable("it is no state of this version".into()),
        }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether the log continues what is remembered.
    pub fn check(&self, walk: &mut Walk<'_>) -> bool {
        if let Some(trail) = walk.report.trail.clone().filter(|trail| *trail != self.trail) {
            let what = format!("it remembers trail `{}`, and this is `{trail}`", self.trail);
            walk.report.find(Verdict::Forked, &self.name, 0, None, what);
            return false;
        }
        anchors::fits(walk, &self.name, self.size, &self.root)
    }
}

impl Memory {
    /// The newest signed head; of a log without one, all of it. A power failure may take back what was seen before it was
    /// durable, and never what was signed.
    pub fn of(walk: &Walk<'_>) -> Memory {
        let whole = walk.tree.whole().map(|tree| (tree.size(), tree.root()));
        let head = walk.heads.newest.as_ref().map(|head| (head.size, head.root)).or(whole);
        let trail = walk.report.trail.clone().unwrap_or_default();
        Memory(head.map(|(size, root)| Saved { version: 1, trail, size, root: hex(&root) }))
    }
}

/// Writes the newer head down, if the log is whole.
pub(super) fn remember(path: &Path, before: Option<&State>, memory: Memory, report: &mut Report) {
    let Memory(Some(saved)) = memory else { return };
    if report.verdict != Verdict::Ok || before.is_some_and(|before| before.size >= saved.size) {
        return;
    }
    if let Err(error) = write(path, &saved) {
        let name = path.to_string_lossy().into_owned();
        report.find(Verdict::Incomplete, &name, 0, None, format!("cannot be written: {error}"));
    }
}

/// The file is whole at each moment.
fn write(path: &Path, saved: &Saved) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = std::fs::File::create(&new)?;
    serde_json::to_writer(&mut file, saved)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => std::fs::File::open(parent)?.sync_all(),
        None => std::fs::File::open(".")?.sync_all(),
    }
}
