//! To be loaded before a program's own libraries (LD_PRELOAD): notes what the program has made durable below one directory, so that a
//! test can rebuild the disk as a power cut would leave it, and makes a sync fail. Knows nothing of the program.
//!
//!     DISK_FAULTS_DIR      the directory that is watched; without it nothing is done
//!     DISK_FAULTS_LOG      where is noted, one line each:
//!                              sync INODE SIZE            fsync or fdatasync of a file returned; SIZE: its length when it was called
//!                              entries INODE NAME=INODE/…  fsync of a directory (INODE) returned; its entries when it was called
//!     DISK_FAULTS_GRAVES   files that a rename or unlink would end are linked here, by inode
//!     DISK_FAULTS_EIO      a file; while it exists, fsync and fdatasync of watched files fail with EIO
//!
//! A sync counts with what was there when it was called: what others wrote meanwhile may or may not be durable.

use std::ffi::{CStr, CString, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

struct Watch {
    dir: PathBuf,
    graves: PathBuf,
    eio: PathBuf,
    log: c_int,
}

fn watch() -> Option<&'static Watch> {
    static WATCH: OnceLock<Option<Watch>> = OnceLock::new();
    WATCH
        .get_or_init(|| {
            let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
            let log = CString::new(path("DISK_FAULTS_LOG")?.as_os_str().as_bytes()).ok()?;
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
            // SAFETY: `log` is a C string that outlives the call.
            let log = unsafe { libc::open(log.as_ptr(), flags, 0o600) };
            Some(Watch {
                dir: path("DISK_FAULTS_DIR")?,
                graves: path("DISK_FAULTS_GRAVES")?,
                eio: path("DISK_FAULTS_EIO")?,
                log,
            })
        })
        .as_ref()
}

impl Watch {
    fn path_of(&self, file: c_int) -> Option<PathBuf> {
        let path = std::fs::read_link(format!("/proc/self/fd/{file}")).ok()?;
        path.starts_with(&self.dir).then_some(path)
    }

    /// One write of one line: whole, or not there.
    fn note(&self, line: &str) {
        // SAFETY: the pointer and length are those of `line`; the system call itself, for the function is ours to replace.
        unsafe { libc::syscall(libc::SYS_write, self.log, line.as_ptr(), line.len()) };
    }

    /// Keeps the file at `path`, which is about to lose its name.
    fn bury(&self, path: &Path) {
        if path.starts_with(&self.dir)
            && let Ok(facts) = std::fs::symlink_metadata(path)
            && facts.is_file()
        {
            let _ = std::fs::hard_link(path, self.graves.join(facts.ino().to_string()));
        }
    }
}

/// What a sync of this file will make durable.
fn about_to_sync(file: c_int) -> Option<String> {
    let watch = watch()?;
    let path = watch.path_of(file)?;
    let facts = std::fs::symlink_metadata(&path).ok();
    // SAFETY: a zeroed `stat` is a valid value; `fstat` fills it.
    let mut now: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `now` is ours and as large as the call expects.
    if unsafe { libc::fstat(file, &mut now) } != 0 {
        return None;
    }
    if facts.is_some_and(|facts| facts.is_dir()) {
        let entries = std::fs::read_dir(&path).ok()?.filter_map(Result::ok);
        let list: Vec<String> =
            entries.map(|entry| format!("{}={}", entry.file_name().to_string_lossy(), entry.ino())).collect();
        return Some(format!("entries {} {}\n", now.st_ino, list.join("/")));
    }
    Some(format!("sync {} {}\n", now.st_ino, now.st_size))
}

fn sync(file: c_int, real: impl FnOnce() -> c_int) -> c_int {
    let Some(line) = about_to_sync(file) else {
        return real();
    };
    if let Some(watch) = watch() {
        if watch.eio.exists() {
            // SAFETY: the location is this thread's errno.
            unsafe { *libc::__errno_location() = libc::EIO };
            return -1;
        }
        let done = real();
        if done == 0 {
            watch.note(&line);
        }
        return done;
    }
    real()
}

#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(file: c_int) -> c_int {
    // SAFETY: the system call behind the function of the same name.
    sync(file, || unsafe { libc::syscall(libc::SYS_fdatasync, file) as c_int })
}

#[unsafe(no_mangle)]
pub extern "C" fn fsync(file: c_int) -> c_int {
    // SAFETY: as above.
    sync(file, || unsafe { libc::syscall(libc::SYS_fsync, file) as c_int })
}

/// # Safety
/// Both are C strings, as of rename(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    if let Some(watch) = watch() {
        // SAFETY: the caller's promise.
        watch.bury(Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(to) }.to_bytes())));
    }
    // SAFETY: the caller's promise, passed on.
    unsafe { libc::syscall(libc::SYS_renameat, libc::AT_FDCWD, from, libc::AT_FDCWD, to) as c_int }
}

/// # Safety
/// A C string, as of unlink(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    if let Some(watch) = watch() {
        // SAFETY: the caller's promise.
        watch.bury(Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes())));
    }
    // SAFETY: the caller's promise, passed on.
    unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0) as c_int }
}
