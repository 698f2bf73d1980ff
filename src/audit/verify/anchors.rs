//! Heads that were kept where the host's owner cannot reach: given by the auditor (`--anchor`), or laid beside the log by time
//! stamping services and peers. Whoever holds one sees a log that was cut or rewritten below it.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::note::Note;
use super::report::{Report, Verdict};
use super::signature::unhex;
use super::tree::Hash;
use super::walk::Walk;

/// Far beyond any note or statement.
const LARGEST: u64 = 1 << 20;

struct Anchor {
    name: String,
    size: u64,
    root: Hash,
}

#[derive(Default)]
pub(super) struct Anchors {
    given: Vec<Anchor>,
    /// The newest one that fits, and where it came from.
    fitting: Vec<(u64, String)>,
}

/// A head without a signature, as a token's object or a page of paper has it.
#[derive(Deserialize)]
struct Plain {
    size: u64,
    /// Hex or base64.
    root: String,
}

impl Anchors {
    pub fn read(paths: &[PathBuf], report: &mut Report) -> Anchors {
        let mut anchors = Anchors::default();
        for path in paths {
            let name = path.to_string_lossy().into_owned();
            match read(path) {
                Ok((size, root)) => anchors.given.push(Anchor { name, size, root }),
                Err(what) => report.find(Verdict::Incomplete, &name, 0, None, what),
            }
        }
        anchors
    }

    pub fn sizes(&self) -> impl Iterator<Item = u64> {
        self.given.iter().map(|anchor| anchor.size)
    }

    pub fn check(&mut self, walk: &mut Walk<'_>, _dir: &Path, _alone: bool) {
        for anchor in &self.given {
            if fits(walk, &anchor.name, anchor.size, &anchor.root) {
                self.fitting.push((anchor.size, anchor.name.clone()));
            }
        }
    }

    pub fn any(&self) -> bool {
        !self.fitting.is_empty()
    }

    pub fn summary(&self, report: &mut Report, whole: bool, not_proven: &mut Vec<String>) {
        let Some((size, name)) = self.fitting.iter().max_by_key(|(size, _)| *size) else { return };
        if let Some(last) = size.checked_sub(1).filter(|_| whole) {
            report.fixed.push(format!(
                "everything up to record {last}, by the anchor `{name}`: not even who can sign can change it"
            ));
        }
        let total = report.first_seq.unwrap_or_default() + report.records;
        if total > *size {
            not_proven.push(format!(
                "that nothing behind the anchor is missing: the {} records from {size} on can be cut off at a record's \
                 boundary unnoticed, or be written anew by who can sign",
                total - size
            ));
        }
    }
}

/// Whether the log begins with this head, which somebody kept.
pub(super) fn fits(walk: &mut Walk<'_>, name: &str, size: u64, root: &Hash) -> bool {
    let total = walk.report.first_seq.unwrap_or_default() + walk.report.records;
    match walk.tree.root_at(size) {
        Some(here) if here == *root => return true,
        Some(_) => {
            let what = format!("the first {size} records are not those of which this is the head: it is another log");
            walk.report.find(Verdict::Forked, name, 0, None, what);
        }
        None if size > total => {
            let what = format!("it is the head of {size} records, and {total} are here");
            walk.report.find(Verdict::Truncated, name, 0, None, what);
        }
        None => {
            let what = format!("it is the head of {size} records, which cannot be compared with what is here");
            walk.report.find(Verdict::Incomplete, name, 0, None, what);
        }
    }
    false
}

/// A signed note, or `{"size": …, "root": …}`.
pub(super) fn read(path: &Path) -> Result<(u64, Hash), String> {
    let size = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?.len();
    if size > LARGEST {
        return Err("it is too long for a head".into());
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    parse(&text)
}

pub(super) fn parse(text: &str) -> Result<(u64, Hash), String> {
    if text.trim_start().starts_with('{') {
        let plain: Plain = serde_json::from_str(text).map_err(|error| format!("it is no head: {error}"))?;
        let bytes = unhex(&plain.root).or_else(|| STANDARD.decode(&plain.root).ok());
        let root = bytes.and_then(|bytes| Hash::try_from(bytes).ok()).ok_or("its root is not a hash")?;
        return Ok((plain.size, root));
    }
    Note::parse(text).map(|note| (note.size, note.root))
}
