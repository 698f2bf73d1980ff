//! CloudTrail log files: the journal's lines, verbatim, in `{"Records":[…]}`. Which lines a file holds follows from the
//! journal and from where the file before ended, so that every file can be made again from the journal, byte for byte.

use std::io::{self, Read, Write};

use aws_lc_rs::digest;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::names::Place;
use crate::audit::verify::line::Line;
use crate::audit::verify::tree::{Frontier, Hash};

/// Bytes of lines in one file.
pub const FULL: usize = 32 << 20;
/// No sealed object of ours is larger when unpacked.
const LARGEST: u64 = 64 << 20;

const BEFORE: &[u8] = b"{\"Records\":[";
const AFTER: &[u8] = b"]}";

/// Records of the log about itself, which alone make no new file: each file is the reason of such a record, and an idle
/// service would write for ever.
const BOOKKEEPING: &[&str] = &["LogFile", "Digest", "Checkpoint", "SegmentStart", "SegmentEnd"];

/// A sealed file: `details` of its `LogFile` record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SealedFile {
    pub bucket: String,
    pub object: String,
    /// Of the uncompressed bytes, lower-case hex.
    pub sha256: String,
    /// The file before ends right before it.
    pub first_seq: u64,
    /// Of the last line in it.
    pub last_seq: u64,
    /// Lines in it: intents within its range are not.
    pub records: u64,
    pub oldest_event_time: String,
    pub newest_event_time: String,
    /// Fingerprint of a digest key that a record in it introduces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced_key: Option<String>,
}

/// Lines on their way into a file.
#[derive(Debug, Clone)]
pub struct Draft {
    first_seq: u64,
    body: Vec<u8>,
    records: u64,
    /// A line that is worth a file.
    real: bool,
    first_leaf: Hash,
    last_seq: u64,
    last_time: String,
    oldest: String,
    newest: String,
    announced: Option<String>,
    /// The tree over the records before `first_seq`, as it is after the last line in the file, and with all lines so far.
    before: Option<Frontier>,
    after: Option<Frontier>,
    tree: Option<Frontier>,
}

impl Draft {
    /// `tree`: over all records before `first_seq`, where it is known.
    pub fn new(first_seq: u64, tree: Option<Frontier>) -> Draft {
        Draft {
            first_seq,
            body: Vec::new(),
            records: 0,
            real: false,
            first_leaf: Hash::default(),
            last_seq: first_seq,
            last_time: String::new(),
            oldest: String::new(),
            newest: String::new(),
            announced: None,
            before: tree.clone(),
            after: tree.clone(),
            tree,
        }
    }

    /// The next line of the journal. Intents are not exported.
    pub fn add(&mut self, line: &[u8]) -> Result<(), String> {
        let record = Line::parse(line)?;
        let leaf = leaf(line);
        if let Some(tree) = &mut self.tree {
            tree.push(leaf);
        }
        if record.is_intent() {
            return Ok(());
        }
        let Ok(Time { event_time }) = serde_json::from_slice::<Time>(line) else {
            return Err("the record has no time".to_owned());
        };
        if self.records == 0 {
            self.first_leaf = leaf;
            (self.oldest, self.newest) = (event_time.clone(), event_time);
        } else {
            self.body.push(b',');
            // Texts of one form: their order is that of the times.
            if event_time < self.oldest {
                self.oldest = event_time;
            } else if event_time > self.newest {
                self.newest = event_time;
            }
        }
        self.body.extend_from_slice(line);
        self.records += 1;
        self.real |= !BOOKKEEPING.contains(&&*record.event_name);
        if record.is_system("AuditKey") {
            let details = record.additional_event_data.details.map_or("null", RawValue::get);
            let key = serde_json::from_str::<Announced>(details).ok().filter(|key| key.key_use == "digest");
            self.announced = key.map(|key| key.fingerprint).or_else(|| self.announced.take());
        }
        self.last_seq = record.place().seq;
        self.last_time.clear();
        self.last_time.push_str(&record.place().time);
        self.after.clone_from(&self.tree);
        Ok(())
    }

    /// A line of that length goes into the next file.
    pub fn is_full_for(&self, line: &[u8]) -> bool {
        self.records > 0 && self.body.len() + 1 + line.len() > FULL
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Where its range begins.
    pub fn first_seq(&self) -> u64 {
        self.first_seq
    }

    /// Lines in it.
    pub fn count(&self) -> u64 {
        self.records
    }

    /// It holds more than records of the log about itself.
    pub fn is_worth_a_file(&self) -> bool {
        self.real
    }

    /// Hash of the first line, which names the file.
    pub fn first_leaf(&self) -> &Hash {
        &self.first_leaf
    }

    /// Over all records before its range.
    pub fn sealed_tree(&self) -> Option<&Frontier> {
        self.before.as_ref()
    }

    /// The uncompressed file, what is said of it, and the draft of the next one.
    pub fn finish(self, bucket: &str, place: &Place) -> (Vec<u8>, SealedFile, Draft) {
        let mut bytes = Vec::with_capacity(self.body.len() + BEFORE.len() + AFTER.len());
        bytes.extend_from_slice(BEFORE);
        bytes.extend_from_slice(&self.body);
        bytes.extend_from_slice(AFTER);
        let file = SealedFile {
            bucket: bucket.to_owned(),
            object: place.log_file(&self.last_time, &self.first_leaf),
            sha256: sha256(&bytes),
            first_seq: self.first_seq,
            last_seq: self.last_seq,
            records: self.records,
            oldest_event_time: self.oldest,
            newest_event_time: self.newest,
            announced_key: self.announced,
        };
        // Intents behind the last line are in the next file's range already, and in its tree.
        let next = Draft::new(self.last_seq + 1, self.tree);
        let next = Draft { before: self.after, ..next };
        (bytes, file, next)
    }
}

/// `details` of a record that introduces a key.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Announced {
    key_use: String,
    fingerprint: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Time {
    event_time: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Records<'a> {
    #[serde(borrow)]
    records: Vec<&'a RawValue>,
}

/// The lines of an uncompressed log file.
pub fn lines(bytes: &[u8]) -> io::Result<Vec<&[u8]>> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let records: Records<'_> = serde_json::from_slice(bytes).map_err(|_| bad("it is not a CloudTrail log file"))?;
    Ok(records.records.into_iter().map(|raw| raw.get().as_bytes()).collect())
}

/// RFC 6962's leaf hash, raw.
pub fn leaf(line: &[u8]) -> Hash {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&[0]);
    context.update(line);
    let mut hash = Hash::default();
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// Lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

/// The same bytes for the same bytes: the header has no time and no name.
pub fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// Refuses what is larger than any object of ours, and bytes that follow the stream.
pub fn gunzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    MultiGzDecoder::new(bytes).take(LARGEST + 1).read_to_end(&mut unpacked)?;
    if unpacked.len() as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than any sealed object"));
    }
    Ok(unpacked)
}
