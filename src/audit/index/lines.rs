//! From a place to a record's line: from the journal, or, where its segment was pruned, from the sealed file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_rusqlite::rusqlite::{Connection, OptionalExtension, params};

use super::terms::Seen;
use super::{IndexError, Place};
use crate::audit::files;
use crate::audit::verify::line::segment_name;
use crate::audit::verify::lines::MAX_LINE;

/// A sealed file holds some 32 MiB of lines; more than this is none of ours.
const LARGEST: u64 = 256 * 1024 * 1024;

/// An open sealed file: its object, and its lines by seq.
type SealedLines = (String, Vec<(u64, Vec<u8>)>);

pub(super) struct LogLines {
    dir: PathBuf,
    segments: Option<Vec<String>>,
    /// Pages are of neighbours: one open segment and one open sealed file are enough.
    segment: Option<(u64, BufReader<File>)>,
    sealed: Option<SealedLines>,
}

impl LogLines {
    pub fn new(dir: &Path) -> LogLines {
        LogLines { dir: dir.to_owned(), segments: None, segment: None, sealed: None }
    }

    /// `None`: it is not there any more.
    pub fn read(&mut self, place: Place, sql: &Connection) -> Result<Option<Vec<u8>>, IndexError> {
        if let Some((segment, offset)) = place.journal
            && let Some(line) = self.of_journal(segment, offset)?
            && Seen::of(&line).is_some_and(|seen| seen.seq() == place.seq)
        {
            return Ok(Some(line));
        }
        let seq = i64::try_from(place.seq).unwrap_or(i64::MAX);
        let object: Option<String> = sql
            .prepare_cached("SELECT object, last FROM sealed WHERE first <= ?1 ORDER BY first DESC LIMIT 1")?
            .query_row(params![seq], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))
            .optional()?
            .filter(|(_, last)| *last >= seq)
            .map(|(object, _)| object);
        let Some(object) = object else { return Ok(None) };
        if self.sealed.as_ref().is_none_or(|(known, _)| *known != object) {
            let lines = match sealed_lines(&self.dir.join("bucket").join(&object)) {
                Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
                lines => lines?,
            };
            self.sealed = Some((object, lines));
        }
        let lines = self.sealed.iter().flat_map(|(_, lines)| lines);
        Ok(lines.into_iter().find(|(seq, _)| *seq == place.seq).map(|(_, line)| line.clone()))
    }

    fn of_journal(&mut self, segment: u64, offset: u64) -> io::Result<Option<Vec<u8>>> {
        if self.segment.as_ref().is_none_or(|(open, _)| *open != segment) {
            let journal = self.dir.join("journal");
            if self.segments.is_none() {
                self.segments = Some(files::segments(&journal, false)?);
            }
            let begins = |name: &&String| segment_name(name).is_some_and(|(first, _)| first == segment);
            let Some(name) = self.segments.iter().flatten().find(begins) else { return Ok(None) };
            match File::open(journal.join(name)) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                file => self.segment = Some((segment, BufReader::new(file?))),
            }
        }
        let Some((_, reader)) = &mut self.segment else { return Ok(None) };
        reader.seek(SeekFrom::Start(offset))?;
        let mut line = Vec::new();
        reader.take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line)?;
        Ok((line.pop() == Some(b'\n')).then_some(line))
    }
}

/// `{"Records":[…]}` gives the lines as they are, with their seqs.
pub(super) fn sealed_lines(path: &Path) -> io::Result<Vec<(u64, Vec<u8>)>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Sealed<'a> {
        #[serde(borrow)]
        records: Vec<&'a RawValue>,
    }
    let mut text = String::new();
    GzDecoder::new(BufReader::new(File::open(path)?)).take(LARGEST).read_to_string(&mut text)?;
    let sealed: Sealed<'_> = serde_json::from_str(&text)?;
    let line = |raw: &&RawValue| {
        let line = raw.get().as_bytes();
        Seen::of(line).map(|seen| (seen.seq(), line.to_vec()))
    };
    Ok(sealed.records.iter().filter_map(line).collect())
}
