//! State snapshots beside the journal: `<dir>/snapshots/<seq:020>.json.gz`, each named by a `StateSnapshot` record with its
//! SHA-256. Knows nothing of what is in them but where their `time` stands. Source: audit.md §5.2.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use super::files;

const FOLDER: &str = "snapshots";
/// Bytes of a snapshot at most, so that a file that somebody put there cannot fill the memory.
const LONGEST: u64 = 2 << 30;

/// One snapshot as its record names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// `snapshots/<seq>.json.gz`
    pub object: String,
    /// Of the file.
    pub sha256: String,
    pub bytes: u64,
}

/// Writes a snapshot: all records below `seq` are in it. It appears under its name only when it is on stable storage.
pub fn write(dir: &Path, seq: u64, json: &[u8]) -> io::Result<Written> {
    // Without a time in its header: the same state gives the same bytes.
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(json)?;
    let packed = packed.finish()?;
    let name = format!("{seq:020}.json.gz");
    files::place(&dir.join(FOLDER), &name, &packed)?;
    Ok(Written {
        object: format!("{FOLDER}/{name}"),
        sha256: hex::encode(digest::digest(&digest::SHA256, &packed)),
        bytes: packed.len() as u64,
    })
}

/// Those that are here: `(seq, path)`, oldest first.
pub fn list(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let folder = dir.join(FOLDER);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let seq = name.strip_suffix(".json.gz").filter(|seq| seq.len() == 20).and_then(|seq| seq.parse().ok());
        if let Some(seq) = seq {
            found.push((seq, folder.join(&name)));
        }
    }
    found.sort();
    Ok(found)
}

/// A snapshot's JSON with the SHA-256 of its file.
pub fn read(path: &Path) -> io::Result<(Vec<u8>, String)> {
    let packed = std::fs::read(path)?;
    let sha256 = hex::encode(digest::digest(&digest::SHA256, &packed));
    let mut json = Vec::new();
    let read = GzDecoder::new(packed.as_slice()).take(LONGEST + 1).read_to_end(&mut json)?;
    if read as u64 > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the snapshot is longer than any"));
    }
    Ok((json, sha256))
}

/// When a snapshot was made, milliseconds since the epoch: from its first bytes.
pub fn time_of(path: &Path) -> io::Result<i64> {
    let mut head = [0; 128];
    let mut packed = GzDecoder::new(File::open(path)?);
    let mut have = 0;
    while let Some(rest) = head.get_mut(have..).filter(|rest| !rest.is_empty()) {
        match packed.read(rest)? {
            0 => break,
            read => have += read,
        }
    }
    let text = String::from_utf8_lossy(head.get(..have).unwrap_or_default()).into_owned();
    let digits = text.split_once("\"time\":").map(|(_, rest)| rest);
    let digits = digits.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the snapshot does not say when it was made"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_listed_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(list(dir.path()).unwrap(), []);
        let json = br#"{"format":1,"time":1700000000123,"keys":{}}"#;
        let later = write(dir.path(), 12, json).unwrap();
        write(dir.path(), 3, json).unwrap();
        std::fs::write(dir.path().join("snapshots/x.json.gz"), b"").unwrap();
        let found = list(dir.path()).unwrap();
        assert_eq!(found.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [3, 12]);
        let (back, sha256) = read(&found[1].1).unwrap();
        assert_eq!((back.as_slice(), &sha256), (&json[..], &later.sha256));
        assert_eq!(time_of(&found[0].1).unwrap(), 1_700_000_000_123);
        assert_eq!(later.object, "snapshots/00000000000000000012.json.gz");
    }
}
