//! Sealed log files against the journal: each line verbatim, none missing, none twice, intents left out. Both sides are hashed
//! in the same pieces (a log file's part of a segment), so neither has to wait for the other.

use std::path::Path;

use aws_lc_rs::digest;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::facts::{Fact, Placed};
use super::gzip;
use super::line::{Leaf, Line};
use super::names::{Kind, compact, unique};
use super::report::{Finding, Verdict};
use super::segment::Outside;
use super::signature::sha256;
use super::times::millis;
use super::tree::Hash;

/// Unpacked. The writer stops at half of it.
const LARGEST: u64 = 64 << 20;

const BEFORE: &[u8] = b"{\"Records\":[";
const AFTER: &[u8] = b"]}";

/// Lines that a log file and a segment have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// In a segment's list: which log file. In a log file's list: which segment.
    pub other: usize,
    pub first: u64,
    pub last: u64,
    pub lines: u64,
    /// Over the leaf hashes, in their order.
    pub hash: Hash,
}

struct Growing {
    other: usize,
    first: u64,
    last: u64,
    lines: u64,
    context: digest::Context,
}

impl Growing {
    fn new(other: usize, seq: u64) -> Growing {
        Growing { other, first: seq, last: seq, lines: 0, context: digest::Context::new(&digest::SHA256) }
    }

    fn add(&mut self, seq: u64, leaf: &Hash) {
        self.last = seq;
        self.lines += 1;
        self.context.update(leaf);
    }

    fn finish(self) -> Piece {
        let mut hash = Hash::default();
        hash.copy_from_slice(self.context.finish().as_ref());
        Piece { other: self.other, first: self.first, last: self.last, lines: self.lines, hash }
    }
}

/// A segment's records, sorted into the log files that they are to be in.
pub(super) struct Pieces<'f> {
    /// First and last seq of each log file, ascending.
    files: &'f [(u64, u64)],
    growing: Option<Growing>,
    done: Vec<Piece>,
    outside: Vec<Outside>,
}

impl<'f> Pieces<'f> {
    pub fn new(files: &'f [(u64, u64)]) -> Pieces<'f> {
        Pieces { files, growing: None, done: Vec::new(), outside: Vec::new() }
    }

    pub fn record(&mut self, seq: u64, leaf: &Hash, intent: bool) {
        if self.files.is_empty() || intent {
            return;
        }
        let after = self.files.partition_point(|(_, last)| *last < seq);
        match self.files.get(after) {
            Some((first, _)) if *first <= seq => {
                if self.growing.as_ref().is_none_or(|growing| growing.other != after) {
                    self.done.extend(self.growing.take().map(Growing::finish));
                }
                self.growing.get_or_insert_with(|| Growing::new(after, seq)).add(seq, leaf);
            }
            // Behind the last file: not sealed yet.
            None => {}
            Some(_) => match self.outside.last_mut().filter(|run| run.files_before == after) {
                Some(run) => run.last = seq,
                None => self.outside.push(Outside { files_before: after, first: seq, last: seq }),
            },
        }
    }

    pub fn finish(mut self) -> (Vec<Piece>, Vec<Outside>) {
        self.done.extend(self.growing.take().map(Growing::finish));
        (self.done, self.outside)
    }
}

/// A log file read alone.
#[derive(Default)]
pub(super) struct LogFile {
    pub object: String,
    /// Of the unpacked bytes. `None`: it does not unpack.
    pub sha256: Option<Hash>,
    /// Of the file as stored.
    pub stored: Hash,
    pub first: u64,
    pub last: u64,
    pub lines: u64,
    pub pieces: Vec<Piece>,
    /// Records about the log, for segments that are gone.
    pub facts: Vec<Placed>,
    pub findings: Vec<Finding>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Records<'a> {
    #[serde(borrow, rename = "Records")]
    records: Vec<&'a RawValue>,
}

/// `starts`: first seq of each segment that is here, ascending.
pub(super) fn read(path: &Path, object: &str, starts: &[u64]) -> LogFile {
    let mut file = LogFile { object: object.to_owned(), ..LogFile::default() };
    let mut find = |verdict, line, seq, what: String| {
        file.findings.push(Finding { verdict, file: object.to_owned(), line, seq, what });
    };
    let packed = match std::fs::read(path) {
        Ok(packed) => packed,
        Err(error) => {
            find(Verdict::Incomplete, 0, None, format!("cannot be read: {error}"));
            return file;
        }
    };
    let bytes = match gzip::unpack(&packed, LARGEST) {
        Ok(bytes) => bytes,
        Err(what) => {
            find(Verdict::Tampered, 0, None, what);
            return file;
        }
    };
    let stored = sha256(&packed);
    drop(packed);
    let lines = match lines(&bytes) {
        Ok(lines) => lines,
        Err(what) => {
            find(Verdict::Tampered, 0, None, what);
            Vec::new()
        }
    };
    let mut growing: Option<Growing> = None;
    let mut before: Option<(u64, Leaf)> = None;
    let mut newest = String::new();
    let mut first = None;
    let mut pieces = Vec::new();
    let mut facts = Vec::new();
    for (number, bytes) in (1u64..).zip(&lines) {
        let leaf = Leaf::of(bytes);
        let line = match Line::parse(bytes) {
            Ok(line) => line,
            Err(what) => {
                find(Verdict::Tampered, number, None, what);
                continue;
            }
        };
        let seq = line.place().seq;
        match &before {
            Some((last, _)) if *last >= seq => {
                find(Verdict::Tampered, number, Some(seq), "the record is repeated, or out of order".into());
            }
            Some((last, prev)) if *last + 1 == seq && line.place().prev != prev.as_str() => {
                find(Verdict::Tampered, number, Some(seq), "`prev` is not the hash of the record before".into());
            }
            _ => {}
        }
        if line.is_intent() {
            find(Verdict::Tampered, number, Some(seq), "an intent does not belong into a log file".into());
        }
        first.get_or_insert((seq, leaf.hash()));
        let segment = starts.partition_point(|start| *start <= seq);
        if growing.as_ref().is_none_or(|growing| growing.other != segment) {
            pieces.extend(growing.take().map(Growing::finish));
        }
        growing.get_or_insert_with(|| Growing::new(segment, seq)).add(seq, &leaf.hash());
        newest = line.place().time.to_string();
        if let Some(Ok(fact)) = Fact::of(&line) {
            facts.push(Placed { seq, time: millis(&newest).unwrap_or_default(), fact });
        }
        before = Some((seq, leaf));
    }
    pieces.extend(growing.take().map(Growing::finish));
    // Segments are counted from 0; what lies before the first one that is here has no number.
    let pieces = pieces.into_iter().filter_map(|piece| Some(Piece { other: piece.other.checked_sub(1)?, ..piece }));
    let pieces = pieces.collect();
    let (first_seq, first_leaf) = first.unwrap_or_default();
    if let Kind::Log { minute, unique: named } = Kind::of(object) {
        if first.is_some() && unique(&first_leaf) != named {
            find(Verdict::Tampered, 1, Some(first_seq), "the file's name is not that of its first record".into());
        }
        if compact(newest.get(..16).unwrap_or_default()) != minute {
            find(Verdict::Tampered, 0, None, "the time in the file's name is not that of its last record".into());
        }
    }
    LogFile {
        sha256: Some(sha256(&bytes)),
        stored,
        first: first_seq,
        last: before.map_or(0, |(seq, _)| seq),
        lines: lines.len() as u64,
        pieces,
        facts,
        ..file
    }
}

/// The lines of an unpacked file: `{"Records":[` and lines with commas between them and `]}`, with nothing else anywhere.
pub(super) fn lines(bytes: &[u8]) -> Result<Vec<&[u8]>, String> {
    let wrong = || "it is not a log file: `{\"Records\":[…]}`".to_string();
    let Records { records } = serde_json::from_slice(bytes).map_err(|_| wrong())?;
    let lines: Vec<&[u8]> = records.into_iter().map(|raw| raw.get().as_bytes()).collect();
    let length = BEFORE.len() + lines.iter().map(|line| line.len() + 1).sum::<usize>().saturating_sub(1) + AFTER.len();
    let exact = bytes.len() == length && bytes.starts_with(BEFORE) && bytes.ends_with(AFTER);
    if exact && !lines.is_empty() { Ok(lines) } else { Err(wrong()) }
}
