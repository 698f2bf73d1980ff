//! Where an export's lines come from: the journal, and sealed log files for what the journal no longer has.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::record::{Record, micros};
use crate::audit::files;
use crate::audit::verify::line::segment_name;
use crate::audit::verify::lines::{Lines, Next};
use crate::audit::verify::tree::{Frontier, Hash};

/// A clock that is set back makes later records look older, by this much at most.
const SLACK: i64 = 86_400_000_000;
/// No log file of ours is larger when unpacked.
const LARGEST: u64 = 256 << 20;

/// Where the journal is read from.
pub struct Beginning {
    pub seq: u64,
    /// The tree before it; none where the journal does not say.
    pub tree: Option<Frontier>,
    /// What lies before is not in the journal any more.
    pub oldest: bool,
}

/// The newest segment that begins well before `from` (microseconds since the epoch), or the oldest. None: there is no journal.
pub fn beginning(dir: &Path, from: Option<i64>) -> io::Result<Option<Beginning>> {
    let journal = dir.join("journal");
    let names = files::segments(&journal, false)?;
    for (place, name) in names.iter().enumerate().rev() {
        let Some((seq, _)) = segment_name(name) else { continue };
        let oldest = place == 0;
        let (written, tree) = first_line(&journal.join(name), seq)?;
        let early = from.is_some_and(|from| written.is_some_and(|written| written < from.saturating_sub(SLACK)));
        if oldest || early && tree.is_some() {
            return Ok(Some(Beginning { seq, tree, oldest }));
        }
    }
    Ok(None)
}

/// When a segment's first record was written, and the tree before it.
fn first_line(path: &Path, seq: u64) -> io::Result<(Option<i64>, Option<Frontier>)> {
    let mut lines = Lines::new(BufReader::new(File::open(path)?));
    let Next::Line(line) = lines.next()? else { return Ok((None, None)) };
    let Ok(record) = Record::parse(line) else { return Ok((None, None)) };
    let start: Option<Start> = serde_json::from_str(record.additional_event_data.get()).ok();
    let tree = match seq {
        0 => Some(Frontier::default()),
        _ => start.and_then(|start| start.details.tree()).filter(|tree| tree.size() == seq),
    };
    Ok((micros(&record.additional.audit.time), tree))
}

#[derive(Deserialize)]
struct Start {
    details: Details,
}

/// Members of a `SegmentStart`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    tree_size: Option<u64>,
    tree_peaks: Option<Vec<String>>,
}

impl Details {
    fn tree(&self) -> Option<Frontier> {
        let peaks = self.tree_peaks.as_ref()?.iter().map(|peak| hex::decode(peak).ok()?.try_into().ok());
        Frontier::from_parts(self.tree_size?, peaks.collect::<Option<Vec<Hash>>>()?)
    }
}

/// Sealed log files that may hold records written at `from` or later, oldest first.
pub fn sealed(dir: &Path, from: Option<i64>) -> io::Result<Vec<PathBuf>> {
    let mut found = objects(&dir.join("bucket"), "CloudTrail")?;
    // A file's time is when it was sealed: after all of its records.
    found.retain(|(time, _)| from.is_none_or(|from| time.saturating_add(60_000_000 + SLACK) >= from));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Objects below a folder of this name (`CloudTrail`, `CloudTrail-Digest`), with the time in their names, oldest first.
pub fn objects(bucket: &Path, kind: &str) -> io::Result<Vec<(i64, PathBuf)>> {
    let mut found = Vec::new();
    let mut folders = vec![(bucket.to_owned(), false)];
    while let Some((folder, inside)) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() {
                folders.push((entry.path(), inside || name == kind));
            } else if inside && let Some(time) = object_time(&name) {
                found.push((time, entry.path()));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// `…_20260304T0920Z_….json.gz` and `…_20260304T092000Z.json.gz`.
fn object_time(name: &str) -> Option<i64> {
    let time = name
        .strip_suffix(".json.gz")?
        .split('_')
        .rev()
        .take(2)
        .find(|part| part.ends_with('Z') && part.contains('T'))?;
    let (date, clock) = time.trim_end_matches('Z').split_once('T')?;
    let part = |text: &str, from: usize| text.get(from..from + 2).map(str::to_owned);
    let year = date.get(..4)?;
    let (month, day) = (part(date, 4)?, part(date, 6)?);
    let (hour, minute, second) = (part(clock, 0)?, part(clock, 2)?, part(clock, 4).unwrap_or("00".to_owned()));
    micros(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z"))
}

/// The lines of a log file as they stand in it.
pub fn unpacked(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = MultiGzDecoder::new(BufReader::new(File::open(path)?)).take(LARGEST + 1).read_to_end(&mut bytes)?;
    if read as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("`{}` is too large", path.display())));
    }
    Ok(bytes)
}

pub fn lines(unpacked: &[u8]) -> io::Result<Vec<&RawValue>> {
    #[derive(Deserialize)]
    struct LogFile<'a> {
        #[serde(borrow, rename = "Records")]
        records: Vec<&'a RawValue>,
    }
    let file: LogFile<'_> = serde_json::from_slice(unpacked)?;
    Ok(file.records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_objects() {
        let second = micros("2026-03-04T09:20:05Z");
        let minute = micros("2026-03-04T09:20:00Z");
        assert_eq!(object_time("1_CloudTrail_eu-central-1_20260304T0920Z_ABCDEFGH23456722.json.gz"), minute);
        assert_eq!(object_time("1_CloudTrail-Digest_eu_hsm-bridge_eu_20260304T092005Z.json.gz"), second);
        assert_eq!(object_time("result_1.csv.gz"), None);
        assert_eq!(object_time("x_T_Z.json.gz"), None);
    }
}
