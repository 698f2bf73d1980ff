//! One segment read alone: the syntax of its lines, the chain inside, and what the tree and the log files need of it. Segments
//! are read on all cores; how they follow each other is looked at afterwards (`walk.rs`).

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufReader};
use std::path::PathBuf;
use std::time::Duration;

use super::facts::{Fact, Placed};
use super::line::{Leaf, Line, Link, SEGMENT_END, SEGMENT_START, SegmentStart, segment_name};
use super::lines::{Lines, Next};
use super::logfiles::{Piece, Pieces};
use super::report::{Finding, Verdict};
use super::times::millis;
use super::tree::Hash;

/// A segment to be read.
pub(super) struct Segment {
    pub path: PathBuf,
    pub name: String,
    /// When the directory was listed.
    pub size: u64,
    /// A running service may be writing it.
    pub last: bool,
}

impl Segment {
    /// By its name.
    pub fn first_seq(&self) -> u64 {
        segment_name(&self.name).map_or(0, |(seq, _)| seq)
    }
}

/// What the link to the segment before needs of the first line.
pub(super) struct First {
    pub seq: u64,
    pub boot: String,
    pub chain: String,
    pub time: String,
    pub prev: String,
    /// `None`: it is no `SegmentStart`.
    pub start: Option<Result<SegmentStart, String>>,
}

#[derive(Default)]
pub(super) struct Read {
    /// `None`: there is no line, or it does not parse.
    pub first: Option<First>,
    /// Hashes of all lines, in their order.
    pub leaves: Vec<Hash>,
    pub findings: Vec<Finding>,
    /// What follows the last line.
    pub link: Option<Link>,
    pub last: Option<(u64, String)>,
    pub ended: bool,
    pub bytes: u64,
    pub facts: Vec<Placed>,
    /// Without an outcome in this segment.
    pub intents: Vec<Intent>,
    pub intent_count: u64,
    /// Outcomes that close no intent of this segment, as `Ids` hashes them.
    pub outcomes: Vec<u64>,
    pub closed: u64,
    /// What each log file must hold of this segment.
    pub pieces: Vec<Piece>,
    /// Records that are to be in a log file and lie in none.
    pub outside: Vec<Outside>,
    pub failure: Option<io::Error>,
}

pub(super) struct Intent {
    pub id: u64,
    pub seq: u64,
    pub request_id: String,
    pub event_name: String,
}

/// A run of records between two log files.
pub(super) struct Outside {
    /// As many log files end before it.
    pub files_before: usize,
    pub first: u64,
    pub last: u64,
}

/// Request ids are only compared with each other: a keyed hash of each suffices.
pub(super) struct Ids(RandomState);

impl Ids {
    pub fn new() -> Ids {
        Ids(RandomState::new())
    }

    fn of(&self, request_id: &str) -> u64 {
        self.0.hash_one(request_id)
    }
}

/// Reads and checks `segment`. `files`: first and last seq of the log files on disk, ascending.
pub(super) fn read(segment: &Segment, files: &[(u64, u64)], ids: &Ids) -> Read {
    let mut reader = Reader {
        segment,
        ids,
        next_seq: segment.first_seq(),
        pieces: Pieces::new(files),
        chain: None,
        read: Read::default(),
    };
    if let Err(error) = reader.run() {
        reader.read.failure = Some(error);
    }
    let (pieces, outside) = reader.pieces.finish();
    Read { pieces, outside, ..reader.read }
}

struct Reader<'s> {
    segment: &'s Segment,
    ids: &'s Ids,
    /// By position.
    next_seq: u64,
    pieces: Pieces<'s>,
    chain: Option<String>,
    read: Read,
}

impl Reader<'_> {
    fn run(&mut self) -> io::Result<()> {
        let segment = self.segment;
        let mut lines = Lines::new(BufReader::with_capacity(128 * 1024, File::open(&segment.path)?));
        let mut number = 0;
        let mut looks = 0;
        loop {
            match lines.next()? {
                Next::Line(bytes) => {
                    number += 1;
                    looks = 0;
                    if self.read.ended {
                        self.find(Verdict::Tampered, number, None, "a record follows `SegmentEnd`");
                    }
                    self.read.ended = self.record(number, bytes);
                    self.read.bytes += bytes.len() as u64 + 1;
                }
                // A service that is writing: the rest of the line may come.
                Next::Partial(_) if segment.last && looks < 4 => {
                    looks += 1;
                    std::thread::sleep(Duration::from_millis(100));
                    lines.again()?;
                }
                Next::Partial(bytes) => self.torn(number + 1, bytes),
                Next::TooLong => {
                    self.find(Verdict::Tampered, number + 1, None, "the line is longer than any record");
                    break;
                }
                Next::End => break,
            }
            // What a running service adds while we read is not followed for ever.
            if segment.last && lines.whole() >= segment.size {
                break;
            }
        }
        if number == 0 {
            self.find(Verdict::Tampered, 0, None, "the segment has no record");
        }
        Ok(())
    }

    fn find(&mut self, verdict: Verdict, line: u64, seq: Option<u64>, what: impl Into<String>) {
        self.read.findings.push(Finding { verdict, file: self.segment.name.clone(), line, seq, what: what.into() });
    }

    fn torn(&mut self, number: u64, bytes: u64) {
        if self.segment.last {
            let what = format!(
                "{bytes} bytes after the last complete record: a write was cut short, or the file was; the next start of \
                 the service saves and removes them"
            );
            self.find(Verdict::Truncated, number, None, what);
        } else {
            let what = format!("{bytes} bytes after the last complete record, and a later segment exists");
            self.find(Verdict::Tampered, number, None, what);
        }
    }

    /// Says whether the record is a `SegmentEnd`.
    fn record(&mut self, number: u64, bytes: &[u8]) -> bool {
        let leaf = Leaf::of(bytes);
        let hash = leaf.hash();
        let seq_here = self.next_seq;
        self.next_seq = self.next_seq.saturating_add(1);
        self.read.leaves.push(hash);
        let line = match Line::parse(bytes) {
            Ok(line) => line,
            Err(what) => {
                self.find(Verdict::Tampered, number, None, what);
                // Go on behind it, so that one bad line is one finding.
                let seq = self.read.link.map_or(seq_here, |link| link.seq);
                self.read.link = Some(Link { seq: seq.saturating_add(1), prev: leaf });
                self.pieces.record(seq_here, &hash, false);
                return false;
            }
        };
        let seq = line.place().seq;
        if number == 1 {
            self.read.first = Some(first(&line));
            self.chain = Some(line.place().chain.to_string());
        } else if let Err(what) = self.place(&line) {
            self.find(Verdict::Tampered, number, Some(seq), what);
        }
        self.read.link = Some(Link { seq: seq.saturating_add(1), prev: leaf });
        self.read.last = Some((seq, line.place().time.to_string()));
        self.pieces.record(seq_here, &hash, line.is_intent());
        self.pair(&line);
        match Fact::of(&line) {
            Some(Ok(fact)) => {
                let time = millis(&line.place().time).unwrap_or_default();
                self.read.facts.push(Placed { seq: seq_here, time, fact });
            }
            Some(Err(what)) => self.find(Verdict::Incomplete, number, Some(seq), what),
            None => {}
        }
        line.is_system(SEGMENT_END)
    }

    /// A record behind the first.
    fn place(&self, line: &Line<'_>) -> Result<(), String> {
        let place = line.place();
        let (_, boot) = segment_name(&self.segment.name).unwrap_or_default();
        if place.boot != boot {
            return Err(format!("the record is of boot `{}`, its file of boot `{boot}`", place.boot));
        }
        if self.chain.as_deref().is_some_and(|chain| chain != place.chain) {
            return Err("the record is of another chain".into());
        }
        if line.is_system(SEGMENT_START) {
            return Err("a `SegmentStart` stands inside a segment".into());
        }
        self.read.link.map_or(Ok(()), |link| link.check(line))
    }

    fn pair(&mut self, line: &Line<'_>) {
        let Some(request_id) = &line.request_id else {
            return;
        };
        let id = self.ids.of(request_id);
        if line.is_intent() {
            self.read.intent_count += 1;
            let event_name = line.event_name.to_string();
            let seq = line.place().seq;
            self.read.intents.push(Intent { id, seq, request_id: request_id.clone(), event_name });
        } else if let Some(at) = self.read.intents.iter().rposition(|intent| intent.id == id) {
            self.read.intents.swap_remove(at);
            self.read.closed += 1;
        } else {
            self.read.outcomes.push(id);
        }
    }
}

fn first(line: &Line<'_>) -> First {
    let place = line.place();
    First {
        seq: place.seq,
        boot: place.boot.to_string(),
        chain: place.chain.to_string(),
        time: place.time.to_string(),
        prev: place.prev.to_string(),
        start: line.is_system(SEGMENT_START).then(|| line.segment_start()),
    }
}
