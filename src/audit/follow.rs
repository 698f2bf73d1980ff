//! Reads the journal's lines in their order, from any seq on, as it grows: for streams, sinks and indexes. From the files
//! alone, so that a slow reader slows nobody. Blocking.

use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::files;
use super::verify::line::{Line, segment_name};
use super::verify::lines::{Lines, Next};

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    pub seq: u64,
    /// Without its newline, byte for byte.
    pub line: Vec<u8>,
}

/// A place in the journal that moves on.
pub struct Follower {
    journal: PathBuf,
    next: u64,
    open: Option<Open>,
}

struct Open {
    name: String,
    lines: Lines<BufReader<File>>,
}

impl Follower {
    /// `dir`: the trail's directory. The first line will be that of record `from`, or the oldest that is still there.
    pub fn new(dir: &Path, from: u64) -> Follower {
        Follower { journal: dir.join("journal"), next: from, open: None }
    }

    /// Seq of the line that comes next.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// The next line whose seq is below `durable` (`Journal::durable`: what is not on stable storage is nobody's to read); `None` where
    /// there is none yet. `NotFound`: the journal, or the segment at this place, is gone (see `oldest`).
    pub fn next(&mut self, durable: u64) -> io::Result<Option<Followed>> {
        while self.next < durable {
            if self.open.is_none() && !self.find()? {
                return Ok(None);
            }
            let Some(open) = &mut self.open else { return Ok(None) };
            match open.lines.next()? {
                Next::Line(bytes) => {
                    let Ok(line) = Line::parse(bytes) else {
                        return Err(io::Error::new(
                            io::ErrorKind::InvalidData,
                            "a line of the journal is not a record",
                        ));
                    };
                    let seq = line.place().seq;
                    if seq < self.next {
                        continue;
                    }
                    self.next = seq + 1;
                    return Ok(Some(Followed { seq, line: bytes.to_vec() }));
                }
                Next::Partial(_) => {
                    open.lines.again()?;
                    return Ok(None);
                }
                Next::TooLong => return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long")),
                Next::End => {
                    // The next segment, if there is one: this one is complete then.
                    let name = open.name.clone();
                    let later = files::segments(&self.journal, false)?.into_iter().find(|other| *other > name);
                    let Some(later) = later else { return Ok(None) };
                    // What came between the last read and the new segment.
                    if let Next::Line(_) = open.lines.next()? {
                        open.lines.again()?;
                        self.open = None;
                        continue;
                    }
                    self.open = Some(Self::begin(&self.journal, later)?);
                }
            }
        }
        Ok(None)
    }

    /// Seq of the oldest record that is still in the journal.
    pub fn oldest(&self) -> io::Result<Option<u64>> {
        Ok(files::segments(&self.journal, false)?.first().and_then(|name| segment_name(name)).map(|(seq, _)| seq))
    }

    fn find(&mut self) -> io::Result<bool> {
        let names = files::segments(&self.journal, false)?;
        let begins_by = |name: &&String| segment_name(name).is_some_and(|(first, _)| first <= self.next);
        let Some(name) = names.iter().rev().find(begins_by).or_else(|| names.first()) else { return Ok(false) };
        self.open = Some(Self::begin(&self.journal, name.clone())?);
        Ok(true)
    }

    fn begin(journal: &Path, name: String) -> io::Result<Open> {
        let mut file = File::open(journal.join(&name))?;
        file.seek(SeekFrom::Start(0))?;
        Ok(Open { name, lines: Lines::new(BufReader::with_capacity(128 * 1024, file)) })
    }
}
