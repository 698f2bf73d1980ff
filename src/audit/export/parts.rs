//! Files of an export as they are written: compressed, hashed as they are stored, and split before they get too large.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use super::result_sign::Listed;

/// A finished file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    pub name: String,
    pub bytes: u64,
    pub sha256: String,
    /// Of files with one row per record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
}

impl Part {
    pub fn listed(&self) -> Listed<'_> {
        Listed { name: &self.name, sha256: &self.sha256 }
    }
}

/// A new file below `dir`, hashed while it is written. Never one that is there already.
pub struct Hashed {
    file: io::BufWriter<File>,
    hash: digest::Context,
    bytes: u64,
}

impl Hashed {
    pub fn create(path: &Path) -> io::Result<Hashed> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(path)?;
        Ok(Hashed { file: io::BufWriter::new(file), hash: digest::Context::new(&digest::SHA256), bytes: 0 })
    }

    pub fn finish(self, name: &str, rows: Option<u64>) -> io::Result<Part> {
        self.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        Ok(Part { name: name.to_owned(), bytes: self.bytes, sha256: hex::encode(self.hash.finish()), rows })
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// One whole file.
pub fn write(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<Part> {
    let mut file = Hashed::create(&dir.join(name))?;
    file.write_all(bytes)?;
    file.finish(name, None)
}

/// Rows in numbered files of at most about `limit` bytes before compression.
pub struct Rows {
    dir: PathBuf,
    /// Of the number: `result_` and `.csv.gz`.
    suffix: &'static str,
    numbered: bool,
    around: Around,
    limit: u64,
    open: Option<Open>,
    done: Vec<Part>,
}

struct Open {
    name: String,
    gzip: GzEncoder<Hashed>,
    bytes: u64,
    rows: u64,
}

/// What stands before, between and after the rows of a file.
#[derive(Debug, Clone, Default)]
pub struct Around {
    pub before: Vec<u8>,
    pub between: &'static [u8],
    pub after: &'static [u8],
}

impl Rows {
    pub fn numbered(dir: &Path, suffix: &'static str, around: Around, limit: u64) -> Rows {
        Rows { dir: dir.to_owned(), suffix, numbered: true, around, limit, open: None, done: Vec::new() }
    }

    pub fn single(dir: &Path, name: &'static str) -> Rows {
        let around = Around::default();
        Rows {
            dir: dir.to_owned(),
            suffix: name,
            numbered: false,
            around,
            limit: u64::MAX,
            open: None,
            done: Vec::new(),
        }
    }

    pub fn row(&mut self, row: &[u8]) -> io::Result<()> {
        let full = self.open.as_ref().is_some_and(|open| open.bytes >= self.limit);
        if full {
            self.close()?;
        }
        self.begin()?;
        let Some(open) = &mut self.open else { return Ok(()) };
        if open.rows > 0 {
            open.gzip.write_all(self.around.between)?;
        }
        open.gzip.write_all(row)?;
        open.rows += 1;
        open.bytes += row.len() as u64;
        Ok(())
    }

    /// The files; one without rows where there are none.
    pub fn finish(mut self) -> io::Result<Vec<Part>> {
        if self.done.is_empty() {
            self.begin()?;
        }
        self.close()?;
        Ok(self.done)
    }

    fn begin(&mut self) -> io::Result<()> {
        if self.open.is_some() {
            return Ok(());
        }
        let name = match self.numbered {
            true => format!("result_{}{}", self.done.len() + 1, self.suffix),
            false => self.suffix.to_owned(),
        };
        let mut gzip = GzEncoder::new(Hashed::create(&self.dir.join(&name))?, Compression::default());
        gzip.write_all(&self.around.before)?;
        self.open = Some(Open { name, gzip, bytes: 0, rows: 0 });
        Ok(())
    }

    fn close(&mut self) -> io::Result<()> {
        if let Some(mut open) = self.open.take() {
            open.gzip.write_all(self.around.after)?;
            self.done.push(open.gzip.finish()?.finish(&open.name, Some(open.rows))?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn rows_are_split_and_hashed_as_stored() {
        let dir = tempfile::tempdir().unwrap();
        let around = Around { before: b"[".to_vec(), between: b",", after: b"]" };
        let mut rows = Rows::numbered(dir.path(), ".json.gz", around.clone(), 3);
        for row in [b"11", b"22", b"33"] {
            rows.row(row).unwrap();
        }
        let parts = rows.finish().unwrap();
        let mut texts = Vec::new();
        for part in &parts {
            let stored = std::fs::read(dir.path().join(&part.name)).unwrap();
            assert_eq!(part.sha256, hex::encode(digest::digest(&digest::SHA256, &stored)));
            let mut text = String::new();
            flate2::read::GzDecoder::new(&stored[..]).read_to_string(&mut text).unwrap();
            texts.push((part.name.as_str(), text, part.rows));
        }
        let expected = [("result_1.json.gz", "[11,22]".into(), Some(2)), ("result_2.json.gz", "[33]".into(), Some(1))];
        assert_eq!(texts, expected);
        // Without rows there is one file still, and nothing is written over.
        let again = Rows::numbered(dir.path(), ".json.gz", around.clone(), 3).finish();
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let empty = Rows::numbered(dir.path(), ".empty.gz", around, 3).finish().unwrap();
        assert_eq!(empty.len(), 1);
    }
}
