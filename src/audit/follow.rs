//! Reads the journal's lines in their order, from any seq on, as it grows: for streams, sinks and indexes. From the files
//! alone, so that a slow reader slows nobody. Blocking.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use super::files;
use super::verify::line::{Line, segment_name};
use super::verify::lines::{Lines, Next};

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    pub seq: u64,
    pub kind: Kind,
    /// Without its newline, byte for byte.
    pub line: Vec<u8>,
}

/// What readers tell apart without looking into a line again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Record,
    /// Something is about to be done; its outcome follows.
    Intent,
    /// A signed tree head.
    Checkpoint,
}

/// A place in the journal that moves on.
pub struct Follower {
    journal: PathBuf,
    next: u64,
    open: Option<Open>,
    /// Read already, and not durable when it was.
    early: Option<Followed>,
}

struct Open {
    name: String,
    lines: Lines<BufReader<File>>,
    /// A later segment exists: nothing is appended to this one any more.
    closed: bool,
}

/// What a look at the open segment found.
enum Found {
    Line(Followed),
    /// Nothing yet.
    Nothing,
    /// Look again: the segment is a closed one now, or another.
    Again,
}

impl Follower {
    /// `dir`: the trail's directory. The first line will be that of record `from`, or the oldest that is still there.
    pub fn new(dir: &Path, from: u64) -> Follower {
        Follower { journal: dir.join("journal"), next: from, open: None, early: None }
    }

    /// Seq of the line that comes next. Above it, where segments were deleted, the line has a higher one.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// The next line whose seq is below `durable` (`Journal::durable`: what is not on stable storage is nobody's to read); `None` where
    /// there is none yet. After an error the same place is tried again. `NotFound`: the journal is gone.
    pub fn next(&mut self, durable: u64) -> io::Result<Option<Followed>> {
        while self.next < durable {
            if let Some(early) = self.early.take_if(|early| early.seq < durable) {
                self.next = early.seq + 1;
                return Ok(Some(early));
            }
            if self.early.is_some() || (self.open.is_none() && !self.find()?) {
                return Ok(None);
            }
            match self.look() {
                Ok(Found::Line(found)) => self.early = Some(found),
                Ok(Found::Nothing) => return Ok(None),
                Ok(Found::Again) => {}
                Err(error) => {
                    // Else the next look would begin behind the line that could not be read.
                    self.open = None;
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// Seq of the oldest record that is still in the journal.
    pub fn oldest(&self) -> io::Result<Option<u64>> {
        Ok(files::segments(&self.journal, false)?.first().and_then(|name| segment_name(name)).map(|(seq, _)| seq))
    }

    fn look(&mut self) -> io::Result<Found> {
        let Some(open) = &mut self.open else { return Ok(Found::Again) };
        let bad = |name: &str, what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("`{name}`: {what}"));
        match open.lines.next()? {
            Next::Line(bytes) => {
                let line = Line::parse(bytes).map_err(|what| bad(&open.name, &what))?;
                let seq = line.place().seq;
                if seq < self.next {
                    return Ok(Found::Again);
                }
                let kind = match () {
                    () if line.is_system("Checkpoint") => Kind::Checkpoint,
                    () if line.is_intent() => Kind::Intent,
                    () => Kind::Record,
                };
                return Ok(Found::Line(Followed { seq, kind, line: bytes.to_vec() }));
            }
            Next::TooLong => return Err(bad(&open.name, "a line is too long")),
            // Half a line at the end of a closed segment is what a crash left: nobody was told of it.
            Next::Partial(_) => open.lines.again()?,
            Next::End => {}
        }
        if !open.closed {
            // The order counts: once there is a later segment, what the next reading finds in this one is all there will be.
            open.closed = later(&self.journal, &open.name)?.is_some();
            return Ok(if open.closed { Found::Again } else { Found::Nothing });
        }
        match later(&self.journal, &open.name)? {
            Some(name) => match Open::begin(&self.journal, name) {
                Ok(next) => self.open = Some(next),
                // Deleted in between: what is there is looked for anew.
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.open = None,
                Err(error) => return Err(error),
            },
            None => self.open = None,
        }
        Ok(Found::Again)
    }

    fn find(&mut self) -> io::Result<bool> {
        // Once more where the segment was deleted between the two looks.
        for last in [false, true] {
            let names = files::segments(&self.journal, false)?;
            let begins_by = |name: &&String| segment_name(name).is_some_and(|(first, _)| first <= self.next);
            let Some(name) = names.iter().rev().find(begins_by).or_else(|| names.first()) else { return Ok(false) };
            match Open::begin(&self.journal, name.clone()) {
                Ok(open) => {
                    self.open = Some(open);
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && !last => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

impl Open {
    fn begin(journal: &Path, name: String) -> io::Result<Open> {
        let file = File::open(journal.join(&name))?;
        Ok(Open { name, lines: Lines::new(BufReader::with_capacity(128 * 1024, file)), closed: false })
    }
}

fn later(journal: &Path, name: &str) -> io::Result<Option<String>> {
    Ok(files::segments(journal, false)?.into_iter().find(|other| other.as_str() > name))
}

/// The newest signed tree head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Records that it covers.
    pub size: u64,
    /// Base64, as in the note.
    pub root: String,
}

/// The newest tree head of the trail; `None` where none was signed yet. Source: C2SP tlog-checkpoint, the note's first three lines.
pub fn newest_head(dir: &Path) -> Option<Head> {
    let note = std::fs::read_to_string(dir.join("checkpoints/latest")).ok()?;
    let mut lines = note.lines().skip(1);
    Some(Head { size: lines.next()?.parse().ok()?, root: lines.next()?.to_owned() })
}

/// The line that says that a reader is still served though there is nothing new: `{"hsmBridgeHeartbeat":{…}}`, which no record
/// begins with. `next`: seq of the record that the reader gets next; `durable`: records of the trail.
pub fn heartbeat(dir: &Path, next: u64, durable: u64, now_ms: i64) -> String {
    let head = newest_head(dir);
    let oldest = Follower::new(dir, 0).oldest().ok().flatten();
    let time = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(now_ms) * 1_000_000)
        .ok()
        .and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok());
    serde_json::json!({"hsmBridgeHeartbeat": {
        "time": time,
        "nextSeq": next,
        "durableRecords": durable,
        "oldestSeq": oldest,
        "lastCheckpoint": head.map(|head| serde_json::json!({"size": head.size, "root": head.root})),
    }})
    .to_string()
}

#[cfg(test)]
mod tests;
