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
use super::record::{Draft, Origin, micros};
use super::verify::line::{Leaf, SEGMENT_END, SEGMENT_START};

/// What the next record continues. Advances only with records on stable storage.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    pub next_seq: u64,
    pub prev: Leaf,
    /// Intents without an outcome: request id → seq.
    pub open: HashMap<String, u64>,
    pub store_version: Option<u64>,
}

impl Chain {
    fn note(&mut self, draft: &Draft, seq: u64) {
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
    /// `boot`, `size`, `age`, `request`, `tampering`.
    pub reason: &'static str,
    pub unclean: bool,
    pub torn: Option<Torn>,
    /// What was found wrong with the segment before.
    pub tampering: Option<String>,
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
        for (seq, draft) in (first..).zip(drafts) {
            prev = draft.splice(seq, &time, prev, &mut self.buffer);
        }
        self.write(drafts.len() as u64)?;
        self.chain.next_seq += drafts.len() as u64;
        self.chain.prev = prev;
        for (seq, draft) in (first..).zip(drafts) {
            self.chain.note(draft, seq);
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
        if let Some(what) = &self.next.tampering {
            let details = json!({"segment": self.name, "what": what});
            records.push(self.origin.system("AuditTampering", now, details));
        }
        self.buffer.clear();
        let count = records.len() as u64;
        for event in records {
            let draft = Draft::new(event, &self.origin, Uuid::new_v4());
            chain.prev = draft.splice(chain.next_seq, &time, chain.prev, &mut self.buffer);
            chain.next_seq += 1;
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
        })
    }

    /// Ends the open segment and begins the next.
    pub fn rotate(&mut self, reason: &'static str) -> Result<(), Trouble> {
        self.end(reason)?;
        self.ensure_open()
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
        let prev = draft.splice_end(self.chain.next_seq, &micros(now), self.chain.prev, &mut self.buffer);
        self.write(1)?;
        self.chain.next_seq += 1;
        self.chain.prev = prev;
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
            self.next = Beginning { reason: "tampering", unclean: true, torn: None, tampering: Some(what) };
        }
        if self.next.tampering.is_some() {
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

pub(super) fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
