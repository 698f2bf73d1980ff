//! Reading sealed objects again.

use std::io;
use std::path::Path;

use super::logfile;
use super::names::{self, Kind};
use crate::audit::verify::line::Line;

/// Names of all log files and digests below `root`, oldest first; log files before the digest of the same time.
pub fn objects(root: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(root.join(&folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let object = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if entry.file_type()?.is_dir() {
                folders.push(object);
            } else if names::parse(&object).is_some() {
                found.push(object);
            }
        }
    }
    found.sort_by_cached_key(|object| {
        let (time, kind) = names::parse(object).map_or((String::new(), Kind::Log), |n| (n.time.to_owned(), n.kind));
        (time, kind, object.clone())
    });
    Ok(found)
}

/// An object's bytes without its compression.
pub fn unpacked(root: &Path, object: &str) -> io::Result<Vec<u8>> {
    logfile::gunzip(&std::fs::read(root.join(object))?)
}

/// Hands out the sealed records with a seq from `from` on and below `below`, file by file: for readers that need what the
/// journal no longer has. Records come in their order within a file; the files in the order of their minutes.
pub fn records(dir: &Path, from: u64, below: u64, mut each: impl FnMut(u64, &[u8])) -> io::Result<()> {
    let root = dir.join("bucket");
    for object in objects(&root)? {
        if names::parse(&object).is_none_or(|name| name.kind != Kind::Log) {
            continue;
        }
        let bytes = unpacked(&root, &object)?;
        for line in logfile::lines(&bytes)? {
            let Ok(record) = Line::parse(line) else { continue };
            let seq = record.place().seq;
            if (from..below).contains(&seq) {
                each(seq, line);
            }
        }
    }
    Ok(())
}
