//! The lock of a state directory: one process per store.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{StoreError, database_path};

/// The held lock; released on drop.
///
/// The file stays when the lock goes: a lock on a removed file would let a second process lock a new one of that name.
#[derive(Debug)]
pub struct StoreLock {
    _file: File,
    database: PathBuf,
}

impl StoreLock {
    /// Takes the lock without waiting. The state directory must exist; `store` in it is made (0700) if missing.
    pub(super) fn take(state_dir: &Path) -> Result<StoreLock, StoreError> {
        let database = database_path(state_dir);
        let dir = state_dir.join("store");
        make_private_dir(&dir).map_err(|e| StoreError::Io(format!("cannot prepare `{}`: {e}", dir.display())))?;

        let path = dir.join("LOCK");
        let failed = |e: std::io::Error| StoreError::Io(format!("cannot lock `{}`: {e}", path.display()));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked { pid: holder(&mut file), path }),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        file.set_len(0).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(StoreLock { _file: file, database })
    }

    /// The database that this lock guards.
    pub(super) fn database(&self) -> &Path {
        &self.database
    }
}

/// The pid that the holder wrote; between its lock and its write there is none.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(32).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

fn make_private_dir(dir: &Path) -> std::io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => File::open(dir.parent().unwrap_or(Path::new("/")))?.sync_all(),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            if std::fs::metadata(dir)?.permissions().mode() & 0o077 != 0 {
                std::fs::set_permissions(dir, Permissions::from_mode(0o700))?;
            }
            Ok(())
        }
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_names_the_holder() {
        let state = tempfile::tempdir().unwrap();
        let held = StoreLock::take(state.path()).unwrap();
        match StoreLock::take(state.path()) {
            Err(StoreError::Locked { path, pid }) => {
                assert_eq!(pid, std::process::id().to_string());
                assert_eq!(path, state.path().join("store/LOCK"));
            }
            other => panic!("{other:?}"),
        }
        drop(held);
        StoreLock::take(state.path()).unwrap();
    }

    #[test]
    fn directory_and_file_are_private() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("store");
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        let _held = StoreLock::take(state.path()).unwrap();
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::metadata(dir.join("LOCK")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_missing_state_directory_is_not_made() {
        let state = tempfile::tempdir().unwrap();
        assert!(matches!(StoreLock::take(&state.path().join("typo")), Err(StoreError::Io(_))));
        assert!(!state.path().join("typo").exists());
    }
}
