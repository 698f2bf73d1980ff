//! The only file here that creates, renames and syncs files beside SQLite's own: a database appears under its final name
//! whole and on stable storage, or not at all.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tokio_rusqlite::rusqlite::{self, Connection};

use super::StoreError;
use super::seal::random;

/// Writes a consistent copy of `from` to `to` (0600), which must not exist. It gets that name once `check` accepted the
/// written file. Returns its size.
pub fn write_copy(
    from: &Connection,
    to: &Path,
    check: impl FnOnce(&Path) -> Result<(), StoreError>,
) -> Result<u64, StoreError> {
    if to.symlink_metadata().is_ok() {
        return Err(exists(to));
    }
    let staging = staging_path(to)?;
    let staged = Staged(&staging);
    let failed = |e: io::Error| StoreError::Io(format!("cannot write `{}`: {e}", to.display()));

    // SQLite takes an empty file as a new database, and keeps its mode.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staging).map_err(failed)?;
    let name = staging.to_str().ok_or_else(|| failed(io::Error::other("the path is not UTF-8")))?;
    from.execute("VACUUM INTO ?1", rusqlite::params![name])
        .map_err(|e| StoreError::Io(format!("cannot write `{}`: {e}", to.display())))?;
    file.sync_all().map_err(failed)?;
    check(&staging)?;
    let bytes = file.metadata().map_err(failed)?.len();
    rename_new(&staged, to)?;
    File::open(parent(to)).and_then(|dir| dir.sync_all()).map_err(failed)?;
    Ok(bytes)
}

/// Refuses a place where a database, or the log of a lost one, lies: SQLite would replay that log into a new database.
pub fn require_vacant(database: &Path) -> Result<(), StoreError> {
    if database.symlink_metadata().is_ok() {
        return Err(StoreError::Exists(database.to_owned()));
    }
    for suffix in ["-wal", "-shm", "-journal"] {
        let mut name = database.as_os_str().to_owned();
        name.push(suffix);
        let beside = PathBuf::from(name);
        if beside.symlink_metadata().is_ok() {
            let text = format!("`{}` lies there without its database: move it away first", beside.display());
            return Err(StoreError::Io(text));
        }
    }
    Ok(())
}

/// Removes the staged file if it was not renamed.
struct Staged<'a>(&'a Path);

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

fn rename_new(staged: &Staged<'_>, to: &Path) -> Result<(), StoreError> {
    let failed = |e: io::Error| StoreError::Io(format!("cannot write `{}`: {e}", to.display()));
    match renameat_with(CWD, staged.0, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(exists(to)),
        // Some network file systems cannot refuse to replace; there the look beforehand has to do.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => std::fs::rename(staged.0, to).map_err(failed),
        Err(e) => Err(failed(e.into())),
    }
}

/// Beside the target, random: two copies to one place at a time must not write into one file.
fn staging_path(to: &Path) -> Result<PathBuf, StoreError> {
    let name = to.file_name().ok_or_else(|| StoreError::Io(format!("`{}` names no file", to.display())))?;
    let mut staging = std::ffi::OsString::from(".");
    staging.push(name);
    staging.push(format!(".{}.part", hex::encode(random::<8>()?)));
    Ok(parent(to).join(staging))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

fn exists(path: &Path) -> StoreError {
    StoreError::Io(format!("`{}` exists already", path.display()))
}
