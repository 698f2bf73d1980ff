//! How far a sink is, on disk. Written after an acknowledgement; a cursor that is behind costs repetitions, and one that is ahead
//! would cost records, so it is never written early.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

#[derive(Debug)]
pub(super) struct Cursor {
    path: PathBuf,
    trail: String,
    /// Seq of the first record that is not acknowledged; `None`: nothing ever was.
    pub next: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    version: u32,
    /// A cursor counts in its own trail alone.
    trail: String,
    next_seq: u64,
}

impl Cursor {
    /// `trail`: its ARN.
    pub fn open(dir: &Path, name: &str, trail: &str) -> io::Result<Cursor> {
        if !dir.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let next = Cursor::read(dir, name, trail)?;
        Ok(Cursor { path: path(dir, name), trail: trail.to_owned(), next })
    }

    /// Changes nothing. `None`: nothing ever was acknowledged.
    pub fn read(dir: &Path, name: &str, trail: &str) -> io::Result<Option<u64>> {
        let path = path(dir, name);
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("`{}` {what}", path.display()));
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let written: Written = serde_json::from_str(&text).map_err(|e| bad(&format!("is no cursor: {e}")))?;
                if written.version != 1 {
                    return Err(bad("is of another version"));
                }
                if written.trail != trail {
                    return Err(bad(&format!("is of the trail `{}`: move it away to begin anew", written.trail)));
                }
                Ok(Some(written.next_seq))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn save(&mut self, next: u64) -> io::Result<()> {
        if self.next == Some(next) {
            return Ok(());
        }
        let written = Written { version: 1, trail: self.trail.clone(), next_seq: next };
        let fresh = self.path.with_extension("cursor.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        serde_json::to_writer(&mut file, &written)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.path)?;
        if let Some(dir) = self.path.parent() {
            File::open(dir)?.sync_all()?;
        }
        self.next = Some(next);
        Ok(())
    }
}

fn path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.cursor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_kept_for_its_trail() {
        let dir = tempfile::tempdir().unwrap();
        let sinks = dir.path().join("sinks");
        let mut cursor = Cursor::open(&sinks, "siem", "arn:trail").unwrap();
        assert_eq!(cursor.next, None);
        for next in [0, 7, 7, 12] {
            cursor.save(next).unwrap();
            assert_eq!(Cursor::open(&sinks, "siem", "arn:trail").unwrap().next, Some(next));
        }
        assert_eq!(Cursor::open(&sinks, "other", "arn:trail").unwrap().next, None);
        assert_eq!(Cursor::read(&sinks, "siem", "arn:trail").unwrap(), Some(12));
        let absent = dir.path().join("absent");
        assert_eq!((Cursor::read(&absent, "siem", "arn:trail").unwrap(), absent.exists()), (None, false));
        let refused = Cursor::open(&sinks, "siem", "arn:another").unwrap_err();
        assert!(refused.to_string().contains("arn:trail"), "{refused}");
        let path = sinks.join("siem.cursor");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"version\":1,\"trail\":\"arn:trail\",\"nextSeq\":12}\n");
        for damaged in [
            "",
            "{}",
            "{\"version\":2,\"trail\":\"arn:trail\",\"nextSeq\":1}",
            "{\"version\":1,\"trail\":\"arn:trail\",\"nextSeq\":-1}",
        ] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(
                Cursor::open(&sinks, "siem", "arn:trail").unwrap_err().kind(),
                io::ErrorKind::InvalidData,
                "{damaged}"
            );
        }
    }

    #[test]
    fn half_a_write_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut cursor = Cursor::open(dir.path(), "siem", "arn").unwrap();
        cursor.save(5).unwrap();
        std::fs::write(dir.path().join("siem.cursor.new"), "{\"ver").unwrap();
        let mut cursor = Cursor::open(dir.path(), "siem", "arn").unwrap();
        assert_eq!(cursor.next, Some(5));
        cursor.save(6).unwrap();
        assert_eq!(Cursor::open(dir.path(), "siem", "arn").unwrap().next, Some(6));
    }
}
