//! The chain's end and the open segment: puts records in their place, one write and one sync per batch, and begins and
//! ends segments. Synchronous; the journal's thread drives it. RULE design.md "When the log fails": nothing is retried on
//! a file after a short write or a failed sync.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use uuid::Uuid;

use super::files::{self, SegmentFile, Torn, Trouble, Wrap};
use super::record::{Draft, Origin, micros, seconds};
use super::verify::line::{Leaf, SEGMENT_END, SEGMENT_START};
use super::verify::tree::Frontier;

/// What the next record continues. Advances only with records on stable storage.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    pub next_seq: u64,
    pub prev: Leaf,
    /// Over all records so far: as many as `next_seq`.
    pub tree: Frontier,
    /// Records up to and with the newest one that needs a checkpoint.
    pub news: u64,
    /// Intents without an outcome: request id → seq.
    pub open: HashMap<String, u64>,
    pub store_version: Option<u64>,
}

impl Chain {
    /// The next record is on stable storage.
    fn push(&mut self, leaf: Leaf) {
        self.next_seq += 1;
        self.prev = leaf;
        self.tree.push(leaf.hash());
    }

    fn note(&mut self, draft: &Draft, seq: u64) {
        if draft.news {
            self.news = seq + 1;
        }
        self.store_version = self.store_version.max(draft.store_version);
        let Some(request_id) = &draft.request_id else {
            return;
        };
        if draft.intent {
            self.open.insert(request_id.clone(), seq);
        } else if !self.open.is_empty() {
            self.open.remove(request_id);
        }
    }
}

/// Why a segment begins, and what it must say of the one before.
#[derive(Debug, Clone, Default)]
pub(super) struct Beginning {
    /// `boot`, `size`, `age`, `request`, `tampering`, `failure`, `accepted-loss`, `repair`.
    pub reason: &'static str,
    pub unclean: bool,
    pub torn: Option<Torn>,
    /// A record that has to follow `SegmentStart`: name and details.
    pub first: Option<(&'static str, serde_json::Value)>,
}

struct Open {
    file: Box<dyn SegmentFile>,
    bytes: u64,
    records: u64,
    since: Instant,
}

pub(super) struct Segments {
    pub origin: Arc<Origin>,
    pub journal: PathBuf,
    pub max_bytes: u64,
    pub max_age: Duration,
    pub wrap: Wrap,
    pub chain: Chain,
    /// The newest segment, open or ended.
    pub name: Option<String>,
    open: Option<Open>,
    /// How the next segment begins, while none is open.
    next: Beginning,
    buffer: Vec<u8>,
    /// Of the batch that is written.
    leaves: Vec<Leaf>,
}

impl Segments {
    pub fn new(
        origin: Arc<Origin>,
        journal: PathBuf,
        limits: (u64, Duration),
        wrap: Wrap,
        chain: Chain,
        name: Option<String>,
        next: Beginning,
    ) -> Segments {
        let (max_bytes, max_age) = limits;
        Segments {
            origin,
            journal,
            max_bytes,
            max_age,
            wrap,
            chain,
            name,
            open: None,
            next,
            buffer: Vec::with_capacity(64 * 1024),
            leaves: Vec::new(),
        }
    }

    /// Writes the batch and syncs it. On success the records have consecutive seqs from the one returned.
    pub fn commit(&mut self, drafts: &[Draft]) -> Result<u64, Trouble> {
        let size: u64 = drafts.iter().map(|draft| draft.len() as u64).sum();
        if self.open.as_ref().is_some_and(|open| open.records > 1 && open.bytes + size > self.max_bytes) {
            self.rotate("size")?;
        }
        self.ensure_open()?;
        let first = self.chain.next_seq;
        let time = micros(now_micros());
        let mut prev = self.chain.prev;
        self.buffer.clear();
        self.leaves.clear();
        for (seq, draft) in (first..).zip(drafts) {
            prev = draft.splice(seq, &time, prev, &mut self.buffer);
            self.leaves.push(prev);
        }
        self.write(drafts.len() as u64)?;
        for (draft, leaf) in drafts.iter().zip(&self.leaves) {
            self.chain.note(draft, self.chain.next_seq);
            self.chain.push(*leaf);
        }
        Ok(first)
    }

    /// Begins a segment if none is open.
    pub fn ensure_open(&mut self) -> Result<(), Trouble> {
        if self.open.is_some() {
            return Ok(());
        }
        let now = now_micros();
        let time = micros(now);
        let name = format!("{:020}-{}.jsonl", self.chain.next_seq, self.origin.boot);
        let mut chain = self.chain.clone();
        let mut records = vec![self.origin.system(SEGMENT_START, now, self.beginning())];
        if let Some((name, details)) = &self.next.first {
            records.push(self.origin.system(name, now, details.clone()));
        }
        self.buffer.clear();
        let count = records.len() as u64;
        for event in records {
            let draft = Draft::new(event, &self.origin, Uuid::new_v4());
            let leaf = draft.splice(chain.next_seq, &time, chain.prev, &mut self.buffer);
            chain.note(&draft, chain.next_seq);
            chain.push(leaf);
        }
        let file = files::create_segment(&self.journal, &name, &self.buffer, &mut self.wrap)?;
        self.open = Some(Open { file, bytes: self.buffer.len() as u64, records: count, since: Instant::now() });
        self.chain = chain;
        self.name = Some(name);
        self.next = Beginning::default();
        Ok(())
    }

    fn beginning(&self) -> serde_json::Value {
        let mut open: Vec<u64> = self.chain.open.values().copied().collect();
        open.sort_unstable();
        json!({
            "trail": self.origin.trail_arn,
            "prevSegment": self.name,
            "prevSeq": self.chain.next_seq.checked_sub(1),
            "prevHash": self.chain.prev.as_str(),
            "reason": self.next.reason,
            "unclean": self.next.unclean,
            "tornBytes": self.next.torn.as_ref().map_or(0, |torn| torn.bytes),
            "tornSha256": self.next.torn.as_ref().map(|torn| &torn.sha256),
            "tornFile": self.next.torn.as_ref().map(|torn| &torn.file),
            "openIntents": open,
            "lastStoreVersion": self.chain.store_version,
            "treeSize": self.chain.tree.size(),
            "treePeaks": self.chain.tree.peaks().iter().map(hex::encode).collect::<Vec<_>>(),
        })
    }

    /// Ends the open segment and begins the next.
    pub fn rotate(&mut self, reason: &'static str) -> Result<(), Trouble> {
        self.end(reason)?;
        self.ensure_open()
    }

    /// Ends the open segment and begins the next with a record about why.
    pub fn rotate_with(
        &mut self,
        reason: &'static str,
        name: &'static str,
        details: serde_json::Value,
    ) -> Result<(), Trouble> {
        self.end(reason)?;
        self.next = Beginning { reason, first: Some((name, details)), ..Beginning::default() };
        self.ensure_open()
    }

    /// What is left to say when the log has failed: in a new segment, since nothing is written to the file that failed. What that
    /// file may hold beyond the records on stable storage is kept aside, as recovery would do: nobody was told of it.
    pub fn last_words(&mut self, reason: &str) -> io::Result<()> {
        let mut torn = None;
        if let (Some(open), Some(name)) = (self.open.take(), &self.name) {
            let length = files::path_facts(&self.journal.join(name))?.bytes;
            if length > open.bytes {
                torn = Some(files::save_torn(&self.journal, name, open.bytes, &stamp())?);
            }
            files::rewrite(&self.journal, name, open.bytes)?;
        }
        let details = json!({"segment": self.name, "reason": reason});
        self.next = Beginning { reason: "failure", unclean: true, torn, first: Some(("AuditFailure", details)) };
        match self.ensure_open() {
            Ok(()) => Ok(()),
            Err(Trouble::NoSpace) => Err(io::ErrorKind::StorageFull.into()),
            Err(Trouble::Failed(reason)) => Err(io::Error::other(reason)),
        }
    }

    /// Ends the open segment, if there is one, with `SegmentEnd`.
    pub fn end(&mut self, reason: &'static str) -> Result<(), Trouble> {
        let Some(open) = &self.open else {
            return Ok(());
        };
        let now = now_micros();
        let details = json!({"reason": reason, "records": open.records + 1});
        let draft = Draft::new(self.origin.system(SEGMENT_END, now, details), &self.origin, Uuid::nil());
        self.buffer.clear();
        let leaf = draft.splice_end(self.chain.next_seq, &micros(now), self.chain.prev, &mut self.buffer);
        self.write(1)?;
        self.chain.push(leaf);
        self.open = None;
        self.next = Beginning { reason, ..Beginning::default() };
        Ok(())
    }

    /// Looks once whether the segment is still the file that was opened, and rotates by age.
    pub fn watch(&mut self) -> Result<(), Trouble> {
        if let Some(what) = self.tampering() {
            let segment = self.name.as_deref().unwrap_or_default();
            tracing::error!(segment, what, "the open segment of the audit log was changed by somebody else");
            self.open = None;
            let details = json!({"segment": self.name, "what": what});
            let first = Some(("AuditTampering", details));
            self.next = Beginning { reason: "tampering", unclean: true, torn: None, first };
        }
        if self.next.first.is_some() {
            return self.ensure_open();
        }
        // A segment that holds only its `SegmentStart` stays: an idle service writes nothing.
        if self.open.as_ref().is_some_and(|open| open.records > 1 && open.since.elapsed() >= self.max_age) {
            return self.rotate("age");
        }
        Ok(())
    }

    fn tampering(&self) -> Option<String> {
        let (open, name) = (self.open.as_ref()?, self.name.as_ref()?);
        let Ok(facts) = open.file.facts() else {
            return Some("its state cannot be read".into());
        };
        if facts.links == 0 {
            return Some("it was deleted".into());
        }
        if facts.bytes != open.bytes {
            return Some(format!("it has {} bytes where {} were written", facts.bytes, open.bytes));
        }
        match files::path_facts(&self.journal.join(name)) {
            Ok(path) if (path.device, path.inode) == (facts.device, facts.inode) => None,
            Ok(_) => Some("another file stands in its place".into()),
            Err(_) => Some("it was moved away".into()),
        }
    }

    /// Writes the buffer to the open segment in one piece.
    fn write(&mut self, records: u64) -> Result<(), Trouble> {
        let Some(open) = &mut self.open else {
            return Err(Trouble::Failed("no segment is open".into()));
        };
        let accepted = loop {
            match open.file.append(&self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        match accepted {
            Ok(accepted) if accepted == self.buffer.len() => {}
            Ok(accepted) => {
                let length = self.buffer.len();
                return Err(Trouble::Failed(format!("short write: {accepted} of {length} bytes were accepted")));
            }
            // An error means that not one byte was accepted: the file is as it was.
            Err(error) if files::is_no_space(&error) => return Err(Trouble::NoSpace),
            Err(error) => return Err(Trouble::Failed(format!("write: {error}"))),
        }
        open.file.sync().map_err(|error| Trouble::Failed(format!("fdatasync: {error}")))?;
        open.bytes += self.buffer.len() as u64;
        open.records += records;
        Ok(())
    }
}

/// The time as part of a file's name.
pub(super) fn stamp() -> String {
    let seconds = seconds(now_micros().div_euclid(1_000_000));
    let digits: String = seconds.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("{digits}Z")
}

pub(super) fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
